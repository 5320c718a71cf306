//! `llq perplexity`: how well a model predicts a text, and how far it is from another model.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use llq_eval::{Against, Comparison, Llama, Report, evaluate};
use llq_gguf::Model;
use serde::Serialize;

use super::{
    corpus::{self, Evaluating},
    produce,
};
use crate::{
    args::{EvalArgs, HELP, mode_name},
    failure::Refusal,
    figures::Count,
    output::Output,
    table::pairs,
};

const EXAMPLES: &str = "\
Examples:
  llq perplexity model.gguf --corpus wiki.test.txt
  llq perplexity model-q4_k_m.gguf --corpus wiki.test.txt --against model.gguf
  llq perplexity model-q4_k_m.gguf --corpus wiki.test.txt --mode fast --chunks 20 --json";

/// Measure how well a model predicts a text.
///
/// The figure follows the field's convention, so that it compares with published ones: windows of
/// 512 tokens, the first token of each replaced by BOS where the vocabulary says so, only the
/// second half scored, plus or minus one standard error.
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
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let options = args.eval.options();
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
    let against = base.as_ref().map_or(Against::Nothing, Against::Model);
    let progress = Evaluating::new(output, "measuring");
    let report = evaluate(&llama, against, &corpus, &options, &progress)
        .with_context(|| format!("cannot measure {}", args.model.display()))?;
    drop(progress);
    output.result(&Measured::new(args, &report))
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
            against: args.against.as_ref().map(|path| path.display().to_string()),
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

fn compared(comparison: &Comparison) -> [(&'static str, String); 5] {
    let kld = &comparison.kld;
    [
        ("base perplexity", format!("{:.4}", comparison.base_perplexity)),
        ("change", Change::of(comparison).to_string()),
        ("KL divergence", format!("{:.6} ± {:.6} mean", kld.mean, kld.stderr)),
        ("", format!("{:.6} median, {:.6} p99, {:.6} max", kld.median, kld.p99, kld.max)),
        ("same top token", format!("{:.2} %", 100.0 * comparison.same_top)),
    ]
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
