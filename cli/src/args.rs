//! The command line: what every command shares. A command's own arguments stand in its file.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{
    Args, ColorChoice, CommandFactory, FromArgMatches, Parser, ValueEnum,
    builder::{NonEmptyStringValueParser, OsStringValueParser, TypedValueParser},
};
use llq_convert::{Endian, LoraAdapter, OnOverflow, Overrides, Requantize, Request, Split};
use llq_eval::{DEFAULT_CONTEXT, LEAST_CONTEXT, Mode, Options};
use llq_gguf::Overwrite;
use llq_quant::{
    Effort,
    mix::{ALIASES, Mix, Purity},
};

use crate::{commands::Command, failure::Refusal, output::Form, tasks};

/// Examples come before the options: most readers need only them.
pub(crate) const HELP: &str =
    "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}{all-args}{after-help}";

/// More threads than any machine has: a typing error.
const MAX_THREADS: i64 = 4096;

const EXAMPLES: &str = "\
Examples:
  llq convert Llama-2-7b-hf -o llama-2-7b.gguf
  llq quantize llama-2-7b.gguf -o llama-2-7b-q4_k_m.gguf --type q4_k
  llq perplexity llama-2-7b-q4_k_m.gguf --corpus wiki.test.txt --against llama-2-7b.gguf
  llq sweep Llama-2-7b-hf --corpus wiki.test.txt --types q8_0,q4_k_m,q3_k_m";

/// Convert LLaMA checkpoints to GGUF, quantize them, and measure what that cost.
#[derive(Parser)]
#[command(name = "llq", version)]
#[command(arg_required_else_help = true, infer_subcommands = false, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

impl Cli {
    /// Reads the command line. Help, the version and wrong usage end the process here.
    pub(crate) fn parse_command_line() -> Cli {
        let words: Vec<OsString> = std::env::args_os().collect();
        let color = color_of(&words);
        color.write_global();
        let command = tasks::by_task(Cli::command().color(color.for_clap()), EXAMPLES);
        let matches = command.get_matches_from(words);
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// What every command takes.
#[derive(Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct GlobalArgs {
    /// Threads to compute on [default: one per core]. Results do not depend on it
    #[arg(long, global = true, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_THREADS))]
    threads: Option<u32>,

    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,

    /// Show no progress, only results, notes and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,

    /// Colour: auto looks for a terminal and for NO_COLOR
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
}

impl GlobalArgs {
    pub(crate) fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Text }
    }

    /// Sets up the threads that everything is computed on.
    pub(crate) fn build_thread_pool(&self) -> anyhow::Result<()> {
        let Some(threads) = self.threads else { return Ok(()) };
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads as usize)
            .build_global()
            .with_context(|| format!("cannot start {threads} threads"))
    }
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    /// Makes it hold for all that is printed from now on.
    fn write_global(self) {
        match self {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }

    fn for_clap(self) -> ColorChoice {
        match self {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        }
    }
}

/// What `--color` says, read ahead of the real parse because the parser's own messages obey it.
/// What is wrong here, the real parse will tell.
fn color_of(words: &[OsString]) -> Color {
    let mut color = Color::Auto;
    for (index, word) in words.iter().enumerate() {
        let value = match word.to_str() {
            Some("--color") => words.get(index + 1).and_then(|value| value.to_str()),
            Some(word) => word.strip_prefix("--color="),
            None => None,
        };
        if let Some(value) = value.and_then(|value| Color::from_str(value, false).ok()) {
            color = value;
        }
    }
    color
}

/// Where a new file goes.
#[derive(Args)]
pub(crate) struct TargetArgs {
    /// The file to write, or a folder, in which its name follows from the metadata
    #[arg(long, short, value_name = "GGUF")]
    pub(crate) output: PathBuf,

    /// Replace the output where it exists
    #[arg(long)]
    force: bool,

    /// Only say what would be written
    #[arg(long)]
    dry_run: bool,

    /// Do not evaluate the quantized file on a short text. By default a file that predicts otherwise than
    /// its source is told of, with exit code 1
    #[arg(long)]
    no_check: bool,
}

/// How a file is written.
#[derive(Args)]
pub(crate) struct ResumeArgs {
    /// Go on where an interrupted run with this option stopped, with the same output and settings.
    /// Unfinished files lie in the folder .llq-NAME.resume beside the output until it is complete
    #[arg(long)]
    resume: bool,
}

/// What a run does with what an interrupted one has left, and with what it leaves itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupted {
    GoesOn,
    IsRemoved,
}

impl ResumeArgs {
    pub(crate) fn interrupted(&self) -> Interrupted {
        if self.resume { Interrupted::GoesOn } else { Interrupted::IsRemoved }
    }
}

/// Whether a file is written in the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    Real,
    Dry,
}

/// Whether a file just quantized is evaluated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    Wanted,
    Skipped,
}

impl TargetArgs {
    pub(crate) fn overwrite(&self) -> Overwrite {
        if self.force { Overwrite::Replace } else { Overwrite::Forbid }
    }

    pub(crate) fn run(&self) -> Run {
        if self.dry_run { Run::Dry } else { Run::Real }
    }

    pub(crate) fn check(&self) -> Check {
        if self.no_check { Check::Skipped } else { Check::Wanted }
    }
}

/// Metadata that the user sets.
#[derive(Args)]
pub(crate) struct MetadataArgs {
    /// A JSON file, an object of metadata to set: GGUF keys, or those of general.* without that; null
    /// removes a key
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,

    /// The model's name (general.name)
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
}

impl MetadataArgs {
    /// The file of metadata.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.metadata.as_deref()
    }

    pub(crate) fn overrides(&self) -> anyhow::Result<Overrides> {
        if let Some(path) = self.file()
            && path.to_string_lossy().trim_start().starts_with('{')
            && !path.exists()
        {
            return Err(Refusal::new("--metadata takes a file, not JSON itself")
                .hint("write the JSON to a file and name that")
                .into());
        }
        let file = self.metadata.as_deref().map(Overrides::read).transpose()?;
        Ok(file.unwrap_or_default().with_name(self.name.clone()))
    }
}

/// Adapters to merge into a checkpoint.
#[derive(Args)]
pub(crate) struct LoraArgs {
    /// Merge this LoRA adapter (a folder that PEFT saved) into the checkpoint, its change multiplied
    /// by SCALE [default: 1]; may be given again
    #[arg(long = "lora", value_name = "FOLDER[=SCALE]")]
    #[arg(value_parser = OsStringValueParser::new().try_map(parse_lora))]
    lora: Vec<LoraAdapter>,
}

impl LoraArgs {
    pub(crate) fn adapters(&self) -> Vec<LoraAdapter> {
        self.lora.clone()
    }
}

/// What follows the last `=` is the scale if it is a number; otherwise all is the folder, unless
/// only what stands before is one.
fn parse_lora(text: OsString) -> Result<LoraAdapter, String> {
    let split = text.to_str().and_then(|text| {
        let (folder, scale) = text.rsplit_once('=')?;
        let scale: f64 = scale.parse().ok()?;
        scale.is_finite().then(|| LoraAdapter { folder: folder.into(), scale })
    });
    let folder = PathBuf::from(text);
    if split.is_none()
        && !folder.exists()
        && let Some((before, scale)) = folder.to_str().and_then(|text| text.rsplit_once('='))
        && Path::new(before).is_dir()
    {
        return Err(format!("the scale of {before} is {scale:?}, expected a finite number"));
    }
    Ok(split.unwrap_or(LoraAdapter { folder, scale: 1.0 }))
}

/// What the written files are like, whatever their types.
#[derive(Args)]
pub(crate) struct FormArgs {
    /// What to do with weights that are too large for their new type; keep-bf16 makes BF16 of a
    /// tensor that does not fit F16
    #[arg(long, value_name = "POLICY", default_value = "error")]
    on_overflow: OnOverflowArg,

    /// Byte order of the output
    #[arg(long, value_name = "ORDER", default_value = "little")]
    endian: EndianArg,

    /// Split the output into files of at most this size, such as 2G or 500M, powers of 1000
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    split_max_size: Option<u64>,

    /// Split the output into files of at most this many tensors
    #[arg(long, value_name = "N", conflicts_with = "split_max_size")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    split_max_tensors: Option<u32>,

    /// Decode and encode again what is quantized already, though each encoding loses something
    #[arg(long)]
    allow_requantize: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnOverflowArg {
    Error,
    Clamp,
    KeepBf16,
}

#[derive(Clone, Copy, ValueEnum)]
enum EndianArg {
    Little,
    Big,
}

impl FormArgs {
    /// A request for these types in this form.
    pub(crate) fn request(&self, output: llq_convert::Output) -> Request {
        Request {
            output,
            requantize: match self.allow_requantize {
                true => Requantize::Allow,
                false => Requantize::Refuse,
            },
            on_overflow: match self.on_overflow {
                OnOverflowArg::Error => OnOverflow::Error,
                OnOverflowArg::Clamp => OnOverflow::Clamp,
                OnOverflowArg::KeepBf16 => OnOverflow::KeepBf16,
            },
            endian: match self.endian {
                EndianArg::Little => Endian::Little,
                EndianArg::Big => Endian::Big,
            },
            split: match (self.split_max_size, self.split_max_tensors) {
                (Some(bytes), _) => Split::Bytes(bytes),
                (None, Some(tensors)) => Split::Tensors(tensors.into()),
                (None, None) => Split::Never,
            },
            ..Request::default()
        }
    }
}

/// A size in bytes: digits, and K, M or G for powers of 1000.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(end) => text.split_at(end),
        None => (text, ""),
    };
    let factor = match unit.to_ascii_uppercase().as_str() {
        "" => 1,
        "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err("a number with K, M, G or nothing behind it".to_owned()),
    };
    let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    size.filter(|&size| size > 0).ok_or_else(|| "a size from 1 to 18446744073 G".to_owned())
}

/// Whether the rules of a mix apply.
#[derive(Args)]
pub(crate) struct PurityArgs {
    /// Give every matrix the base type, without the mix's exceptions
    #[arg(long)]
    pure: bool,
}

impl PurityArgs {
    pub(crate) fn purity(&self) -> Purity {
        if self.pure { Purity::Pure } else { Purity::Mixed }
    }
}

/// The text that a model runs over.
#[derive(Args)]
pub(crate) struct TextArgs {
    /// The text to predict, UTF-8: a .txt, .jsonl or .json file, any of these as .gz or .zst, or a
    /// folder of them. Documents are joined by a blank line
    #[arg(long, value_name = "TEXT")]
    pub(crate) corpus: PathBuf,

    #[command(flatten)]
    pub(crate) windows: WindowArgs,
}

/// What is taken of a text.
#[derive(Args, Clone)]
pub(crate) struct WindowArgs {
    /// The field that holds the text in JSON; a.b is field b of the object a
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub(crate) field: String,

    /// Tokens per window
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CONTEXT as u32)]
    #[arg(value_parser = clap::value_parser!(u32).range(LEAST_CONTEXT as i64..=1 << 20))]
    ctx: u32,

    /// Windows at most [default: all that the text fills]; no more text is read than they take
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
}

impl TextArgs {
    /// The windows of the text, in [`Mode::Exact`].
    pub(crate) fn options(&self) -> Options {
        let WindowArgs { ctx, chunks, .. } = self.windows;
        Options {
            mode: Mode::Exact,
            context: ctx as usize,
            chunks: chunks.map(|chunks| chunks as usize),
        }
    }
}

/// How long encoders search.
#[derive(Args)]
pub(crate) struct EffortArgs {
    /// How long to search for the scales with the least error; best takes several times as long
    #[arg(long, value_enum, value_name = "EFFORT", default_value = "default")]
    effort: EffortArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum EffortArg {
    /// Legacy types as the reference encodes them
    Fast,
    /// Scales of all types are searched
    Default,
    /// More starts, and more steps from each
    Best,
}

impl EffortArgs {
    pub(crate) fn effort(&self) -> Effort {
        match self.effort {
            EffortArg::Fast => Effort::Fast,
            EffortArg::Default => Effort::Default,
            EffortArg::Best => Effort::Best,
        }
    }
}

/// What a model is measured on, and how.
#[derive(Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) text: TextArgs,

    /// How products are computed
    #[arg(long, value_enum, default_value = "exact")]
    mode: ModeArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeArg {
    /// Weights decoded to f32: what a format is judged by
    Exact,
    /// Weights as they are against 8-bit activations
    Fast,
}

impl EvalArgs {
    pub(crate) fn options(&self) -> Options {
        let mode = match self.mode {
            ModeArg::Exact => Mode::Exact,
            ModeArg::Fast => Mode::Fast,
        };
        Options { mode, ..self.text.options() }
    }
}

/// What `--mode` calls it.
pub(crate) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Exact => "exact",
        Mode::Fast => "fast",
    }
}

/// A value of `--type`.
pub(crate) fn parse_mix(name: &str) -> Result<Mix, String> {
    Mix::from_name(name).ok_or_else(|| format!("llq has no such type; it has {}", mix_names()))
}

fn mix_names() -> String {
    Mix::ALL.iter().map(|mix| mix.name().to_lowercase()).collect::<Vec<_>>().join(", ")
}

/// What `--type` takes, for the foot of a help page.
pub(crate) fn types_help() -> String {
    let aliases = ALIASES.iter().map(|(alias, mix)| {
        format!("{} means {}", alias.to_lowercase(), mix.name().to_lowercase())
    });
    let aliases = aliases.collect::<Vec<_>>().join(", ");
    format!(
        "Types: {}.\n{aliases}. Case does not matter, nor - for _. See llq formats.",
        mix_names()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1000() {
        assert_eq!(parse_size("2G"), Ok(2_000_000_000));
        assert_eq!(parse_size("500m"), Ok(500_000_000));
        assert_eq!(parse_size("17"), Ok(17));
        for bad in ["", "G", "0", "1.5G", "-1", "2T", "99999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
