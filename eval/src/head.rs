//! The head: from final hidden states to the score of each true token. The logits of a slice of the
//! vocabulary exist at a time; softmax and KL divergence are accumulated over the slices.

mod draw;
mod whole;

use std::ops::Range;

use llq_quant::{
    Activations, Matrix, Mode, Scratch,
    kernels::{self, Kernels},
    matmul,
};
use rayon::prelude::*;

pub(crate) use self::{
    draw::draw,
    whole::{Logits, save, score_against},
};
use crate::{
    pool::Pool,
    statistics::{BaseScore, TokenScore},
};

/// Rows of the head multiplied at a time: the logits of 1020 tokens then take 510 KiB.
const SLICE: usize = 128;

/// Tokens scored together: those of a pass over windows of 512. Longer windows take several turns, so
/// that memory does not grow with them.
const TOKENS: usize = 1024;

/// Rows of the head that are a task of one thread. Sums are over each task's rows first, so this
/// must not depend on the number of threads.
const TASK: usize = 8 * SLICE;

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

impl Prediction<'_> {
    /// That of some of the tokens.
    fn of(&self, tokens: Range<usize>) -> Self {
        let width = self.head.cols();
        let hidden = &self.hidden[tokens.start * width..tokens.end * width];
        Prediction { hidden, ..*self }
    }
}

/// Scores the prediction of `targets`; with a base model of the same vocabulary, both in lock-step.
pub(crate) fn score(
    subject: Prediction<'_>,
    base: Option<Prediction<'_>>,
    targets: &[u32],
    mode: Mode,
) -> Vec<TokenScore> {
    let turn = |(turn, targets): (usize, &[u32])| {
        let tokens = turn * TOKENS..turn * TOKENS + targets.len();
        let base = base.map(|base| base.of(tokens.clone()));
        score_together(subject.of(tokens), base, targets, mode)
    };
    targets.chunks(TOKENS).enumerate().flat_map(turn).collect()
}

fn score_together(
    subject: Prediction<'_>,
    base: Option<Prediction<'_>>,
    targets: &[u32],
    mode: Mode,
) -> Vec<TokenScore> {
    let vocabulary = subject.head.rows();
    let subject = Head::new(subject, mode);
    let base = base.map(|base| Head::new(base, mode));
    let buffers = Pool::<Buffers>::default();
    let tasks: Vec<[Vec<Softmax>; 2]> = (0..vocabulary.div_ceil(TASK))
        .into_par_iter()
        .map(|task| {
            let rows = task * TASK..vocabulary.min((task + 1) * TASK);
            buffers.with(|buffers| softmaxes(&subject, base.as_ref(), rows, targets, buffers))
        })
        .collect();
    let whole = |model: usize, token: usize| {
        tasks.iter().map(|task| task[model][token]).fold(Softmax::EMPTY, Softmax::merge)
    };
    let token_score = |token| match &base {
        None => TokenScore { nll: whole(SUBJECT, token).nll(), base: None },
        Some(_) => whole(SUBJECT, token).against(&whole(BASE, token)),
    };
    (0..targets.len()).into_par_iter().map(token_score).collect()
}

const SUBJECT: usize = 0;
const BASE: usize = 1;

/// One model's hidden states, ready for its head.
struct Head<'a> {
    matrix: &'a Matrix<'a>,
    activations: Activations,
}

/// Buffers of one thread.
#[derive(Default)]
struct Buffers {
    logits: [Vec<f32>; 2],
    exponentials: Vec<f32>,
    products: Scratch,
}

impl<'a> Head<'a> {
    fn new(prediction: Prediction<'a>, mode: Mode) -> Head<'a> {
        let Prediction { head: matrix, hidden } = prediction;
        let mut activations = Activations::empty(mode);
        let parts = activations.parts(hidden.len() / matrix.cols(), matrix.cols(), &[matrix]);
        let rows = hidden.par_chunks(Activations::PART_TOKENS * matrix.cols());
        parts.into_par_iter().zip(rows).for_each(|(part, rows)| part.fill(rows));
        Head { matrix, activations }
    }

    /// The logits of the tokens `rows`, for one predicted token after another.
    fn logits(&self, rows: &Range<usize>, logits: &mut Vec<f32>, products: &mut Scratch) {
        logits.resize(rows.len() * self.activations.tokens(), 0.0);
        matmul(&self.matrix.row_range(rows.clone()), &self.activations, logits, products);
    }
}

/// The softmaxes of subject and base over a range of the vocabulary.
fn softmaxes(
    subject: &Head<'_>,
    base: Option<&Head<'_>>,
    rows: Range<usize>,
    targets: &[u32],
    buffers: &mut Buffers,
) -> [Vec<Softmax>; 2] {
    let kernels = kernels::selected();
    let of = |tokens: usize| vec![Softmax::EMPTY; tokens];
    let mut softmaxes = [of(targets.len()), of(if base.is_some() { targets.len() } else { 0 })];
    let Buffers { logits: [logits, base_logits], exponentials, products } = buffers;
    for first in rows.clone().step_by(SLICE) {
        let slice = first..rows.end.min(first + SLICE);
        exponentials.resize(slice.len(), 0.0);
        subject.logits(&slice, logits, products);
        let logits = logits.chunks_exact(slice.len());
        for ((logits, softmax), &target) in logits.clone().zip(&mut softmaxes[SUBJECT]).zip(targets)
        {
            softmax.add(kernels, logits, first, target, exponentials);
        }
        if let Some(base) = base {
            base.logits(&slice, base_logits, products);
            let both = base_logits.chunks_exact(slice.len()).zip(logits);
            for (((own, others), softmax), &target) in both.zip(&mut softmaxes[BASE]).zip(targets) {
                softmax.add(kernels, own, first, target, exponentials);
                softmax.difference += weighted_difference(exponentials, own, others);
            }
        }
    }
    softmaxes
}

/// The softmax of one token's logits, as far as they are known.
#[derive(Clone, Copy, Debug)]
struct Softmax {
    max: f32,
    /// The lowest token with the largest logit.
    top: usize,
    /// Sum of `e^(logit - max)`.
    sum: f64,
    /// In a base model: sum of `e^(logit - max) * (logit - the subject's logit)`.
    difference: f64,
    /// Logit of the true token, once known.
    target: f32,
}

impl Softmax {
    const EMPTY: Softmax =
        Softmax { max: f32::NEG_INFINITY, top: 0, sum: 0.0, difference: 0.0, target: f32::NAN };

    /// Adds the logits of the tokens from `first` on; leaves `e^(logit - max)` in `exponentials`.
    fn add(
        &mut self,
        kernels: &Kernels,
        logits: &[f32],
        first: usize,
        target: u32,
        exponentials: &mut [f32],
    ) {
        let max = kernels.max(logits);
        if max > self.max {
            self.rescale(max);
            self.top = first + kernels.argmax(logits).unwrap_or_default();
        }
        kernels.exp_shifted(logits, self.max, exponentials);
        self.sum += sum(exponentials);
        if let Some(&logit) = (target as usize).checked_sub(first).and_then(|i| logits.get(i)) {
            self.target = logit;
        }
    }

    /// The softmax of these logits and those of later tokens.
    fn merge(mut self, mut later: Softmax) -> Softmax {
        if later.max > self.max {
            self.rescale(later.max);
            self.top = later.top;
        } else {
            later.rescale(self.max);
        }
        let target = if self.target.is_nan() { later.target } else { self.target };
        let (sum, difference) = (self.sum + later.sum, self.difference + later.difference);
        Softmax { sum, difference, target, ..self }
    }

    /// Makes `max` what the sums are relative to.
    fn rescale(&mut self, max: f32) {
        let factor = (f64::from(self.max) - f64::from(max)).exp();
        self.max = max;
        self.sum *= factor;
        self.difference *= factor;
    }

    /// Logarithm of the sum of all `e^logit`.
    fn log_sum(&self) -> f64 {
        f64::from(self.max) + self.sum.ln()
    }

    fn nll(&self) -> f64 {
        self.log_sum() - f64::from(self.target)
    }

    /// The score beside `base`: with p = e^(base logit) / Z, KL = Σ p (base logit - own logit)
    /// - ln Z + ln Z'.
    fn against(&self, base: &Softmax) -> TokenScore {
        let kld = base.difference / base.sum - (base.log_sum() - self.log_sum());
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

    fn kld(difference: f64) -> f64 {
        let subject = Softmax { max: 1.0, sum: 2.0, target: 1.0, ..Softmax::EMPTY };
        subject.against(&Softmax { difference, ..subject }).base.unwrap().kld
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
