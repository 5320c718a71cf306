//! Causal attention with grouped queries: `head_count / head_count_kv` query heads share each key
//! and value head. Ainslie et al., "GQA", 2023.

use llq_quant::{Mask, Rows, Scratch, attention_scores, attention_values, kernels::Kernels};

use super::Hyperparameters;

/// Queries that are scored at a time, so that their scores stay in cache.
const QUERIES: usize = 96;

/// What attention mixes: rows of all heads, one per position. The queries are those of the last
/// positions and already scaled.
pub(super) struct Heads<'a> {
    pub(super) sizes: &'a Hyperparameters,
    pub(super) queries: &'a [f32],
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
}

/// Buffers kept from call to call.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    scores: Vec<f32>,
    products: Scratch,
}

/// The values that each query sees, weighted by the softmax of its scores: one row of
/// `head_count * value_length` per query.
pub(super) fn causal(
    kernels: &Kernels,
    heads: &Heads<'_>,
    out: &mut Vec<f32>,
    work: &mut Workspace,
) {
    let queries = heads.queries.len() / heads.query_stride();
    let positions = heads.keys.len() / heads.key_stride();
    out.resize(queries * heads.out_stride(), 0.0);
    for head in 0..heads.sizes.head_count {
        for first in (0..queries).step_by(QUERIES) {
            let last = queries.min(first + QUERIES);
            let visible = positions - queries + last;
            work.scores.resize((last - first) * visible, 0.0);
            let (query_rows, key_rows, value_rows) = heads.rows(head, first..last, visible);
            let Workspace { scores, products } = &mut *work;
            attention_scores(kernels, query_rows, key_rows, Mask::Causal, scores, products);
            for (row, query) in scores.chunks_exact_mut(visible).zip(first..last) {
                kernels.softmax_in_place(&mut row[..=positions - queries + query]);
            }
            let probabilities = Rows::new(scores, last - first, visible, visible);
            let place = first * heads.out_stride() + head * heads.sizes.value_length;
            let (out, stride) = (&mut out[place..], heads.out_stride());
            attention_values(
                kernels,
                probabilities,
                value_rows,
                Mask::Causal,
                out,
                stride,
                products,
            );
        }
    }
}

impl Heads<'_> {
    fn query_stride(&self) -> usize {
        self.sizes.head_count * self.sizes.key_length
    }

    fn key_stride(&self) -> usize {
        self.sizes.head_count_kv * self.sizes.key_length
    }

    fn value_stride(&self) -> usize {
        self.sizes.head_count_kv * self.sizes.value_length
    }

    fn out_stride(&self) -> usize {
        self.sizes.head_count * self.sizes.value_length
    }

    /// One head's queries, and the first `visible` of the keys and values it shares.
    fn rows(
        &self,
        head: usize,
        queries: std::ops::Range<usize>,
        visible: usize,
    ) -> (Rows<'_>, Rows<'_>, Rows<'_>) {
        let sizes = self.sizes;
        let shared = head / (sizes.head_count / sizes.head_count_kv);
        let first_query = queries.start * self.query_stride() + head * sizes.key_length;
        let (key, value) = (sizes.key_length, sizes.value_length);
        (
            Rows::new(&self.queries[first_query..], queries.len(), key, self.query_stride()),
            Rows::new(&self.keys[shared * key..], visible, key, self.key_stride()),
            Rows::new(&self.values[shared * value..], visible, value, self.value_stride()),
        )
    }
}
