//! A quick look at a file just made: whether it still predicts a short text as its source does.

use std::path::Path;

use anyhow::Context;
use llq_eval::{Against, Corpus, Error, Llama, Mode, Options, Report, Tokenizer, evaluate};
use llq_gguf::Model;
use serde::Serialize;

use super::{bench::machine::available_memory, corpus::Evaluating};
use crate::{escape::Escaped, figures::bits_per_weight, output::Output};

/// Openings of four novels (Melville, Dickens, Carroll, Austen), some 700 tokens.
pub(super) const TEXT: &str = include_str!("check.txt");

/// Products of a weight and a token that are worth a look: a second or two on two cores.
const PRODUCTS: u64 = 30_000_000_000;

/// Fewer tokens tell nothing, whatever the model's size.
const LEAST_TOKENS: usize = 16;

/// Longer windows would score fewer of the tokens.
const WINDOW: usize = 128;

/// What came of it.
#[derive(Serialize)]
#[serde(tag = "found", rename_all = "snake_case")]
pub(super) enum Checked {
    /// Compared with the source: mean KL divergence, and what no sound file of its size has.
    Divergence { tokens: usize, kld: f64, limit: f64 },
    /// By itself: perplexity, and what guessing has.
    Perplexity { tokens: usize, perplexity: f64, guessing: f64 },
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
            None => Checked::Perplexity {
                tokens,
                perplexity: report.perplexity,
                guessing: vocabulary_size as f64,
            },
        }
    }

    /// A perplexity by itself proves nothing: the source may be untrained.
    pub(super) fn is_broken(&self) -> bool {
        match self {
            Checked::Divergence { kld, limit, .. } => kld > limit,
            Checked::Perplexity { .. } => false,
            Checked::NotFinite => true,
        }
    }

    fn say(&self, made: &Path, output: &Output) {
        let path = made.display().to_string();
        let path = Escaped(&path);
        match self {
            Checked::Divergence { tokens, kld, limit } if self.is_broken() => {
                output.warning(&format_args!(
                    "{path} looks broken: KL divergence {kld:.2} from the source on {tokens} tokens, \
                     expected {limit:.2} or less"
                ));
            }
            Checked::Divergence { tokens, kld, .. } => output.done(&format_args!(
                "checked: KL divergence {kld:.4} from the source on {tokens} tokens"
            )),
            Checked::Perplexity { tokens, perplexity, guessing } if perplexity > guessing => {
                output.note(&format_args!(
                    "{path} predicts no better than guessing: perplexity {perplexity:.0} on {tokens} \
                     tokens"
                ));
            }
            Checked::Perplexity { tokens, perplexity, .. } => {
                output
                    .done(&format_args!("checked: perplexity {perplexity:.1} on {tokens} tokens"));
            }
            Checked::NotFinite => output.warning(&format_args!(
                "{path} looks broken: its predictions are not finite numbers"
            )),
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

/// Measures `made` against `source`, a GGUF file, or by itself, and says what came of it. `None` where
/// the model can't be evaluated, which is said too.
pub(super) fn check(made: &Path, source: Option<&Path>, output: &Output) -> Option<Checked> {
    match measure(made, source, output) {
        Ok(checked) => {
            checked.say(made, output);
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
    let base_model = base_model.filter(|base| fits_in_memory(base, &model));
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

/// Whether reading both models once more takes no second way to the disk.
fn fits_in_memory(base: &Model, made: &Model) -> bool {
    let bytes = base.file_bytes().saturating_add(made.file_bytes());
    available_memory().is_none_or(|available| bytes <= available as u64)
}

/// As many tokens as a model of this size allows.
pub(super) fn options(weights: u64, tokens: usize) -> Options {
    let affordable = usize::try_from(PRODUCTS / weights.max(1)).unwrap_or(usize::MAX);
    let tokens = affordable.max(LEAST_TOKENS).min(tokens);
    let context = tokens.min(WINDOW);
    Options { mode: Mode::Fast, context, chunks: Some((tokens / context.max(1)).max(1)) }
}
