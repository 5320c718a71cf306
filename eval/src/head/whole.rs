//! Logits of the whole vocabulary, for a few tokens at a time: what a file of logits needs.

use std::{io::Write, ops::Range};

use llq_quant::{
    Mode, Scratch,
    kernels::{self, Kernels},
};
use rayon::prelude::*;

use super::{Head, Prediction, SLICE, Softmax, TASK};
use crate::{
    error::Result,
    logits_file::{LogitsFile, Row, encode_row},
    statistics::{BaseScore, TokenScore},
};

/// Tokens whose logits exist together: 8 MiB with 32,000 tokens in the vocabulary.
pub(super) const TOKENS: usize = 64;

/// Scores the prediction of `targets`, and writes a row for each.
pub(crate) fn save(
    prediction: Prediction<'_>,
    targets: &[u32],
    mode: Mode,
    out: &mut dyn Write,
) -> Result<Vec<TokenScore>> {
    let mut scores = Vec::with_capacity(targets.len());
    for (tokens, targets) in turns(targets) {
        let logits = Logits::of(prediction.of(tokens), mode);
        let row = |(token, &target)| {
            let softmax = logits.softmax(token, target);
            let row = encode_row(logits.all(token), softmax.max, softmax.sum.ln());
            (TokenScore { nll: softmax.nll(), base: None }, row)
        };
        let rows: Vec<_> = targets.par_iter().enumerate().map(row).collect();
        for (score, row) in rows {
            out.write_all(&row).map_err(crate::Error::Save)?;
            scores.push(score);
        }
    }
    Ok(scores)
}

/// Scores the prediction of `targets` beside what `base` holds from row `first` on.
pub(crate) fn score_against(
    prediction: Prediction<'_>,
    (base, first): (&LogitsFile, usize),
    targets: &[u32],
    mode: Mode,
) -> Result<Vec<TokenScore>> {
    let kernels = kernels::selected();
    let mut scores = Vec::with_capacity(targets.len());
    for (tokens, targets) in turns(targets) {
        let rows = base.rows(first + tokens.start, targets.len())?;
        let logits = Logits::of(prediction.of(tokens), mode);
        let score = |(token, &target)| {
            let softmax = logits.softmax(token, target);
            softmax.against_row(kernels, &rows.row(token), logits.all(token), target)
        };
        scores.par_extend(targets.par_iter().enumerate().map(score));
    }
    Ok(scores)
}

fn turns(targets: &[u32]) -> impl Iterator<Item = (Range<usize>, &[u32])> {
    let turns = targets.chunks(TOKENS).enumerate();
    turns.map(|(turn, targets)| (turn * TOKENS..turn * TOKENS + targets.len(), targets))
}

/// The logits of some tokens over the whole vocabulary.
pub(crate) struct Logits {
    /// For each slice of the vocabulary, its logits for one token after another.
    slices: Vec<Vec<f32>>,
    tokens: usize,
}

impl Logits {
    pub(crate) fn of(prediction: Prediction<'_>, mode: Mode) -> Logits {
        let head = Head::new(prediction, mode);
        let vocabulary = head.matrix.rows();
        let slices = (0..vocabulary.div_ceil(SLICE))
            .into_par_iter()
            .map_init(Scratch::default, |products, slice| {
                let mut logits = Vec::new();
                let rows = slice * SLICE..vocabulary.min((slice + 1) * SLICE);
                head.logits(&rows, &mut logits, products);
                logits
            })
            .collect();
        Logits { slices, tokens: head.activations.tokens() }
    }

    /// The slices of one token's logits.
    pub(super) fn slices(&self, token: usize) -> impl ExactSizeIterator<Item = &[f32]> + Clone {
        self.slices.iter().map(move |slice| {
            let len = slice.len() / self.tokens;
            &slice[token * len..][..len]
        })
    }

    /// All logits of one token.
    pub(crate) fn all(&self, token: usize) -> impl Iterator<Item = &f32> + Clone {
        self.slices(token).flatten()
    }

    /// The softmax of one token's logits, summed in the order of [`super::score`].
    fn softmax(&self, token: usize, target: u32) -> Softmax {
        let kernels = kernels::selected();
        let mut exponentials = [0.0; SLICE];
        let mut slices = self.slices(token).enumerate();
        let mut whole = Softmax::EMPTY;
        while slices.len() > 0 {
            let mut task = Softmax::EMPTY;
            for (slice, logits) in slices.by_ref().take(TASK / SLICE) {
                let exponentials = &mut exponentials[..logits.len()];
                task.add(kernels, logits, slice * SLICE, target, exponentials);
            }
            whole = whole.merge(task);
        }
        whole
    }
}

impl Softmax {
    /// The score beside a row of a file, as the field computes it: the sum of p (ln p - ln q) over
    /// the tokens with ln p > -16.
    fn against_row<'a>(
        &self,
        kernels: &Kernels,
        row: &Row<'_>,
        logits: impl Iterator<Item = &'a f32>,
        target: u32,
    ) -> TokenScore {
        const LEAST: f32 = -16.0;
        let base: Vec<f32> = row.log_probabilities().collect();
        let mut probabilities = vec![0.0; base.len()];
        kernels.exp_shifted(&base, 0.0, &mut probabilities);
        let log_sum = self.log_sum();
        let kld = (probabilities.iter().zip(&base).zip(logits))
            .filter(|((_, base), _)| **base > LEAST)
            .map(|((&p, &base), &logit)| {
                f64::from(p) * (f64::from(base) - (f64::from(logit) - log_sum))
            })
            .sum();
        let base_nll = -f64::from(base[target as usize]);
        let same_top = kernels.argmax(&base) == Some(self.top);
        TokenScore { nll: self.nll(), base: Some(BaseScore { nll: base_nll, kld, same_top }) }
    }
}
