//! `llq perplexity`: how well a model predicts a text, and how far it is from another model.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use llq_eval::{Against, Comparison, Llama, LogitsFile, Options, Report, evaluate, save_logits};
use llq_gguf::{Model, Overwrite};
use serde::Serialize;

use super::{
    corpus::{self, Evaluating},
    produce,
};
use crate::{
    args::{EvalArgs, HELP, mode_name},
    failure::Refusal,
    figures::Count,
    new_file::NewFile,
    output::Output,
    table::pairs,
    target::Target,
};

const EXAMPLES: &str = "\
Examples:
  llq perplexity model.gguf --corpus wiki.test.txt
  llq perplexity model-q4_k_m.gguf --corpus wiki.test.txt --against model.gguf
  llq perplexity model-q4_k_m.gguf --corpus wiki.test.txt --mode fast --chunks 20 --json
  llq perplexity model.gguf --corpus wiki.test.txt --save-logits model.logits
  llq perplexity model-q4_k_m.gguf --corpus wiki.test.txt --against-logits model.logits";

/// Measure how well a model predicts a text.
///
/// The figure follows the field's convention, so that it compares with published ones: windows of
/// 512 tokens, the first token of each replaced by BOS where the vocabulary says so, only the
/// second half scored, plus or minus one standard error.
///
/// Against a base model, errors are those of paired differences: both models see the same tokens. Beside
/// the models it takes 40 bytes of memory per scored token.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// The GGUF file
    model: PathBuf,

    #[command(flatten)]
    eval: EvalArgs,

    /// Also compare every prediction with that of this model: KL divergence, same top token
    #[arg(long, value_name = "BASE")]
    against: Option<PathBuf>,

    /// The same with what the base model predicted, from a file of logits by --save-logits or by
    /// llama.cpp. It keeps 16 bits of each log-probability and cuts them 16 below the largest, so the
    /// base's perplexity comes out somewhat low
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    against_logits: Option<PathBuf>,

    /// Write a file of logits in llama.cpp's form: 2 bytes per token of the vocabulary and scored token
    #[arg(long, value_name = "FILE", conflicts_with_all = ["against", "against_logits"])]
    save_logits: Option<PathBuf>,

    /// Replace the file of logits where it exists
    #[arg(long, requires = "save_logits")]
    force: bool,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let logits = args.against_logits.as_deref().map(LogitsFile::open).transpose()?;
    let options = options(args, logits.as_ref())?;
    let target = args.save_logits.as_deref().map(|path| {
        let overwrite = if args.force { Overwrite::Replace } else { Overwrite::Forbid };
        Target::beside(path, overwrite, &[&args.model, &args.eval.text.corpus])
    });
    let target = target.transpose()?;
    let model = open(&args.model)?;
    let llama = load(&model)?;
    let base_model = args.against.as_deref().map(open).transpose()?;
    let base = base_model.as_ref().map(load).transpose()?;
    let mut text = corpus::open(&args.eval.text, output)?;
    let corpus = corpus::tokenize(&mut text, &options, &model, output)?;
    corpus::check_length(&args.eval.text.corpus, &corpus, &options)?;
    if let Some(base) = &base_model {
        corpus::check_same_tokens(&model, base, &corpus)?;
    }

    corpus::note_long_windows(&llama, &options, output);
    let against = match (&base, &logits) {
        (Some(base), _) => Against::Model(base),
        (None, Some(logits)) => Against::Logits(logits),
        (None, None) => Against::Nothing,
    };
    let progress = Evaluating::new(output, "measuring");
    let failed = || format!("cannot measure {}", args.model.display());
    let report = match target {
        None => evaluate(&llama, against, &corpus, &options, &progress).with_context(failed)?,
        Some(target) => {
            let mut file = NewFile::create(target)?;
            let report = save_logits(&llama, &corpus, &options, &mut file, &progress);
            let report = report.with_context(failed)?;
            file.publish()?;
            report
        }
    };
    drop(progress);
    output.result(&Measured::new(args, &report))
}

/// What to evaluate; with a file of logits, no more windows than it has.
fn options(args: &Args, logits: Option<&LogitsFile>) -> Result<Options, Refusal> {
    let mut options = args.eval.options();
    let Some(logits) = logits else { return Ok(options) };
    let context = logits.context();
    if options.context != context {
        let path = logits.path().display();
        return Err(Refusal::new(format!("{path} has windows of {context} tokens"))
            .hint(format!("give --ctx {context}")));
    }
    options.chunks = Some(options.chunks.unwrap_or(usize::MAX).min(logits.windows()));
    Ok(options)
}

pub(super) fn open(path: &Path) -> anyhow::Result<Model> {
    let shown = path.display();
    produce::refuse_adapter(path)?;
    if path.is_dir() {
        return Err(Refusal::new(format!("{shown} is a folder; a GGUF file is wanted"))
            .hint(format!("llq convert {shown} -o model.gguf"))
            .into());
    }
    Ok(Model::open(path)?)
}

pub(super) fn load(model: &Model) -> anyhow::Result<Llama<'_>> {
    if model.metadata().string("general.type").is_ok_and(|kind| kind == "adapter") {
        return Err(produce::no_model(model.path()).into());
    }
    Llama::load(model).with_context(|| format!("cannot evaluate {}", model.path().display()))
}

/// What is printed.
#[derive(Serialize)]
struct Measured<'a> {
    model: String,
    corpus: String,
    against: Option<String>,
    #[serde(flatten)]
    report: &'a Report,
}

impl<'a> Measured<'a> {
    fn new(args: &Args, report: &'a Report) -> Measured<'a> {
        Measured {
            model: args.model.display().to_string(),
            corpus: args.eval.text.corpus.display().to_string(),
            against: args
                .against
                .as_ref()
                .or(args.against_logits.as_ref())
                .map(|path| path.display().to_string()),
            report,
        }
    }
}

impl fmt::Display for Measured<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { perplexity, stderr, mode, .. } = *self.report;
        let [chunks, context, tokens] =
            [self.report.chunks, self.report.context, self.report.tokens].map(|n| Count(n as u64));
        let mut lines = vec![
            ("perplexity", format!("{perplexity:.4} ± {stderr:.4}")),
            ("mode", mode_name(mode).to_owned()),
            ("scored", format!("{tokens} tokens")),
            ("windows", format!("{chunks} of {context} tokens")),
        ];
        if let Some(comparison) = &self.report.against {
            lines.extend(compared(comparison));
        }
        f.write_str(&pairs(&lines))
    }
}

fn compared(comparison: &Comparison) -> [(&'static str, String); 9] {
    let Comparison { ratio, ratio_stderr, ln_ratio, ln_ratio_stderr, kld, delta_p, .. } =
        comparison;
    let percent = |fraction: f64| 100.0 * fraction;
    // What rounds to zero has no sign to tell.
    let signed = |value: f64, label: &str| {
        format!("{:+.2} {label}", (100.0 * percent(value)).round() / 100.0 + 0.0)
    };
    let list = |values: &[String]| values.join(", ");
    [
        ("base perplexity", pm(comparison.base_perplexity, comparison.base_stderr, 4)),
        ("change", Change::of(comparison).to_string()),
        (
            "ratio",
            format!("{}, ln {}", pm(*ratio, *ratio_stderr, 5), pm(*ln_ratio, *ln_ratio_stderr, 5)),
        ),
        (
            "KL divergence",
            format!("{} mean, {:.6} median", pm(kld.mean, kld.stderr, 6), kld.median),
        ),
        (
            "",
            list(&[
                format!("{:.6} p90", kld.p90),
                format!("{:.6} p95", kld.p95),
                format!("{:.6} p99", kld.p99),
                format!("{:.6} p99.9", kld.p99_9),
                format!("{:.6} max", kld.max),
            ]),
        ),
        (
            "same top token",
            format!(
                "{} %",
                pm(percent(comparison.same_top), percent(comparison.same_top_stderr), 2)
            ),
        ),
        (
            "true token",
            format!(
                "{:+.3} ± {:.3} % mean, {} % RMS change of its probability",
                percent(delta_p.mean),
                percent(delta_p.stderr),
                pm(percent(delta_p.rms), percent(delta_p.rms_stderr), 3),
            ),
        ),
        (
            "",
            list(&[
                signed(delta_p.min, "min"),
                signed(delta_p.p1, "p1"),
                signed(delta_p.p5, "p5"),
                signed(delta_p.median, "median"),
                signed(delta_p.p95, "p95"),
                signed(delta_p.p99, "p99"),
                signed(delta_p.max, "max"),
            ]),
        ),
        (
            "correlation",
            format!("{:.2} % of the tokens' log-likelihoods", percent(comparison.correlation)),
        ),
    ]
}

/// A value and its standard error.
fn pm(value: f64, stderr: f64, decimals: usize) -> String {
    format!("{value:.decimals$} ± {stderr:.decimals$}")
}

/// Growth of the perplexity over the base model's, in percent. Both models saw the same tokens, so
/// its error is far below that of either perplexity.
pub(super) struct Change {
    pub(super) percent: f64,
    pub(super) stderr: f64,
}

impl Change {
    pub(super) fn of(comparison: &Comparison) -> Change {
        let ratio = comparison.ln_ratio.exp();
        Change {
            percent: 100.0 * comparison.ln_ratio.exp_m1(),
            stderr: 100.0 * ratio * comparison.ln_ratio_stderr,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+.3} ± {:.3} %", self.percent, self.stderr)
    }
}
