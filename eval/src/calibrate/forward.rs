//! A block step by step, with everything that it computes on the way: rows of f32, token after
//! token, of some windows of one length.

use llq_quant::{AttentionScratch, Matrix, Rotation, Rows, causal_attention, kernels};
use rayon::prelude::*;

use super::dense::{add, product};
use crate::{
    Llama,
    llama::{Block, Linear},
};

/// What does not differ between blocks.
pub(super) struct Shared<'a> {
    pub(super) llama: &'a Llama<'a>,
    pub(super) context: usize,
    rotations: Vec<Rotation>,
    rotations_back: Vec<Rotation>,
}

/// The matrices of a block, and what is added to their products.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) query: Part<'a>,
    pub(super) key: Part<'a>,
    pub(super) value: Part<'a>,
    pub(super) output: Part<'a>,
    pub(super) gate: Part<'a>,
    pub(super) up: Part<'a>,
    pub(super) down: Part<'a>,
}

#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) matrix: Matrix<'a>,
    pub(super) bias: Option<&'a [f32]>,
}

impl<'a> Part<'a> {
    pub(super) fn of(linear: &'a Linear<'a>) -> Part<'a> {
        Part { matrix: linear.matrix, bias: linear.bias.as_deref() }
    }

    pub(super) fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut out = product(&self.matrix, x);
        if let Some(bias) = self.bias {
            out.par_chunks_mut(bias.len()).for_each(|row| add(row, bias));
        }
        out
    }
}

impl<'a> Weights<'a> {
    pub(super) fn of(block: &'a Block<'a>) -> Weights<'a> {
        Weights {
            query: Part::of(&block.query),
            key: Part::of(&block.key),
            value: Part::of(&block.value),
            output: Part::of(&block.attention_output),
            gate: Part::of(&block.gate),
            up: Part::of(&block.up),
            down: Part::of(&block.down),
        }
    }

    pub(super) fn all(&self) -> [Part<'a>; 7] {
        let Weights { query, key, value, output, gate, up, down } = *self;
        [query, key, value, output, gate, up, down]
    }
}

/// Heads of attention: queries and keys turned, queries scaled.
pub(super) struct Heads {
    pub(super) queries: Vec<f32>,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

impl<'a> Shared<'a> {
    pub(super) fn new(llama: &'a Llama<'a>, context: usize) -> Shared<'a> {
        let (rotations, rotations_back) =
            (llama.rope.rotations(context), llama.rope.rotations_back(context));
        Shared { llama, context, rotations, rotations_back }
    }

    pub(super) fn norm(&self, weight: &[f32], rows: &[f32]) -> Vec<f32> {
        let epsilon = self.llama.hyperparameters.rms_epsilon;
        let mut out = vec![0.0; rows.len()];
        out.par_chunks_mut(weight.len())
            .zip(rows.par_chunks(weight.len()))
            .for_each(|(out, row)| kernels::selected().rms_norm(row, weight, epsilon, out));
        out
    }

    pub(super) fn heads(&self, weights: &Weights<'_>, x: &[f32]) -> Heads {
        let mut queries = weights.query.apply(x);
        let mut keys = weights.key.apply(x);
        self.turn(&self.rotations, &mut queries, weights.query.matrix.rows());
        self.turn(&self.rotations, &mut keys, weights.key.matrix.rows());
        kernels::selected().scale_in_place(&mut queries, self.query_scale());
        Heads { queries, keys, values: weights.value.apply(x) }
    }

    pub(super) fn query_scale(&self) -> f32 {
        1.0 / (self.llama.hyperparameters.key_length as f32).sqrt()
    }

    pub(super) fn turn_back(&self, rows: &mut [f32], width: usize) {
        self.turn(&self.rotations_back, rows, width);
    }

    fn turn(&self, rotations: &[Rotation], rows: &mut [f32], width: usize) {
        let head_length = self.llama.hyperparameters.key_length;
        rows.par_chunks_mut(width).enumerate().for_each(|(token, row)| {
            rotations[token % self.context].apply(kernels::selected(), row, head_length);
        });
    }

    /// The values that each query sees, weighted by attention.
    pub(super) fn mix(&self, heads: &Heads) -> Vec<f32> {
        let sizes = &self.llama.hyperparameters;
        let group = sizes.head_count / sizes.head_count_kv;
        let width = sizes.head_count * sizes.value_length;
        let (query_width, key_width) =
            (sizes.head_count * sizes.key_length, sizes.head_count_kv * sizes.key_length);
        let value_width = sizes.head_count_kv * sizes.value_length;
        let mut mixed = vec![0.0; heads.queries.len() / query_width * width];
        mixed.par_chunks_mut(self.context * width).enumerate().for_each(|(window, mixed)| {
            let first = window * self.context;
            let mut scratch = AttentionScratch::default();
            let mut out = vec![0.0; self.context * group * sizes.value_length];
            for shared in 0..sizes.head_count_kv {
                let queries: Vec<Rows<'_>> = (shared * group..(shared + 1) * group)
                    .map(|head| {
                        let from = first * query_width + head * sizes.key_length;
                        let values = &heads.queries[from..];
                        Rows::new(values, self.context, sizes.key_length, query_width)
                    })
                    .collect();
                let keys = &heads.keys[first * key_width + shared * sizes.key_length..];
                let keys = Rows::new(keys, self.context, sizes.key_length, key_width);
                let values = &heads.values[first * value_width + shared * sizes.value_length..];
                let values = Rows::new(values, self.context, sizes.value_length, value_width);
                let kernels = kernels::selected();
                causal_attention(kernels, &queries, keys, values, &mut out, &mut scratch);
                let own = group * sizes.value_length;
                for (row, out) in mixed.chunks_exact_mut(width).zip(out.chunks_exact(own)) {
                    row[shared * own..(shared + 1) * own].copy_from_slice(out);
                }
            }
        });
        mixed
    }

    /// What the attention output is multiplied with.
    pub(super) fn attended(
        &self,
        block: &Block<'_>,
        weights: &Weights<'_>,
        stream: &[f32],
    ) -> Vec<f32> {
        let x = self.norm(&block.attention_norm, stream);
        self.mix(&self.heads(weights, &x))
    }

    /// What the down projection is multiplied with.
    pub(super) fn fed(&self, block: &Block<'_>, weights: &Weights<'_>, stream: &[f32]) -> Vec<f32> {
        let x = self.norm(&block.feed_forward_norm, stream);
        let (gate, up) = Shared::gate_and_up(weights, &x);
        Shared::gated(&gate, &up)
    }

    /// The stream after a block.
    pub(super) fn run(
        &self,
        block: &Block<'_>,
        weights: &Weights<'_>,
        mut stream: Vec<f32>,
    ) -> Vec<f32> {
        let mixed = self.attended(block, weights, &stream);
        add(&mut stream, &weights.output.apply(&mixed));
        let inner = self.fed(block, weights, &stream);
        add(&mut stream, &weights.down.apply(&inner));
        stream
    }

    /// Gate and up of the feed-forward network.
    pub(super) fn gate_and_up(weights: &Weights<'_>, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        (weights.gate.apply(x), weights.up.apply(x))
    }

    /// `silu(gate) * up`.
    pub(super) fn gated(gate: &[f32], up: &[f32]) -> Vec<f32> {
        const PIECE: usize = 4096;
        let mut out = up.to_vec();
        out.par_chunks_mut(PIECE)
            .zip(gate.par_chunks(PIECE))
            .for_each(|(out, gate)| kernels::selected().silu_mul(gate, out));
        out
    }
}

/// Rows of the embedding.
pub(super) fn embed(embedding: &Matrix<'_>, tokens: &[u32]) -> Vec<f32> {
    let mut stream = vec![0.0; tokens.len() * embedding.cols()];
    for (&token, row) in tokens.iter().zip(stream.chunks_exact_mut(embedding.cols())) {
        embedding.decode_row(token as usize, row);
    }
    stream
}
