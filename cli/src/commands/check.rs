//! A quick look at a file just made: whether it still predicts a short text as its source does.

use std::{fmt, path::Path};

use anyhow::Context;
use llq_eval::{Against, Corpus, Error, Llama, Mode, Options, Report, Tokenizer, evaluate};
use llq_gguf::Model;
use serde::Serialize;

use super::corpus::Evaluating;
use crate::{escape::Escaped, figures::bits_per_weight, output::Output};

/// Openings of four novels (Melville, Dickens, Carroll, Austen), some 700 tokens.
const TEXT: &str = include_str!("check.txt");

/// Products of a weight and a token that are worth a look: some seconds on two cores.
const PRODUCTS: u64 = 100_000_000_000;

/// Fewer tokens tell nothing, whatever the model's size.
const LEAST_TOKENS: usize = 24;

/// Longer windows would score fewer of the tokens.
const WINDOW: usize = 128;

/// What came of it.
#[derive(Serialize)]
#[serde(tag = "found", rename_all = "snake_case")]
pub(super) enum Checked {
    /// Compared with the source: mean KL divergence, and what no sound file of its size has.
    Divergence { tokens: usize, kld: f64, limit: f64 },
    /// By itself.
    Perplexity { tokens: usize, perplexity: f64, limit: f64 },
    /// A prediction is NaN or infinite.
    NotFinite,
}

impl Checked {
    fn of(report: &Report, bits_per_weight: f64, vocabulary_size: usize) -> Checked {
        let tokens = report.tokens;
        match &report.against {
            Some(comparison) => Checked::Divergence {
                tokens,
                kld: comparison.kld.mean,
                limit: divergence_limit(bits_per_weight),
            },
            // What guessing has.
            None => Checked::Perplexity {
                tokens,
                perplexity: report.perplexity,
                limit: vocabulary_size as f64,
            },
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        match self {
            Checked::Divergence { kld: found, limit, .. }
            | Checked::Perplexity { perplexity: found, limit, .. } => found > limit,
            Checked::NotFinite => true,
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Checked::Divergence { tokens, kld, limit } => {
                write!(f, "KL divergence {kld:.4} from the source on {tokens} tokens")?;
                if self.is_broken() { write!(f, ", expected {limit:.2} or less") } else { Ok(()) }
            }
            Checked::Perplexity { tokens, perplexity, limit } => {
                write!(f, "perplexity {perplexity:.1} on {tokens} tokens")?;
                if self.is_broken() { write!(f, ", guessing has {limit}") } else { Ok(()) }
            }
            Checked::NotFinite => f.write_str("it predicts numbers that are not finite"),
        }
    }
}

/// The mean KL divergence that no sound file of so many bits per weight has: several times what the
/// worst published ones have (docs/benchmarks.md, and Llama 3 8B by llama.cpp: 0.45 at 3 bits, 0.07 at
/// 4.5, 0.001 at 8.5), as a few hundred tokens tell it only roughly.
fn divergence_limit(bits_per_weight: f64) -> f64 {
    const AT_TWO_BITS: f64 = 4.0;
    /// By which each further bit makes it smaller.
    const PER_BIT: f64 = 2.0;
    AT_TWO_BITS * PER_BIT.powf(2.0 - bits_per_weight)
}

/// Measures `made` against `source`, a GGUF file, or by itself. What is found is said; `None` where
/// the model can't be evaluated, which is said too.
pub(super) fn check(made: &Path, source: Option<&Path>, output: &Output) -> Option<Checked> {
    match measure(made, source, output) {
        Ok(checked) if checked.is_broken() => {
            let path = made.display().to_string();
            output.warning(&format_args!("{} looks broken: {checked}", Escaped(&path)));
            Some(checked)
        }
        Ok(checked) => {
            output.done(&format_args!("checked: {checked}"));
            Some(checked)
        }
        Err(error) => {
            output.note(&format_args!("not checked: {}", Escaped(&error.to_string())));
            None
        }
    }
}

fn measure(made: &Path, source: Option<&Path>, output: &Output) -> anyhow::Result<Checked> {
    let model = Model::open(made)?;
    let llama = Llama::load(&model)?;
    let base_model = source.map(Model::open).transpose()?;
    let base = base_model.as_ref().map(Llama::load).transpose()?;
    let tokenizer = Tokenizer::from_metadata(model.metadata())?;
    let corpus = Corpus::tokenize(&tokenizer, TEXT);
    let tensors = model.tensors();
    let weights = tensors.iter().map(|t| t.weights()).fold(0, u64::saturating_add);
    let bytes = tensors.iter().map(|t| t.bytes).fold(0, u64::saturating_add);
    let options = options(weights, corpus.tokens().len());
    let run = |llama: &Llama<'_>, against: Against<'_>| {
        evaluate(llama, against, &corpus, &options, &Evaluating::new(output, "checking"))
    };
    let against = base.as_ref().map_or(Against::Nothing, Against::Model);
    match (run(&llama, against), &base) {
        (Ok(report), _) => Ok(Checked::of(
            &report,
            bits_per_weight(bytes, weights),
            llama.hyperparameters().vocabulary_size,
        )),
        (Err(Error::NotFinite { .. }), base) => {
            if let Some(base) = base {
                run(base, Against::Nothing).context("the source predicts no finite numbers")?;
            }
            Ok(Checked::NotFinite)
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// As many tokens as a model of this size allows.
fn options(weights: u64, tokens: usize) -> Options {
    let affordable = usize::try_from(PRODUCTS / weights.max(1)).unwrap_or(usize::MAX);
    let tokens = affordable.max(LEAST_TOKENS).min(tokens);
    let context = tokens.min(WINDOW);
    Options { mode: Mode::Fast, context, chunks: Some((tokens / context.max(1)).max(1)) }
}
