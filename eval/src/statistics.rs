//! From the scores of single tokens to the figures of a report.

use crate::report::{Comparison, Divergence};

/// How one token was predicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TokenScore {
    /// Negative log-likelihood of the true token, in nats.
    pub(crate) nll: f64,
    /// How the base model predicted it, where there is one.
    pub(crate) base: Option<BaseScore>,
}

/// One prediction beside the base model's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BaseScore {
    /// Negative log-likelihood of the true token by the base model, in nats.
    pub(crate) nll: f64,
    /// KL divergence of the prediction from the base model's, in nats.
    pub(crate) kld: f64,
    /// Whether both find the same token most likely.
    pub(crate) same_top: bool,
}

impl TokenScore {
    pub(crate) fn is_finite(&self) -> bool {
        let base = self.base.is_none_or(|base| base.nll.is_finite() && base.kld.is_finite());
        self.nll.is_finite() && base
    }
}

/// Negative log-likelihood of all tokens together, in nats.
pub(crate) fn total_nll(scores: &[TokenScore]) -> f64 {
    scores.iter().map(|score| score.nll).sum()
}

/// Perplexity and its standard error.
pub(crate) fn perplexity(scores: &[TokenScore]) -> (f64, f64) {
    let (mean, stderr) = mean_and_stderr(scores.iter().map(|score| score.nll));
    let perplexity = mean.exp();
    (perplexity, stderr * perplexity)
}

/// The comparison with the base model; `None` where the scores have none.
pub(crate) fn comparison(scores: &[TokenScore]) -> Option<Comparison> {
    let pairs: Vec<(f64, BaseScore)> =
        scores.iter().map(|score| Some((score.nll, score.base?))).collect::<Option<_>>()?;
    let count = pairs.len().max(1) as f64;
    let (base_nll, _) = mean_and_stderr(pairs.iter().map(|(_, base)| base.nll));
    let (ln_ratio, ln_ratio_stderr) =
        mean_and_stderr(pairs.iter().map(|(nll, base)| nll - base.nll));
    let same_top = pairs.iter().filter(|(_, base)| base.same_top).count() as f64 / count;
    let delta_p = |(nll, base): &(f64, BaseScore)| (-nll).exp() - (-base.nll).exp();
    let squares: f64 = pairs.iter().map(|pair| delta_p(pair).powi(2)).sum();
    Some(Comparison {
        base_perplexity: base_nll.exp(),
        ln_ratio,
        ln_ratio_stderr,
        kld: divergence(pairs.iter().map(|(_, base)| base.kld).collect()),
        same_top,
        delta_p_rms: (squares / count).sqrt(),
    })
}

fn divergence(mut klds: Vec<f64>) -> Divergence {
    let (mean, stderr) = mean_and_stderr(klds.iter().copied());
    klds.sort_unstable_by(f64::total_cmp);
    Divergence {
        mean,
        stderr,
        median: percentile(&klds, 0.5),
        p99: percentile(&klds, 0.99),
        max: klds.last().copied().unwrap_or_default(),
    }
}

/// Mean, and the standard error the field's standard tool prints: the population's deviation over
/// √(n−1).
fn mean_and_stderr(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count();
    let mean = values.clone().sum::<f64>() / count.max(1) as f64;
    let variance = values.map(|v| (v - mean).powi(2)).sum::<f64>() / count.max(1) as f64;
    (mean, (variance / count.saturating_sub(1).max(1) as f64).sqrt())
}

/// The value below which `fraction` of the sorted values lie, linear between neighbours.
fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let place = fraction * sorted.len().saturating_sub(1) as f64;
    let below = place as usize;
    let at = |index: usize| sorted.get(index).or(sorted.last()).copied().unwrap_or_default();
    at(below) + (place - below as f64) * (at(below + 1) - at(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_neighbours() {
        assert_eq!(percentile(&[], 0.5), 0.0);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert_eq!(percentile(&[1.0, 2.0, 3.0, 5.0], 0.5), 2.5);
        assert_eq!(percentile(&[1.0, 2.0], 1.0), 2.0);
    }

    #[test]
    fn a_uniform_guess_among_four_has_perplexity_four() {
        let score = TokenScore { nll: 4f64.ln(), base: None };
        let (perplexity, stderr) = perplexity(&[score; 10]);
        assert!((perplexity - 4.0).abs() < 1e-12 && stderr < 1e-12);
    }

    #[test]
    fn comparison_needs_a_base_for_every_token() {
        let base = BaseScore { nll: 1.0, kld: 0.25, same_top: true };
        let with = TokenScore { nll: 1.5, base: Some(base) };
        let without = TokenScore { nll: 1.5, base: None };
        assert_eq!(comparison(&[with, without]), None);
        let found = comparison(&[with, with]).unwrap();
        assert_eq!((found.ln_ratio, found.ln_ratio_stderr, found.same_top), (0.5, 0.0, 1.0));
        assert_eq!((found.kld.mean, found.kld.median, found.kld.max), (0.25, 0.25, 0.25));
    }
}
