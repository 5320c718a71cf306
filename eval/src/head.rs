//! The head: from final hidden states to the score of each true token. The logits of a slice of the
//! vocabulary exist at a time; softmax and KL divergence are accumulated over the slices.

use llq_quant::{
    Activations, Matrix, Mode, Scratch,
    kernels::{self, Kernels},
    matmul,
};

use crate::statistics::{BaseScore, TokenScore};

/// Rows of the head multiplied at a time: the logits of 255 tokens then take 255 KiB.
const SLICE: usize = 256;

/// Below zero a KL divergence can only be rounding: single exponentials err by 2⁻²² or less, and
/// their sums no more. What is further below would be a fault, and is to be seen.
const KLD_ROUNDING: f64 = 1e-6;

/// What a model's prediction of some tokens is made from.
#[derive(Clone, Copy)]
pub(crate) struct Prediction<'a> {
    /// One row per token of the vocabulary.
    pub(crate) head: &'a Matrix<'a>,
    /// One row per predicted token.
    pub(crate) hidden: &'a [f32],
}

/// Scores the prediction of `targets`; with a base model of the same vocabulary, both in lock-step.
pub(crate) fn score(
    subject: Prediction<'_>,
    base: Option<Prediction<'_>>,
    targets: &[u32],
    mode: Mode,
) -> Vec<TokenScore> {
    let kernels = kernels::selected();
    let vocabulary = subject.head.rows();
    let mut subject = Logits::new(subject, targets, mode);
    let mut base = base.map(|base| Logits::new(base, targets, mode));
    let mut differences = vec![0.0; if base.is_some() { targets.len() } else { 0 }];
    let mut scratch = Scratch::default();
    for first in (0..vocabulary).step_by(SLICE) {
        let rows = first..vocabulary.min(first + SLICE);
        subject.compute(rows.clone(), &mut scratch);
        if let Some(base) = &mut base {
            base.compute(rows, &mut scratch);
            base.accumulate_differences(kernels, &subject, &mut differences);
        }
        subject.accumulate(kernels);
    }
    match base {
        None => subject.softmaxes.iter().map(|s| TokenScore { nll: s.nll(), base: None }).collect(),
        Some(base) => (subject.softmaxes.iter().zip(&base.softmaxes))
            .zip(&differences)
            .map(|((subject, base), &difference)| subject.against(base, difference))
            .collect(),
    }
}

/// The logits of one model over a slice of the vocabulary, and the softmax over all slices so far.
struct Logits<'a> {
    head: &'a Matrix<'a>,
    targets: &'a [u32],
    activations: Activations,
    slice: std::ops::Range<usize>,
    logits: Vec<f32>,
    exponentials: Vec<f32>,
    softmaxes: Vec<Softmax>,
}

impl<'a> Logits<'a> {
    fn new(prediction: Prediction<'a>, targets: &'a [u32], mode: Mode) -> Logits<'a> {
        Logits {
            head: prediction.head,
            targets,
            activations: Activations::new(mode, prediction.hidden, prediction.head.cols()),
            slice: 0..0,
            logits: Vec::new(),
            exponentials: vec![0.0; SLICE],
            softmaxes: vec![Softmax::EMPTY; targets.len()],
        }
    }

    /// Computes the logits of a slice of the vocabulary.
    fn compute(&mut self, slice: std::ops::Range<usize>, scratch: &mut Scratch) {
        self.logits.resize(slice.len() * self.targets.len(), 0.0);
        matmul(&self.head.row_range(slice.clone()), &self.activations, &mut self.logits, scratch);
        self.slice = slice;
    }

    /// Adds the slice to the softmaxes.
    fn accumulate(&mut self, kernels: &Kernels) {
        let exponentials = &mut self.exponentials[..self.slice.len()];
        let tokens = self.logits.chunks_exact(self.slice.len()).zip(self.targets);
        for ((logits, &target), softmax) in tokens.zip(&mut self.softmaxes) {
            softmax.add(kernels, logits, self.slice.start, target, exponentials);
        }
    }

    /// Adds the slice to the softmaxes, and to `differences` the sum over it of
    /// `e^(own logit - own maximum) * (own logit - other's logit)`.
    fn accumulate_differences(
        &mut self,
        kernels: &Kernels,
        other: &Logits<'_>,
        differences: &mut [f64],
    ) {
        let exponentials = &mut self.exponentials[..self.slice.len()];
        let tokens = self.logits.chunks_exact(self.slice.len()).zip(self.targets);
        let others = other.logits.chunks_exact(self.slice.len()).zip(differences);
        for (((logits, &target), softmax), (others, difference)) in
            tokens.zip(&mut self.softmaxes).zip(others)
        {
            let rescale = softmax.add(kernels, logits, self.slice.start, target, exponentials);
            *difference *= rescale;
            *difference += weighted_difference(exponentials, logits, others);
        }
    }
}

/// The softmax of one token's logits, as far as they are known.
#[derive(Clone, Copy, Debug)]
struct Softmax {
    max: f32,
    /// The lowest token with the largest logit.
    top: usize,
    /// Sum of `e^(logit - max)`.
    sum: f64,
    /// Logit of the true token, once known.
    target: f32,
}

impl Softmax {
    const EMPTY: Softmax = Softmax { max: f32::NEG_INFINITY, top: 0, sum: 0.0, target: f32::NAN };

    /// Adds the logits of the tokens from `first` on; leaves `e^(logit - max)` in `exponentials`
    /// and returns what sums over earlier logits are to be multiplied by.
    fn add(
        &mut self,
        kernels: &Kernels,
        logits: &[f32],
        first: usize,
        target: u32,
        exponentials: &mut [f32],
    ) -> f64 {
        let max = kernels.max(logits);
        let mut rescale = 1.0;
        if max > self.max {
            rescale = (f64::from(self.max) - f64::from(max)).exp();
            self.max = max;
            self.top = first + kernels.argmax(logits).unwrap_or_default();
        }
        kernels.exp_shifted(logits, self.max, exponentials);
        self.sum = self.sum * rescale + sum(exponentials);
        if let Some(&logit) = (target as usize).checked_sub(first).and_then(|i| logits.get(i)) {
            self.target = logit;
        }
        rescale
    }

    /// Logarithm of the sum of all `e^logit`.
    fn log_sum(&self) -> f64 {
        f64::from(self.max) + self.sum.ln()
    }

    fn nll(&self) -> f64 {
        self.log_sum() - f64::from(self.target)
    }

    /// The score beside `base`, `difference` being `Σ e^(base logit - base max) * (base logit -
    /// own logit)`: with p = e^(base logit) / Z, KL = Σ p (base logit - own logit) - ln Z + ln Z'.
    fn against(&self, base: &Softmax, difference: f64) -> TokenScore {
        let kld = difference / base.sum - (base.log_sum() - self.log_sum());
        let kld = if (-KLD_ROUNDING..=0.0).contains(&kld) { 0.0 } else { kld };
        let base = BaseScore { nll: base.nll(), kld, same_top: self.top == base.top };
        TokenScore { nll: self.nll(), base: Some(base) }
    }
}

/// Sum in f64, in eight lanes.
fn sum(values: &[f32]) -> f64 {
    let mut lanes = [0.0; 8];
    let (vectors, rest) = values.as_chunks::<8>();
    for vector in vectors {
        for (lane, &value) in lanes.iter_mut().zip(vector) {
            *lane += f64::from(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(value);
    }
    lanes.iter().sum()
}

/// `Σ weight * (a - b)` in f64, in eight lanes.
fn weighted_difference(weights: &[f32], a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0; 8];
    let chunks = weights.chunks(8).zip(a.chunks(8)).zip(b.chunks(8));
    for ((weights, a), b) in chunks {
        for (((lane, &weight), &a), &b) in lanes.iter_mut().zip(weights).zip(a).zip(b) {
            *lane += f64::from(weight) * (f64::from(a) - f64::from(b));
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn softmax(sum: f64) -> Softmax {
        Softmax { max: 1.0, top: 0, sum, target: 1.0 }
    }

    fn kld(difference: f64) -> f64 {
        softmax(2.0).against(&softmax(2.0), difference).base.unwrap().kld
    }

    #[test]
    fn rounding_makes_no_negative_divergence() {
        for difference in [-0.0, -1e-9, -1.9e-6] {
            assert_eq!(kld(difference).to_bits(), 0f64.to_bits(), "{difference}");
        }
        assert_eq!(kld(1e-9), 5e-10);
        assert_eq!(kld(-0.5), -0.25, "a fault is not hidden");
    }
}
