//! The transformer from tokens to final hidden states: everything but the head.

mod step;

use std::ops::Range;

use llq_quant::{
    Activations, AttentionScratch, Matrix, Mode, Rotation, Scratch,
    kernels::{self, Kernels},
    matmul,
};
use rayon::prelude::*;

pub(crate) use self::step::Cache;
use super::{Block, Input, Llama, Observer, attention, slices::Slices, weights::Linear};
use crate::{pool::Pool, windows::Window};

/// Rows of a matrix that are a task at the most: the activations then pass over what stays in cache.
const MOST_ROWS: usize = 128;

/// Rows of a matrix that are a task at the least: what the kernels take at a time.
const LEAST_ROWS: usize = 32;

/// Tasks per thread at the least, where there are rows enough: threads do not wait long for the
/// last of them.
const TASKS_PER_THREAD: usize = 4;

/// A model, ready to run over windows of one length.
pub(crate) struct Body<'a> {
    llama: &'a Llama<'a>,
    mode: Mode,
    rotations: Vec<Rotation>,
    kernels: &'static Kernels,
}

/// Buffers kept from pass to pass. Those of `own` are one thread's, all others are of the size of
/// the pass.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The residual stream, token after token.
    stream: Vec<f32>,
    /// What is still to be added to the stream.
    change: Slices,
    activations: Activations,
    queries: Slices,
    keys: Slices,
    values: Slices,
    mixed: Slices,
    up: Slices,
    own: Pool<Own>,
    attention: Pool<AttentionScratch>,
}

#[derive(Debug, Default)]
struct Own {
    rows: Vec<f32>,
    gate: Vec<f32>,
    products: Scratch,
}

/// The tokens of a pass: these positions of each window, window after window.
#[derive(Clone, PartialEq)]
struct Tokens {
    windows: usize,
    positions: Range<usize>,
}

impl Tokens {
    /// The position of each token.
    fn positions(&self) -> impl Iterator<Item = usize> + Clone {
        (0..self.windows).flat_map(|_| self.positions.clone())
    }
}

impl<'a> Body<'a> {
    pub(crate) fn new(llama: &'a Llama<'a>, context: usize, mode: Mode) -> Body<'a> {
        Body { llama, mode, rotations: llama.rope.rotations(context), kernels: kernels::selected() }
    }

    pub(crate) fn llama(&self) -> &'a Llama<'a> {
        self.llama
    }

    /// Buffers for [`hidden`](Self::hidden).
    pub(crate) fn workspace(&self) -> Workspace {
        Workspace {
            stream: Vec::new(),
            change: Slices::default(),
            activations: Activations::empty(self.mode),
            queries: Slices::default(),
            keys: Slices::default(),
            values: Slices::default(),
            mixed: Slices::default(),
            up: Slices::default(),
            own: Pool::default(),
            attention: Pool::default(),
        }
    }

    /// The final hidden states, after the output norm, at the scored positions of each window: one
    /// row of `embedding_length` each, window after window. The windows are of one length; weights
    /// are read once for all of them.
    pub(crate) fn hidden(&self, windows: &[Window], work: &mut Workspace) -> Vec<f32> {
        let scored = windows.first().map_or(0..0, Window::scored);
        let all = Tokens { windows: windows.len(), positions: 0..scored.end };
        let scored = Tokens { windows: windows.len(), positions: scored };
        self.embed(windows.iter().flat_map(Window::inputs), work);
        let last = self.llama.blocks.len().saturating_sub(1);
        for index in 0..self.llama.blocks.len() {
            let updated = if index == last { &scored } else { &all };
            self.block(index, &all, updated, work, &mut ());
        }
        self.output_norm(work)
    }

    /// Runs over all tokens of the windows, which are of one length, and shows `observer` what every
    /// matrix of the blocks is multiplied by. The final hidden states are those of all tokens.
    pub(crate) fn observe(
        &self,
        windows: &[Window],
        work: &mut Workspace,
        observer: &mut impl Observer,
    ) -> Vec<f32> {
        let context = windows.first().map_or(0, |window| window.tokens().len());
        let all = Tokens { windows: windows.len(), positions: 0..context };
        self.embed(windows.iter().flat_map(Window::tokens), work);
        for index in 0..self.llama.blocks.len() {
            self.block(index, &all, &all, work, observer);
        }
        self.output_norm(work)
    }

    fn embed<'t>(&self, tokens: impl Iterator<Item = &'t u32> + Clone, work: &mut Workspace) {
        let embedding = &self.llama.embedding;
        work.stream.resize(tokens.clone().count() * embedding.cols(), 0.0);
        for (&token, row) in tokens.zip(work.stream.chunks_exact_mut(embedding.cols())) {
            embedding.decode_row(token as usize, row);
        }
        work.change.clear();
    }

    /// Runs one block over the residual stream, which has the tokens `seen` before and `updated`
    /// after it: the others only serve as keys and values.
    fn block(
        &self,
        index: usize,
        seen: &Tokens,
        updated: &Tokens,
        work: &mut Workspace,
        observer: &mut impl Observer,
    ) {
        let block = &self.llama.blocks[index];
        self.norm(&block.attention_norm, &[&block.key, &block.value, &block.query], work);
        observer.input(index, Input::Attention, &work.activations);
        self.keys_and_values(block, seen.positions(), work);
        if updated != seen {
            keep_tokens(seen, updated, &mut work.stream);
            self.norm(&block.attention_norm, &[&block.query], work);
        }
        self.queries(block, updated.positions(), work);
        self.attend(seen, updated, work);
        self.after_attention(index, work, observer);
    }

    /// The rest of a block, from what its heads mixed on.
    fn after_attention(&self, index: usize, work: &mut Workspace, observer: &mut impl Observer) {
        let block = &self.llama.blocks[index];
        load(&work.mixed, &block.attention_output, &mut work.activations, &work.own);
        observer.input(index, Input::AttentionOutput, &work.activations);
        self.linear_to_change(&block.attention_output, work);
        self.norm(&block.feed_forward_norm, &[&block.gate, &block.up], work);
        observer.input(index, Input::FeedForward, &work.activations);
        self.feed_forward(block, work);
        observer.input(index, Input::FeedForwardDown, &work.activations);
        self.linear_to_change(&block.down, work);
    }

    /// The keys and values of the tokens at these positions, keys turned.
    fn keys_and_values(
        &self,
        block: &Block<'_>,
        positions: impl Iterator<Item = usize> + Clone + Sync,
        work: &mut Workspace,
    ) {
        let sizes = &self.llama.hyperparameters;
        let Workspace { activations: x, keys, values, own, .. } = work;
        let rotate = |keys: &mut [f32], width| self.rotate(positions.clone(), keys, width);
        rayon::join(
            || self.linear(&block.key, sizes.key_length, x, keys, own, rotate),
            || self.linear(&block.value, sizes.value_length, x, values, own, |_, _| ()),
        );
    }

    /// The queries of the tokens at these positions, turned and scaled.
    fn queries(
        &self,
        block: &Block<'_>,
        positions: impl Iterator<Item = usize> + Clone + Sync,
        work: &mut Workspace,
    ) {
        let sizes = &self.llama.hyperparameters;
        let scale = 1.0 / (sizes.key_length as f32).sqrt();
        let Workspace { activations: x, queries, own, .. } = work;
        self.linear(&block.query, sizes.key_length, x, queries, own, |queries, width| {
            self.rotate(positions.clone(), queries, width);
            self.kernels.scale_in_place(queries, scale);
        });
    }

    /// Mixes the values that the queries see.
    fn attend(&self, seen: &Tokens, updated: &Tokens, work: &mut Workspace) {
        let heads = attention::Heads {
            sizes: &self.llama.hyperparameters,
            windows: seen.windows,
            queries: &work.queries,
            keys: &work.keys,
            values: &work.values,
            seen: seen.positions.len(),
            updated: updated.positions.len(),
        };
        heads.mix(self.kernels, &mut work.mixed, &work.attention);
    }

    /// What gate and up make, as the activations of down. The gate exists for the rows of a task
    /// only.
    fn feed_forward(&self, block: &Block<'_>, work: &mut Workspace) {
        let Workspace { activations: x, up, own, .. } = work;
        let rows = block.up.matrix.rows();
        up.reshape(x.tokens(), rows, task_rows(rows, 1));
        up.par_slices_mut().for_each(|(rows, up)| {
            own.with(|own| {
                own.gate.resize(up.len(), 0.0);
                multiply(&block.gate, &rows, x, &mut own.gate, &mut own.products, self.kernels);
                multiply(&block.up, &rows, x, up, &mut own.products, self.kernels);
                self.kernels.silu_mul(&own.gate, up);
            });
        });
        load(up, &block.down, x, own);
    }

    /// The product that is added to the stream, to `work.change`.
    fn linear_to_change(&self, linear: &Linear<'_>, work: &mut Workspace) {
        let Workspace { activations: x, change, own, .. } = work;
        self.linear(linear, 1, x, change, own, |_, _| ());
    }

    /// Adds `work.change` to the stream, and makes its norm the activations of `consumers`.
    fn norm(&self, weight: &[f32], consumers: &[&Linear<'_>], work: &mut Workspace) {
        let Workspace { stream, change, activations, own, .. } = work;
        let matrices: Vec<&Matrix<'_>> = consumers.iter().map(|linear| &linear.matrix).collect();
        let parts = activations.parts(stream.len() / weight.len(), weight.len(), &matrices);
        let rows = stream.par_chunks_mut(Activations::PART_TOKENS * weight.len());
        parts.into_par_iter().zip(rows).enumerate().for_each(|(part, (place, rows))| {
            own.with(|own| {
                own.rows.resize(rows.len(), 0.0);
                let first = part * Activations::PART_TOKENS;
                self.norm_rows(change, first, rows, weight, &mut own.rows);
                place.fill(&own.rows);
            });
        });
        change.clear();
    }

    /// As [`norm`](Self::norm), but for the head.
    fn output_norm(&self, work: &mut Workspace) -> Vec<f32> {
        let weight = &self.llama.output_norm;
        let mut hidden = vec![0.0; work.stream.len()];
        let rows = work.stream.par_chunks_mut(weight.len());
        hidden.par_chunks_mut(weight.len()).zip(rows).enumerate().for_each(
            |(token, (hidden, row))| self.norm_rows(&work.change, token, row, weight, hidden),
        );
        hidden
    }

    /// Adds `change` to the rows of the stream from token `first` on, and norms them.
    fn norm_rows(
        &self,
        change: &Slices,
        first: usize,
        rows: &mut [f32],
        weight: &[f32],
        out: &mut [f32],
    ) {
        let epsilon = self.llama.hyperparameters.rms_epsilon;
        let rows = rows.chunks_exact_mut(weight.len()).zip(out.chunks_exact_mut(weight.len()));
        for (token, (row, out)) in (first..).zip(rows) {
            change.add_row(self.kernels, token, row);
            self.kernels.rms_norm(row, weight, epsilon, out);
        }
    }

    /// The product, in slices of whole heads of `head_length` rows. `finish` gets each slice while
    /// it is in cache, and its width.
    fn linear(
        &self,
        linear: &Linear<'_>,
        head_length: usize,
        x: &Activations,
        out: &mut Slices,
        own: &Pool<Own>,
        finish: impl Fn(&mut [f32], usize) + Sync,
    ) {
        let rows = linear.matrix.rows();
        out.reshape(x.tokens(), rows, task_rows(rows, head_length));
        out.par_slices_mut().for_each(|(rows, out)| {
            own.with(|own| multiply(linear, &rows, x, out, &mut own.products, self.kernels));
            finish(out, rows.len());
        });
    }

    /// Turns the heads of each token's row of `width` columns.
    fn rotate(&self, positions: impl Iterator<Item = usize>, rows: &mut [f32], width: usize) {
        let head_length = self.llama.hyperparameters.key_length;
        for (position, row) in positions.zip(rows.chunks_exact_mut(width)) {
            self.rotations[position].apply(self.kernels, row, head_length);
        }
    }
}

/// The product by some rows of a matrix.
fn multiply(
    linear: &Linear<'_>,
    rows: &Range<usize>,
    x: &Activations,
    out: &mut [f32],
    scratch: &mut Scratch,
    kernels: &Kernels,
) {
    matmul(&linear.matrix.row_range(rows.clone()), x, out, scratch);
    if let Some(bias) = &linear.bias {
        for row in out.chunks_exact_mut(rows.len()) {
            kernels.add_assign(row, &bias[rows.clone()]);
        }
    }
}

/// Makes `values` the activations of `consumer`.
fn load(values: &Slices, consumer: &Linear<'_>, x: &mut Activations, own: &Pool<Own>) {
    let cols = consumer.matrix.cols();
    let parts = x.parts(values.tokens(), cols, &[&consumer.matrix]);
    parts.into_par_iter().enumerate().for_each(|(part, place)| {
        own.with(|own| {
            own.rows.resize(place.tokens() * cols, 0.0);
            for (token, row) in own.rows.chunks_exact_mut(cols).enumerate() {
                values.copy_row(part * Activations::PART_TOKENS + token, row);
            }
            place.fill(&own.rows);
        });
    });
}

/// Drops the rows of tokens that are not in `kept`.
fn keep_tokens(seen: &Tokens, kept: &Tokens, stream: &mut Vec<f32>) {
    let width = stream.len() / (seen.windows * seen.positions.len()).max(1);
    for window in 0..seen.windows {
        let from = (window * seen.positions.len() + kept.positions.start) * width;
        let len = kept.positions.len() * width;
        stream.copy_within(from..from + len, window * len);
    }
    stream.truncate(kept.windows * kept.positions.len() * width);
}

/// Rows of a matrix of so many that are a task of one thread, in whole heads.
fn task_rows(rows: usize, head_length: usize) -> usize {
    let share = rows / (TASKS_PER_THREAD * rayon::current_num_threads());
    let share = share.clamp(LEAST_ROWS, MOST_ROWS) / LEAST_ROWS * LEAST_ROWS;
    share.next_multiple_of(head_length)
}
