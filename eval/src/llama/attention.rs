//! Causal attention with grouped queries: `head_count / head_count_kv` query heads share each key
//! and value head. Ainslie et al., "GQA", 2023.

use std::ops::Range;

use llq_quant::{AttentionScratch, Rows, causal_attention, kernels::Kernels};
use rayon::prelude::*;

use super::{Hyperparameters, slices::Slices};
use crate::pool::Pool;

/// Positions of a window whose queries are a task: one long window keeps all threads at work, and
/// making the keys and values ready, which every task does for those it sees, stays cheap.
const QUERIES: usize = 128;

/// What attention mixes: all heads of the tokens of some windows, window after window. The queries
/// are those of each window's last positions and already scaled.
pub(super) struct Heads<'a> {
    pub(super) sizes: &'a Hyperparameters,
    pub(super) windows: usize,
    pub(super) queries: &'a Slices,
    pub(super) keys: &'a Slices,
    pub(super) values: &'a Slices,
    /// Tokens per window that have keys and values.
    pub(super) seen: usize,
    /// Tokens per window that have queries.
    pub(super) updated: usize,
}

impl<'a> Heads<'a> {
    /// The values that each query sees, weighted by the softmax of its scores: one row of
    /// `head_count * value_length` per query. Some queries of each key-value head of each window are
    /// a task.
    pub(super) fn mix(
        &self,
        kernels: &Kernels,
        out: &mut Slices,
        scratches: &Pool<AttentionScratch>,
    ) {
        let (sizes, windows) = (self.sizes, self.windows);
        let group = sizes.head_count / sizes.head_count_kv;
        let mixed = sizes.head_count * sizes.value_length;
        let width = group * sizes.value_length;
        out.reshape(windows * self.updated, mixed, width);
        out.par_pieces_mut(self.updated).enumerate().for_each(|(piece, out)| {
            let (shared, window) = (piece / windows, piece % windows);
            let rows = |of: &'a Slices, tokens: Range<usize>, head: usize, cols: usize| {
                let (values, stride) = of.column(tokens.start, head * cols);
                Rows::new(values, tokens.len(), cols, stride)
            };
            out.par_chunks_mut(QUERIES * width).enumerate().for_each(|(task, out)| {
                let (first, end) = (task * QUERIES, task * QUERIES + out.len() / width);
                let visible = self.seen - self.updated + end;
                let asked = window * self.updated + first..window * self.updated + end;
                let known = window * self.seen..window * self.seen + visible;
                let queries: Vec<Rows<'_>> = (shared * group..(shared + 1) * group)
                    .map(|head| rows(self.queries, asked.clone(), head, sizes.key_length))
                    .collect();
                let keys = rows(self.keys, known.clone(), shared, sizes.key_length);
                let values = rows(self.values, known, shared, sizes.value_length);
                scratches.with(|scratch| {
                    causal_attention(kernels, &queries, keys, values, out, scratch);
                });
            });
        });
    }
}
