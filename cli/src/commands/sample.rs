//! `llq sample`: text that a model writes itself, to calibrate with.

use std::{
    fmt::{self, Write},
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use llq_eval::{
    DEFAULT_CONTEXT, Llama, Options, Sampling, SamplingProgress, Sequence, Tokenizer, sample,
};
use llq_gguf::Overwrite;
use serde::Serialize;

use super::{corpus, perplexity};
use crate::{
    args::{HELP, parse_size},
    corpus::BLANK_LINE,
    escape::{Escaped, EscapedLines},
    failure::Refusal,
    figures::{Count, Seconds},
    new_file::NewFile,
    output::{Form, Output},
    progress::{Progress, Unit},
    target::Target,
};

const EXAMPLES: &str = "\
Examples:
  llq sample model.gguf --tokens 65536 -o own.txt
  llq quantize model.gguf -o model-q4_k_m.gguf --type q4_k --calibrate own.txt
  llq sample model.gguf --tokens 200 --seed 7";

/// Let a model write text, to calibrate with where there is no text of one's own.
///
/// Each sequence starts with the token that the vocabulary puts before a text (BOS, or EOS; where it
/// names neither, any token), and goes on token by token, each drawn from all that the model holds
/// possible, until the model ends it or --ctx is reached. MODEL should be unquantized. The text is the
/// same for any number of threads, and that of fewer tokens is the start of that of more.
///
/// Sequences are separated by a blank line. Bytes that are no UTF-8 are left out.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// The GGUF file
    model: PathBuf,

    /// Tokens to draw in all; --calibrate takes up to 65,536
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,

    /// Another number, another text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// What logits are divided by before a token is drawn: below 1 the text is more usual than the model
    /// holds likely, above 1 less
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = parse_temperature)]
    temperature: f64,

    /// Tokens of a sequence at the most, with the one that it starts with
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CONTEXT as u32)]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=1 << 20))]
    ctx: u32,

    /// Memory for keys and values, such as 8G or 500M, powers of 1000 [default: 1 GiB]. With more, more
    /// sequences run side by side, which is faster; the text stays the same
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    cache: Option<u64>,

    /// The file to write instead of standard output; one that ends in .jsonl gets a line
    /// {"text": …} for each sequence
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace the output where it exists
    #[arg(long, requires = "output")]
    force: bool,
}

fn parse_temperature(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok();
    let usable = |number: &f64| (1e-3..=1e3).contains(number);
    number.filter(usable).ok_or_else(|| "a number from 0.001 to 1000".to_owned())
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let target = args.output.as_deref().map(|path| {
        let overwrite = if args.force { Overwrite::Replace } else { Overwrite::Forbid };
        anyhow::Ok((TextForm::of(path)?, Target::check(path, overwrite, &args.model)?))
    });
    let target = target.transpose()?;
    let model = perplexity::open(&args.model)?;
    let llama = perplexity::load(&model)?;
    let tokenizer = Tokenizer::from_metadata(model.metadata())
        .with_context(|| format!("{}: no usable tokenizer", args.model.display()))?;
    let options = args.sampling();
    let context = Options { context: options.context, ..Options::default() };
    corpus::note_long_windows(&llama, &context, output);
    note_few_side_by_side(&llama, &options, output);

    let started = Instant::now();
    let progress = Drawing(output.progress("sampling", args.tokens.into(), Unit::Tokens));
    let sequences = sample(&llama, &tokenizer, &options, &progress)
        .with_context(|| format!("cannot sample from {}", args.model.display()))?;
    drop(progress);
    let mut sampled = Sampled::new(args, &sequences, started.elapsed());
    let texts = texts(&tokenizer, &sequences);
    match (target, output.form()) {
        (Some((form, target)), _) => NewFile::write(target, &form.written(&texts)?)?,
        (None, Form::Text) => print(&texts, output)?,
        (None, Form::Json) => sampled.texts = Some(texts),
    }
    if output.form() == Form::Json {
        output.json(&sampled)?;
    }
    output.done(&sampled);
    Ok(())
}

/// What the sequences say, where they say anything.
fn texts(tokenizer: &Tokenizer, sequences: &[Sequence]) -> Vec<String> {
    let text = |sequence: &Sequence| -> String {
        tokenizer.decode(&sequence.tokens).utf8_chunks().map(|chunk| chunk.valid()).collect()
    };
    sequences.iter().map(text).filter(|text| !text.is_empty()).collect()
}

/// Text to standard output. A terminal is not to act on it.
fn print(texts: &[String], output: &Output) -> anyhow::Result<()> {
    let text = TextForm::Plain.written(texts)?;
    let is_shown = io::stdout().is_terminal();
    output.data(&if is_shown { EscapedLines(&text).to_string() } else { text })
}

/// Says so where products are by fewer tokens than they take at once.
fn note_few_side_by_side(llama: &Llama<'_>, options: &Sampling, output: &Output) {
    /// Tokens by which matrices are multiplied together.
    const TOGETHER: usize = 12;
    let sizes = llama.hyperparameters();
    let wanted = TOGETHER.min(options.tokens.div_ceil(options.context));
    if let (Ok(fitting), Some(bytes)) = (options.side_by_side(sizes), options.sequence_bytes(sizes))
        && fitting < wanted
    {
        let megabytes = bytes.saturating_mul(wanted as u64).div_ceil(1_000_000);
        output.note(&format_args!(
            "--cache has room for {fitting} at a time; {megabytes}M has for {wanted}, which is faster"
        ));
    }
}

impl Args {
    fn sampling(&self) -> Sampling {
        let usual = Sampling::default();
        Sampling {
            tokens: self.tokens as usize,
            seed: self.seed,
            temperature: self.temperature,
            context: self.ctx as usize,
            cache_bytes: self.cache.unwrap_or(usual.cache_bytes),
        }
    }
}

/// Shows tokens as they are drawn.
struct Drawing<'a>(Progress<'a>);

impl SamplingProgress for Drawing<'_> {
    fn drawn(&self, tokens: usize) {
        self.0.advance(tokens as u64);
    }
}

/// How a file keeps sequences apart, so that it is read as a corpus of the same text.
#[derive(Clone, Copy)]
enum TextForm {
    /// By a blank line.
    Plain,
    JsonLines,
}

impl TextForm {
    /// By the ending of its name; those of other forms of corpora are refused.
    fn of(path: &Path) -> Result<TextForm, Refusal> {
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match &ending[..] {
            "jsonl" | "ndjson" => Ok(TextForm::JsonLines),
            "json" | "parquet" | "gz" | "zst" | "zstd" | "gguf" => {
                let message = format!("{}: text is not written as .{ending}", path.display());
                Err(Refusal::new(message).hint("give a name that ends in .txt or .jsonl"))
            }
            _ => Ok(TextForm::Plain),
        }
    }

    fn written(self, texts: &[String]) -> anyhow::Result<String> {
        #[derive(Serialize)]
        struct Line<'a> {
            text: &'a str,
        }
        let mut written = String::new();
        match self {
            TextForm::Plain => {
                written.push_str(&texts.join(BLANK_LINE));
                written.push('\n');
            }
            TextForm::JsonLines => {
                for text in texts {
                    writeln!(written, "{}", serde_json::to_string(&Line { text })?)?;
                }
            }
        }
        Ok(written)
    }
}

/// What was sampled.
#[derive(Serialize)]
struct Sampled {
    output: Option<String>,
    tokens: u32,
    sequences: usize,
    /// Of these, by the model itself.
    ended: usize,
    seed: u64,
    temperature: f64,
    context: u32,
    seconds: f64,
    /// Where no file has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    texts: Option<Vec<String>>,
}

impl Sampled {
    fn new(args: &Args, sequences: &[Sequence], elapsed: Duration) -> Sampled {
        Sampled {
            output: args.output.as_ref().map(|path| path.display().to_string()),
            tokens: args.tokens,
            sequences: sequences.len(),
            ended: sequences.iter().filter(|sequence| sequence.is_ended).count(),
            seed: args.seed,
            temperature: args.temperature,
            context: args.ctx,
            seconds: elapsed.as_secs_f64(),
            texts: None,
        }
    }
}

impl fmt::Display for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(output) = &self.output {
            write!(f, "{}: ", Escaped(output))?;
        }
        let [tokens, sequences, ended] =
            [self.tokens.into(), self.sequences as u64, self.ended as u64].map(Count);
        let rate = Count((f64::from(self.tokens) / self.seconds.max(1e-3)) as u64);
        let elapsed = Seconds(Duration::from_secs_f64(self.seconds));
        write!(
            f,
            "{tokens} tokens, sequences: {sequences}, ended by the model: {ended}, \
             {rate} tokens/s, {elapsed}"
        )
    }
}
