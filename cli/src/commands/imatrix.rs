//! `llq imatrix`: how much each input channel of a model's matrices carries on a text.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context;
use clap::ValueEnum;
use llq_convert::{Entry, EntryStatistics, Imatrix, ImatrixFormat, Overwrite};
use llq_eval::{Importance, Matrices, Mode, importance};
use llq_gguf::Model;
use llq_quant::mix::Mix;
use serde::Serialize;

use super::{
    corpus::{self, Evaluating},
    perplexity,
};
use crate::{
    args::{HELP, TextArgs, WindowArgs, mode_name},
    escape::Escaped,
    figures::{Count, Seconds},
    output::{Form, Output},
    table::{Column, Columns, pairs},
    target::Target,
    type_args::read_imatrix,
};

const EXAMPLES: &str = "\
Examples:
  llq imatrix model.gguf --corpus calibration.txt -o model.imatrix.gguf
  llq imatrix --merge english.gguf code.gguf -o both.gguf
  llq imatrix --show model.imatrix.gguf
  llq quantize model.gguf -o model-q4_k_m.gguf --type q4_k --imatrix model.imatrix.gguf";

const USAGE: &str = "\
llq imatrix --corpus <TEXT> --output <FILE> <MODEL>
       llq imatrix --merge <FILES>... --output <FILE>
       llq imatrix --show <FILE>";

/// Collect how much each input channel of a model's matrices carries on a text.
///
/// Quantizing with --imatrix then has its errors where they matter least. MODEL should be
/// unquantized; every token of every window counts. The file is of the form that llama.cpp's tools
/// read and write, and so are those that --merge and --show take.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES, override_usage = USAGE)]
#[command(mut_arg("field", |field| field.conflicts_with_all(["merge", "show"])))]
#[command(mut_arg("ctx", |ctx| ctx.conflicts_with_all(["merge", "show"])))]
#[command(mut_arg("chunks", |chunks| chunks.conflicts_with_all(["merge", "show"])))]
pub(crate) struct Args {
    /// The GGUF file
    #[arg(required_unless_present_any = ["merge", "show"], requires = "corpus")]
    model: Option<PathBuf>,

    /// The text to run over, UTF-8: a .txt, .jsonl or .json file, any of these as .gz or .zst, or a folder of
    /// them. Documents are joined by a blank line
    #[arg(long, value_name = "TEXT", requires = "model")]
    corpus: Option<PathBuf>,

    #[command(flatten)]
    windows: WindowArgs,

    /// Also look at the output matrix
    #[arg(long, requires = "model")]
    process_output: bool,

    /// Add up these files in place of running a model
    #[arg(long, value_name = "FILES", num_args = 1..)]
    #[arg(conflicts_with_all = ["model", "corpus"])]
    merge: Vec<PathBuf>,

    /// Print what this file says of each tensor
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["model", "corpus", "merge", "output"])]
    show: Option<PathBuf>,

    /// The file to write
    #[arg(long, short, value_name = "FILE", required_unless_present = "show")]
    output: Option<PathBuf>,

    /// The form of the file; dat is the older one
    #[arg(long, value_name = "FORM", default_value = "gguf")]
    format: FormatArg,

    /// Replace the output where it exists
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    Gguf,
    Dat,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    if let Some(path) = &args.show {
        return output.result(&Shown::of(path, &read_imatrix(path, output)?));
    }
    let (Some(target), started) = (&args.output, Instant::now()) else { return Ok(()) };
    let overwrite = if args.force { Overwrite::Replace } else { Overwrite::Forbid };
    for input in args.merge.iter().chain(&args.model).chain(&args.corpus) {
        Target::check(target, overwrite, input)?;
    }
    let imatrix = match (&args.model, &args.corpus) {
        (Some(model), Some(corpus)) => {
            let text = TextArgs { corpus: corpus.clone(), windows: args.windows.clone() };
            collect(model, &text, matrices(args), output)?
        }
        _ => merged(&args.merge, output)?,
    };
    let format = match args.format {
        FormatArg::Gguf => ImatrixFormat::Gguf,
        FormatArg::Dat => ImatrixFormat::Dat,
    };
    imatrix
        .write(target, format, overwrite)
        .with_context(|| format!("cannot write {}", target.display()))?;
    let written = Written::new(target, &imatrix, args, started);
    output.done(&written);
    match output.form() {
        Form::Json => output.json(&written),
        Form::Text => Ok(()),
    }
}

fn matrices(args: &Args) -> Matrices {
    if args.process_output { Matrices::BlocksAndOutput } else { Matrices::Blocks }
}

fn merged(files: &[PathBuf], output: &Output) -> anyhow::Result<Imatrix> {
    let mut all: Option<Imatrix> = None;
    for path in files {
        let imatrix = read_imatrix(path, output)?;
        match &mut all {
            None => all = Some(imatrix),
            Some(all) => {
                let failed = || format!("{} does not fit the files before it", path.display());
                all.merge(&imatrix).with_context(failed)?;
            }
        }
    }
    Ok(all.unwrap_or_default())
}

fn collect(
    path: &Path,
    args: &TextArgs,
    matrices: Matrices,
    output: &Output,
) -> anyhow::Result<Imatrix> {
    let options = args.options();
    let model = perplexity::open(path)?;
    let llama = perplexity::load(&model)?;
    note_quantized(&model, output);
    let mut text = corpus::open(args, output)?;
    let corpus = corpus::tokenize(&mut text, &options, &model, output)?;
    corpus::check_length(&args.corpus, &corpus, &options)?;
    corpus::note_long_windows(&llama, &options, output);
    let progress = Evaluating::new(output, "collecting");
    let found = importance(&llama, &corpus, options.context, options.chunks, matrices, &progress)
        .with_context(|| format!("cannot run {}", path.display()))?;
    imatrix_of(found, &args.corpus)
}

fn note_quantized(model: &Model, output: &Output) {
    let file_type = model.metadata().count("general.file_type").ok();
    let mix = file_type.and_then(|id| Mix::from_file_type(u32::try_from(id).ok()?));
    if let Some(mix) = mix.filter(|mix| mix.base().block_weights() > 1) {
        output.note(&format_args!(
            "the model is {mix}: what its matrices are multiplied by has that type's errors in it"
        ));
    }
}

fn imatrix_of(found: Importance, corpus: &Path) -> anyhow::Result<Imatrix> {
    let dataset = corpus.file_name().unwrap_or(corpus.as_os_str()).to_string_lossy();
    let (chunks, tokens) = (u32::try_from(found.windows)?, u32::try_from(found.context)?);
    let mut imatrix = Imatrix::new(vec![dataset.into_owned()], chunks, tokens);
    for channels in found.tensors {
        let sums = channels.squares.into_iter().map(|sum| sum as f32).collect();
        let entry = Entry::new(&channels.tensor, sums, vec![channels.tokens as f32])?;
        imatrix.add(&channels.tensor, entry)?;
    }
    Ok(imatrix)
}

/// What was written.
#[derive(Serialize)]
struct Written<'a> {
    output: String,
    tensors: usize,
    chunks: u32,
    chunk_tokens: u32,
    /// How products were computed, where a model ran.
    mode: Option<&'static str>,
    datasets: &'a [String],
    seconds: f64,
    #[serde(skip)]
    started: Instant,
}

impl<'a> Written<'a> {
    fn new(target: &Path, imatrix: &'a Imatrix, args: &Args, started: Instant) -> Written<'a> {
        Written {
            output: target.display().to_string(),
            tensors: imatrix.entries().len(),
            chunks: imatrix.chunks,
            chunk_tokens: imatrix.chunk_tokens,
            mode: args.model.is_some().then(|| mode_name(Mode::Exact)),
            datasets: &imatrix.datasets,
            seconds: started.elapsed().as_secs_f64(),
            started,
        }
    }
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tensors = Count(self.tensors as u64);
        let chunks = Count(self.chunks.into());
        let tokens = Count(self.chunk_tokens.into());
        let output = Escaped(&self.output);
        write!(f, "{output}: {tensors} tensors, {chunks} windows of {tokens} tokens")?;
        if let Some(mode) = self.mode {
            write!(f, ", {mode} products")?;
        }
        write!(f, ", {}", Seconds(self.started.elapsed()))
    }
}

/// What a file says.
#[derive(Serialize)]
struct Shown<'a> {
    file: String,
    datasets: &'a [String],
    chunks: u32,
    chunk_tokens: u32,
    tensors: Vec<ShownTensor<'a>>,
}

#[derive(Serialize)]
struct ShownTensor<'a> {
    name: &'a str,
    /// Of each of the stacked matrices.
    channels: usize,
    matrices: usize,
    /// Stacked matrices that no token has reached.
    unseen: usize,
    tokens: f64,
    sum: f64,
    max_over_mean: f64,
    evenness: f64,
    top_percent_share: f64,
}

impl<'a> Shown<'a> {
    fn of(path: &Path, imatrix: &'a Imatrix) -> Shown<'a> {
        Shown {
            file: path.display().to_string(),
            datasets: &imatrix.datasets,
            chunks: imatrix.chunks,
            chunk_tokens: imatrix.chunk_tokens,
            tensors: imatrix.entries().map(ShownTensor::new).collect(),
        }
    }
}

impl<'a> ShownTensor<'a> {
    fn new((name, entry): (&'a str, &'a Entry)) -> ShownTensor<'a> {
        let EntryStatistics { sum, max_over_mean, evenness, top_share } = entry.statistics();
        ShownTensor {
            name,
            channels: entry.columns() / entry.matrices(),
            matrices: entry.matrices(),
            unseen: entry.unseen(),
            tokens: entry.tokens(),
            sum,
            max_over_mean,
            evenness,
            top_percent_share: top_share,
        }
    }

    fn cells(&self) -> Vec<String> {
        let matrices = match self.unseen {
            0 => self.matrices.to_string(),
            unseen => format!("{}, {unseen} unseen", self.matrices),
        };
        vec![
            Escaped(self.name).to_string(),
            Count(self.channels as u64).to_string(),
            matrices,
            Count(self.tokens as u64).to_string(),
            format!("{:.4}", self.sum),
            format!("{:.1}", self.max_over_mean),
            format!("{:.1} %", 100.0 * self.evenness),
            format!("{:.1} %", 100.0 * self.top_percent_share),
        ]
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> =
            self.datasets.iter().map(|name| Escaped(name).to_string()).collect();
        let windows = format!("{} of {} tokens", Count(self.chunks.into()), self.chunk_tokens);
        f.write_str(&pairs(&[("texts", texts.join(", ")), ("windows", windows)]))?;
        let columns = [
            Column::left("tensor"),
            Column::right("channels"),
            Column::right("matrices"),
            Column::right("tokens"),
            Column::right("mean x²"),
            Column::right("max/mean"),
            Column::right("evenness"),
            Column::right("top 1 %"),
        ];
        let rows: Vec<Vec<String>> = self.tensors.iter().map(ShownTensor::cells).collect();
        write!(f, "\n{}", Columns::new(columns).table(&rows))
    }
}
