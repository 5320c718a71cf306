//! The transformer from tokens to final hidden states: everything but the head.

use std::ops::Range;

use llq_quant::{
    Activations, Mode, Scratch,
    kernels::{self, Kernels},
    matmul,
};

use super::{Block, Llama, attention, rope::Rotations, weights::Linear};

/// A model, ready to run over windows of one length.
pub(crate) struct Body<'a> {
    llama: &'a Llama<'a>,
    mode: Mode,
    rotations: Rotations,
    kernels: &'static Kernels,
}

/// Buffers of one thread, kept from window to window. All are positions × width.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    normed: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    mixed: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    change: Vec<f32>,
    activations: Option<Activations>,
    products: Scratch,
    attention: attention::Workspace,
}

impl<'a> Body<'a> {
    pub(crate) fn new(llama: &'a Llama<'a>, context: usize, mode: Mode) -> Body<'a> {
        Body { llama, mode, rotations: llama.rope.rotations(context), kernels: kernels::selected() }
    }

    pub(crate) fn llama(&self) -> &'a Llama<'a> {
        self.llama
    }

    /// The final hidden states, after the output norm, at the positions `scored` of a window: one
    /// row of `embedding_length` each. `scored` ends where the tokens end.
    pub(crate) fn hidden(
        &self,
        tokens: &[u32],
        scored: Range<usize>,
        workspace: &mut Workspace,
    ) -> Vec<f32> {
        let width = self.llama.hyperparameters.embedding_length;
        let mut stream = self.embed(tokens);
        if let Some((last, others)) = self.llama.blocks.split_last() {
            for block in others {
                self.block(block, &mut stream, 0, workspace);
            }
            self.block(last, &mut stream, scored.start, workspace);
        }
        let mut hidden = Vec::new();
        let scored = &stream[scored.start * width..scored.end * width];
        self.norm(scored, &self.llama.output_norm, &mut hidden);
        hidden
    }

    fn embed(&self, tokens: &[u32]) -> Vec<f32> {
        let embedding = &self.llama.embedding;
        let mut stream = vec![0.0; tokens.len() * embedding.cols()];
        for (&token, row) in tokens.iter().zip(stream.chunks_exact_mut(embedding.cols())) {
            embedding.decode_row(token as usize, row);
        }
        stream
    }

    /// Runs one block over the residual stream. Rows before `first` only serve as keys and values:
    /// they are not updated.
    fn block(&self, block: &Block<'_>, stream: &mut [f32], first: usize, work: &mut Workspace) {
        let updated = first * self.llama.hyperparameters.embedding_length;
        self.attend(block, stream, first, work);
        self.kernels.add_assign(&mut stream[updated..], &work.change);
        self.feed_forward(block, &stream[updated..], work);
        self.kernels.add_assign(&mut stream[updated..], &work.change);
    }

    /// What attention adds to the rows of `stream` from `first` on, to `work.change`.
    fn attend(&self, block: &Block<'_>, stream: &[f32], first: usize, work: &mut Workspace) {
        let sizes = &self.llama.hyperparameters;
        self.norm(stream, &block.attention_norm, &mut work.normed);
        let x = activations(&mut work.activations, self.mode, &work.normed, sizes.embedding_length);
        self.linear(&block.key, x, &mut work.keys, &mut work.products);
        self.linear(&block.value, x, &mut work.values, &mut work.products);
        if first > 0 {
            x.refill(&work.normed[first * sizes.embedding_length..], sizes.embedding_length);
        }
        self.linear(&block.query, x, &mut work.queries, &mut work.products);
        self.rotate(&mut work.keys, 0, sizes.head_count_kv);
        self.rotate(&mut work.queries, first, sizes.head_count);
        let scale = 1.0 / (sizes.key_length as f32).sqrt();
        self.kernels.scale_in_place(&mut work.queries, scale);
        let heads = attention::Heads {
            sizes,
            queries: &work.queries,
            keys: &work.keys,
            values: &work.values,
        };
        attention::causal(self.kernels, &heads, &mut work.mixed, &mut work.attention);
        let mixed_length = sizes.head_count * sizes.value_length;
        let x = activations(&mut work.activations, self.mode, &work.mixed, mixed_length);
        self.linear(&block.attention_output, x, &mut work.change, &mut work.products);
    }

    /// What the feed-forward network adds to `stream`, to `work.change`.
    fn feed_forward(&self, block: &Block<'_>, stream: &[f32], work: &mut Workspace) {
        let sizes = &self.llama.hyperparameters;
        self.norm(stream, &block.feed_forward_norm, &mut work.normed);
        let x = activations(&mut work.activations, self.mode, &work.normed, sizes.embedding_length);
        self.linear(&block.gate, x, &mut work.gate, &mut work.products);
        self.linear(&block.up, x, &mut work.up, &mut work.products);
        self.kernels.silu_mul(&work.gate, &mut work.up);
        let x = activations(&mut work.activations, self.mode, &work.up, sizes.feed_forward_length);
        self.linear(&block.down, x, &mut work.change, &mut work.products);
    }

    fn norm(&self, rows: &[f32], weight: &[f32], out: &mut Vec<f32>) {
        let epsilon = self.llama.hyperparameters.rms_epsilon;
        out.resize(rows.len(), 0.0);
        let width = weight.len();
        for (row, out) in rows.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            self.kernels.rms_norm(row, weight, epsilon, out);
        }
    }

    fn linear(&self, linear: &Linear<'_>, x: &Activations, out: &mut Vec<f32>, work: &mut Scratch) {
        let rows = linear.matrix.rows();
        out.resize(rows * x.tokens(), 0.0);
        matmul(&linear.matrix, x, out, work);
        if let Some(bias) = &linear.bias {
            for row in out.chunks_exact_mut(rows) {
                self.kernels.add_assign(row, bias);
            }
        }
    }

    /// Turns the heads of each row; the first row is at position `first`.
    fn rotate(&self, rows: &mut [f32], first: usize, heads: usize) {
        let head_length = self.llama.hyperparameters.key_length;
        for (position, row) in (first..).zip(rows.chunks_exact_mut(heads * head_length)) {
            self.rotations.apply(position, row, head_length);
        }
    }
}

/// `values` as activations, in the buffers of `kept`.
fn activations<'w>(
    kept: &'w mut Option<Activations>,
    mode: Mode,
    values: &[f32],
    cols: usize,
) -> &'w mut Activations {
    match kept.take_if(|kept| kept.mode() == mode) {
        Some(mut activations) => {
            activations.refill(values, cols);
            kept.insert(activations)
        }
        None => kept.insert(Activations::new(mode, values, cols)),
    }
}
