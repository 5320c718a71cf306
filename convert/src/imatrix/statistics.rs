//! How evenly the channels of a tensor carry.

use super::Entry;

/// What a tensor's mean squares are like, all its matrices together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EntryStatistics {
    /// Sum of the mean squares: the mean squared length of the inputs.
    pub sum: f64,
    /// The largest mean square over the mean of them; 0 where all are 0.
    pub max_over_mean: f64,
    /// Entropy of the channels' shares over that of equal ones: 1 where all carry the same, 0 where
    /// one carries all.
    pub evenness: f64,
    /// What the top hundredth of the channels, at least one, carries of the sum.
    pub top_share: f64,
}

impl Entry {
    /// Tokens that the matrix, or all experts together, have seen.
    pub fn tokens(&self) -> f64 {
        self.counts.iter().map(|&count| f64::from(count)).sum()
    }

    /// Stacked matrices: experts.
    pub fn matrices(&self) -> usize {
        self.counts.len()
    }

    /// Stacked matrices that have seen no token.
    pub fn unseen(&self) -> usize {
        self.counts.iter().filter(|&&count| count == 0.0).count()
    }

    /// How evenly the channels carry.
    pub fn statistics(&self) -> EntryStatistics {
        let mut means: Vec<f64> = self.mean_squares().into_iter().map(f64::from).collect();
        means.sort_by(|a, b| b.total_cmp(a));
        let sum: f64 = means.iter().sum();
        let channels = means.len() as f64;
        if sum == 0.0 {
            return EntryStatistics { sum, max_over_mean: 0.0, evenness: 1.0, top_share: 0.0 };
        }
        let shares = means.iter().map(|mean| mean / sum).filter(|&share| share > 0.0);
        let entropy: f64 = shares.map(|share| -share * share.ln()).sum();
        let top: f64 = means.iter().take(means.len().div_ceil(100)).sum();
        EntryStatistics {
            sum,
            max_over_mean: means[0] / (sum / channels),
            evenness: if means.len() > 1 { entropy / channels.ln() } else { 1.0 },
            top_share: top / sum,
        }
    }
}
