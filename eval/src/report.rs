//! The figures of an evaluation.

use llq_quant::Mode;
use serde::{Serialize, Serializer};

/// The figures of one evaluation. Serialized, the fields of `against` stand beside the others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Perplexity: e to the mean negative log-likelihood of the scored tokens.
    pub perplexity: f64,
    /// One standard error of the perplexity.
    pub stderr: f64,
    /// Windows evaluated.
    pub chunks: usize,
    /// Tokens per window.
    pub context: usize,
    /// Tokens scored.
    pub tokens: usize,
    /// How products were computed, in both models.
    #[serde(serialize_with = "mode_name")]
    pub mode: Mode,
    /// The comparison with the base model, where there is one.
    #[serde(flatten)]
    pub against: Option<Comparison>,
}

/// What the change from the base model to the evaluated one did to the predictions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Perplexity of the base model on the same tokens.
    pub base_perplexity: f64,
    /// One standard error of the base model's perplexity.
    pub base_stderr: f64,
    /// Perplexity over base perplexity.
    pub ratio: f64,
    /// One standard error of `ratio`; far below that of either perplexity, as both models see the
    /// same tokens.
    pub ratio_stderr: f64,
    /// Logarithm of `ratio`: the mean growth of the negative log-likelihood.
    pub ln_ratio: f64,
    /// One standard error of `ln_ratio`.
    pub ln_ratio_stderr: f64,
    /// Correlation over tokens of the two negative log-likelihoods.
    pub correlation: f64,
    /// KL divergence from the base model's prediction, in nats per token.
    pub kld: Divergence,
    /// Fraction of the tokens at which both models find the same token most likely.
    pub same_top: f64,
    /// One standard error of `same_top`.
    pub same_top_stderr: f64,
    /// Change of the probability of the true token.
    pub delta_p: Change,
}

/// Distribution over tokens of the KL divergence, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Mean.
    pub mean: f64,
    /// One standard error of the mean.
    pub stderr: f64,
    /// Median.
    pub median: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p99_9: f64,
    /// Largest.
    pub max: f64,
}

/// Distribution over tokens of the change of a probability, -1 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Mean.
    pub mean: f64,
    /// One standard error of the mean.
    pub stderr: f64,
    /// Root mean square.
    pub rms: f64,
    /// One standard error of `rms`.
    pub rms_stderr: f64,
    /// Smallest: the largest loss.
    pub min: f64,
    /// 0.1th percentile.
    pub p0_1: f64,
    /// First percentile.
    pub p1: f64,
    /// 5th percentile.
    pub p5: f64,
    /// 25th percentile.
    pub p25: f64,
    /// Median.
    pub median: f64,
    /// 75th percentile.
    pub p75: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p99_9: f64,
    /// Largest.
    pub max: f64,
}

/// `exact` or `fast`.
fn mode_name<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match mode {
        Mode::Exact => "exact",
        Mode::Fast => "fast",
    })
}
