//! From the scores of single tokens to the figures of a report.

use crate::report::{Change, Comparison, Divergence};

/// How one token was predicted: the 32 bytes that an evaluation keeps per scored token.
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
    perplexity_of(scores.iter().map(|score| score.nll))
}

fn perplexity_of(nlls: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let (mean, stderr) = mean_and_stderr(nlls);
    let perplexity = mean.exp();
    (perplexity, stderr * perplexity)
}

/// The comparison with the base model; `None` where a score has none. The percentiles take another
/// 8 bytes per token while they are sorted.
pub(crate) fn comparison(scores: &[TokenScore]) -> Option<Comparison> {
    if scores.iter().any(|score| score.base.is_none()) {
        return None;
    }
    let pairs = || scores.iter().filter_map(|score| Some((score.nll, score.base?)));
    let (base_perplexity, base_stderr) = perplexity_of(pairs().map(|(_, base)| base.nll));
    // The variance of paired differences has the covariance of both models in it.
    let (ln_ratio, ln_ratio_stderr) = mean_and_stderr(pairs().map(|(nll, base)| nll - base.nll));
    let ratio = ln_ratio.exp();
    let (same_top, same_top_stderr) =
        mean_and_stderr(pairs().map(|(_, base)| f64::from(u8::from(base.same_top))));
    Some(Comparison {
        base_perplexity,
        base_stderr,
        ratio,
        ratio_stderr: ratio * ln_ratio_stderr,
        ln_ratio,
        ln_ratio_stderr,
        correlation: correlation(pairs().map(|(nll, base)| (nll, base.nll))),
        kld: divergence(pairs().map(|(_, base)| base.kld).collect()),
        same_top,
        same_top_stderr,
        delta_p: change(pairs().map(|(nll, base)| (-nll).exp() - (-base.nll).exp()).collect()),
    })
}

fn divergence(mut klds: Vec<f64>) -> Divergence {
    let (mean, stderr) = mean_and_stderr(klds.iter().copied());
    klds.sort_unstable_by(f64::total_cmp);
    let at = |fraction| percentile(&klds, fraction);
    Divergence {
        mean,
        stderr,
        median: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p99_9: at(0.999),
        max: at(1.0),
    }
}

fn change(mut changes: Vec<f64>) -> Change {
    let (mean, stderr) = mean_and_stderr(changes.iter().copied());
    let (square, square_stderr) = mean_and_stderr(changes.iter().map(|change| change * change));
    let rms = square.sqrt();
    changes.sort_unstable_by(f64::total_cmp);
    let at = |fraction| percentile(&changes, fraction);
    Change {
        mean,
        stderr,
        rms,
        // d√x = dx / 2√x.
        rms_stderr: if rms > 0.0 { square_stderr / (2.0 * rms) } else { 0.0 },
        min: at(0.0),
        p0_1: at(0.001),
        p1: at(0.01),
        p5: at(0.05),
        p25: at(0.25),
        median: at(0.5),
        p75: at(0.75),
        p95: at(0.95),
        p99: at(0.99),
        p99_9: at(0.999),
        max: at(1.0),
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

/// Pearson's correlation; 1 where either side does not vary.
fn correlation(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = pairs.clone().count().max(1) as f64;
    let mean = |of: fn((f64, f64)) -> f64| pairs.clone().map(of).sum::<f64>() / count;
    let (a_mean, b_mean) = (mean(|(a, _)| a), mean(|(_, b)| b));
    let (mut both, mut a_square, mut b_square) = (0.0, 0.0, 0.0);
    for (a, b) in pairs {
        both += (a - a_mean) * (b - b_mean);
        a_square += (a - a_mean).powi(2);
        b_square += (b - b_mean).powi(2);
    }
    let norm = (a_square * b_square).sqrt();
    if norm > 0.0 { (both / norm).clamp(-1.0, 1.0) } else { 1.0 }
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

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-12
    }

    /// Three tokens, the figures by hand.
    #[test]
    fn figures_of_three_tokens() {
        let score = |p: f64, base_p: f64, kld, same_top| TokenScore {
            nll: -p.ln(),
            base: Some(BaseScore { nll: -base_p.ln(), kld, same_top }),
        };
        let scores = [
            score(0.5, 0.25, 0.1, true),
            score(0.125, 0.25, 0.4, false),
            score(0.5, 0.5, 0.1, true),
        ];
        let found = comparison(&scores).unwrap();
        let ln2 = 2f64.ln();
        assert!(near(found.base_perplexity, 2f64.powf(5.0 / 3.0)), "{found:?}");
        // Differences -ln 2, ln 2, 0: deviation √(2/3) ln 2 over √2.
        assert!(near(found.ln_ratio, 0.0) && near(found.ratio, 1.0), "{found:?}");
        assert!(near(found.ln_ratio_stderr, (1.0f64 / 3.0).sqrt() * ln2), "{found:?}");
        assert!(near(found.ratio_stderr, found.ln_ratio_stderr), "{found:?}");
        // Logs 1, 3, 1 beside 2, 2, 1.
        assert!(near(found.correlation, 0.5), "{found:?}");
        assert!(near(found.kld.mean, 0.2) && near(found.kld.stderr, 0.1), "{found:?}");
        assert!(near(found.kld.median, 0.1) && near(found.kld.p90, 0.34), "{found:?}");
        // 2 of 3: √(p (1 - p) / (n - 1)).
        assert!(near(found.same_top, 2.0 / 3.0), "{found:?}");
        assert!(near(found.same_top_stderr, 1.0 / 3.0), "{found:?}");
        // Changes 1/4, -1/8, 0.
        let change = &found.delta_p;
        assert!(near(change.mean, 1.0 / 24.0) && near(change.median, 0.0), "{change:?}");
        assert!(near(change.min, -0.125) && near(change.max, 0.25), "{change:?}");
        assert!(near(change.rms, (5.0f64 / 192.0).sqrt()), "{change:?}");
        // Squares 12/192, 3/192, 0: their deviation is √26/192.
        let square_stderr = 26f64.sqrt() / 192.0 / 2f64.sqrt();
        assert!(near(change.rms_stderr, square_stderr / (2.0 * change.rms)), "{change:?}");
    }
}
