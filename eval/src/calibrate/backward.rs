//! How much the model's prediction feels an error in the output of each matrix.
//!
//! The second-order change of the KL divergence is the Fisher information: gradients of the
//! log-likelihood of tokens drawn from the model's own prediction, squared. Of it the factor that
//! belongs to the outputs of each matrix is kept, `A = Σ g gᵀ` (Martens and Grosse, "K-FAC", 2015;
//! for rounding Tseng et al., "YAQA", 2025).

#[cfg(test)]
mod tests;

use std::io;

use llq_quant::{Activations, Matrix, Mode, Scratch, kernels, matmul};
use rayon::prelude::*;

use super::{
    CalibrationProgress, Finished, Pass, Use,
    dense::{Dense, add, product, product_back, transposed},
    forward::{Heads, Part, Shared, Weights, embed},
    moments::Moments,
    solve::Lookup,
};
use crate::{Error, error::Result, llama::Block};

/// What errors cost in the outputs of a block's matrices.
pub(super) struct Sensitivity {
    pub(super) query: Moments,
    pub(super) key: Moments,
    pub(super) value: Moments,
    pub(super) output: Moments,
    pub(super) gate: Moments,
    pub(super) up: Moments,
    pub(super) down: Moments,
}

/// Of all blocks, which are kept apart, and of the embedding.
pub(super) struct Sensitivities<'a> {
    finished: &'a dyn Finished,
    /// Rows whose errors are felt together.
    rows: usize,
    pub(super) embedding: Lookup,
}

/// What the sums may take in memory. Where whole squares take more there are smaller ones.
const MOST_BYTES: usize = 2 << 30;

/// Rows of these.
const SQUARE_ROWS: usize = 256;

/// Fewer are not worth it.
const LEAST_ROWS: usize = 8;

/// Passes that are summed over at the most: 32,768 tokens of windows of 512 to fit, and 4,096 to judge.
pub(super) const FITTED_PASSES: usize = 16;
pub(super) const JUDGING_PASSES: usize = 2;

/// Logits that exist at once.
pub(super) const LOGITS: usize = 1 << 27;

/// What the streams of a pass before each block may take in memory; otherwise fewer windows pass
/// together.
pub(super) const STREAM_BYTES: usize = 1 << 30;

/// Names under which the sums are kept, in that of a block its index.
const EMBEDDING: &str = "sensitivity";
fn block_name(index: usize) -> String {
    format!("sensitivity.{index}")
}

impl<'a> Sensitivities<'a> {
    /// Sums over some windows, or the sums that were kept. `None` where they would take too much
    /// memory or are not finite.
    pub(super) fn of(
        shared: &Shared<'_>,
        passes: &[Pass],
        finished: &'a dyn Finished,
        progress: &dyn CalibrationProgress,
    ) -> Result<Option<Sensitivities<'a>>> {
        let width = shared.llama.hyperparameters.embedding_length;
        let mut embedding = Lookup { fitting: Moments::zero(width), judging: Moments::zero(width) };
        // Asked before anything of that size is made.
        let Some(rows) = square_rows(shared) else {
            passes.iter().for_each(|_| progress.step());
            return Ok(None);
        };
        if let Some(bytes) = finished.load(EMBEDDING, 2 * size_of::<f32>() * width * width) {
            let Lookup { fitting, judging } = &mut embedding;
            read([fitting, judging], &bytes);
            passes.iter().for_each(|_| progress.step());
            return Ok(Some(Sensitivities { finished, rows, embedding }));
        }
        let blocks = shared.llama.blocks.iter();
        let mut blocks: Vec<Sensitivity> =
            blocks.map(|block| Sensitivity::zero(&Weights::of(block), rows)).collect();
        let window_bytes = shared.context * width * size_of::<f32>() * blocks.len();
        let together = (STREAM_BYTES / window_bytes.max(1)).max(1) * shared.context;
        let mut left = [FITTED_PASSES, JUDGING_PASSES];
        for (index, pass) in passes.iter().enumerate() {
            let (left, sums) = match pass.use_for {
                Use::Fitting => (&mut left[0], &mut embedding.fitting),
                Use::Judging => (&mut left[1], &mut embedding.judging),
            };
            if *left > 0 {
                *left -= 1;
                for (part, tokens) in pass.tokens.chunks(together).enumerate() {
                    let seed = ((index as u64) << 32) + (part * together) as u64;
                    let blocks = (pass.use_for == Use::Fitting).then_some(&mut *blocks);
                    add_pass(shared, tokens, seed, blocks, sums);
                }
            }
            progress.step();
        }
        if passes.iter().all(|pass| pass.use_for == Use::Fitting) {
            embedding.judging = embedding.fitting.clone();
        }
        let all = blocks.iter().flat_map(Sensitivity::all);
        if !all.chain([&embedding.fitting, &embedding.judging]).all(Moments::are_finite) {
            return Ok(None);
        }
        for (index, block) in blocks.iter().enumerate() {
            store(finished, &block_name(index), block.all())?;
        }
        // Last, as it says that all are there.
        store(finished, EMBEDDING, [&embedding.fitting, &embedding.judging])?;
        Ok(Some(Sensitivities { finished, rows, embedding }))
    }

    /// That of a block.
    pub(super) fn block(&self, index: usize, weights: &Weights<'_>) -> Result<Sensitivity> {
        let mut sums = Sensitivity::zero(weights, self.rows);
        let len: usize =
            weights.all().iter().map(|part| Moments::len(part.matrix.rows(), self.rows)).sum();
        let name = block_name(index);
        let Some(bytes) = self.finished.load(&name, len * size_of::<f32>()) else {
            return Err(Error::Finished { name, source: io::ErrorKind::NotFound.into() });
        };
        read(sums.all_mut(), &bytes);
        Ok(sums)
    }
}

fn read<'a>(moments: impl IntoIterator<Item = &'a mut Moments>, bytes: &[u8]) {
    let values = moments.into_iter().flat_map(Moments::values_mut);
    for (value, bytes) in values.zip(bytes.as_chunks().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

fn store<'a>(
    finished: &dyn Finished,
    name: &str,
    moments: impl IntoIterator<Item = &'a Moments>,
) -> Result<()> {
    let values = moments.into_iter().flat_map(Moments::values);
    let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
    finished.store(name, &bytes).map_err(|source| Error::Finished { name: name.to_owned(), source })
}

/// Rows whose errors are felt together: all of a matrix, or as many as memory has room for. `None`
/// where that is too few.
pub(super) fn square_rows(shared: &Shared<'_>) -> Option<usize> {
    let matrices = shared.llama.blocks.iter().flat_map(|block| Weights::of(block).all());
    let matrices: Vec<usize> = matrices.map(|part| part.matrix.rows()).collect();
    let fits = |rows: &usize| {
        let sums = matrices.iter().map(|&matrix| Moments::len(matrix, matrix.min(*rows)));
        sums.fold(0, usize::saturating_add) <= MOST_BYTES / size_of::<f32>()
    };
    let halved = std::iter::successors(Some(SQUARE_ROWS), |rows| Some(rows / 2));
    let halved = halved.take_while(|&rows| rows >= LEAST_ROWS);
    [matrices.iter().copied().max()?].into_iter().chain(halved).find(fits)
}

/// Adds the gradients of some windows, to the blocks only if there are any given.
fn add_pass(
    shared: &Shared<'_>,
    tokens: &[u32],
    seed: u64,
    blocks: Option<&mut [Sensitivity]>,
    embedding: &mut Moments,
) {
    let llama = shared.llama;
    let mut stream = embed(&llama.embedding, tokens);
    let mut streams = Vec::with_capacity(llama.blocks.len());
    for block in &llama.blocks {
        let after = shared.run(block, &Weights::of(block), stream.clone());
        streams.push(stream);
        stream = after;
    }
    let hidden = shared.norm(&llama.output_norm, &stream);
    // An embedding that is the head as well has other errors to fear.
    if llama.output.is_none() {
        embedding.add(&hidden);
    }
    if llama.output.is_none() && blocks.is_none() {
        return;
    }
    let gradient = head_gradient(llama.head(), &hidden, seed);
    let mut gradient = norm_gradient(shared, &llama.output_norm, &stream, &gradient);
    let mut blocks = blocks;
    for (index, stream) in streams.iter().enumerate().rev() {
        let sums = blocks.as_deref_mut().map(|blocks| &mut blocks[index]);
        let block = &llama.blocks[index];
        gradient = add_block(shared, block, &Weights::of(block), sums, stream, gradient);
    }
    if llama.output.is_some() {
        embedding.add(&gradient);
    }
}

impl Sensitivity {
    fn zero(weights: &Weights<'_>, rows: usize) -> Sensitivity {
        let of = |part: &Part<'_>| {
            let all = part.matrix.rows();
            Moments::of_squares(all, all.min(rows))
        };
        Sensitivity {
            query: of(&weights.query),
            key: of(&weights.key),
            value: of(&weights.value),
            output: of(&weights.output),
            gate: of(&weights.gate),
            up: of(&weights.up),
            down: of(&weights.down),
        }
    }

    fn all(&self) -> [&Moments; 7] {
        let Sensitivity { query, key, value, output, gate, up, down } = self;
        [query, key, value, output, gate, up, down]
    }

    fn all_mut(&mut self) -> [&mut Moments; 7] {
        let Sensitivity { query, key, value, output, gate, up, down } = self;
        [query, key, value, output, gate, up, down]
    }
}

/// Adds what the gradient of the stream after a block says; returns that of the stream before.
fn add_block(
    shared: &Shared<'_>,
    block: &Block<'_>,
    weights: &Weights<'_>,
    sums: Option<&mut Sensitivity>,
    stream: &[f32],
    mut gradient: Vec<f32>,
) -> Vec<f32> {
    let x = shared.norm(&block.attention_norm, stream);
    let heads = shared.heads(weights, &x);
    let mixed = shared.mix(&heads);
    let mut middle = weights.output.apply(&mixed);
    add(&mut middle, stream);
    let inner = shared.norm(&block.feed_forward_norm, &middle);
    let (gate, up) = Shared::gate_and_up(weights, &inner);

    let to_middle_and_on = gradient.clone();
    let mut to_gate = product_back(&weights.down.matrix, &gradient);
    let mut to_up = to_gate.clone();
    gated_gradient(&gate, &up, &mut to_gate, &mut to_up);
    let mut to_inner = product_back(&weights.gate.matrix, &to_gate);
    add(&mut to_inner, &product_back(&weights.up.matrix, &to_up));
    add(&mut gradient, &norm_gradient(shared, &block.feed_forward_norm, &middle, &to_inner));

    let to_mixed = product_back(&weights.output.matrix, &gradient);
    let to_heads = attention_gradient(shared, &heads, &to_mixed);
    if let Some(sums) = sums {
        sums.down.add(&to_middle_and_on);
        sums.gate.add(&to_gate);
        sums.up.add(&to_up);
        sums.output.add(&gradient);
        sums.query.add(&to_heads.queries);
        sums.key.add(&to_heads.keys);
        sums.value.add(&to_heads.values);
    }
    let mut to_x = product_back(&weights.query.matrix, &to_heads.queries);
    add(&mut to_x, &product_back(&weights.key.matrix, &to_heads.keys));
    add(&mut to_x, &product_back(&weights.value.matrix, &to_heads.values));
    add(&mut gradient, &norm_gradient(shared, &block.attention_norm, stream, &to_x));
    gradient
}

/// The gradient of the hidden states: of the log-likelihood of a token drawn for each.
fn head_gradient(head: &Matrix<'_>, hidden: &[f32], seed: u64) -> Vec<f32> {
    let turn = (LOGITS / head.rows()).max(1);
    let turns = hidden.chunks(turn * head.cols());
    turns
        .enumerate()
        .flat_map(|(index, hidden)| {
            let first = seed + (index * turn) as u64;
            let mut logits = product(head, hidden);
            logits.par_chunks_mut(head.rows()).enumerate().for_each(|(token, row)| {
                kernels::selected().softmax_in_place(row);
                let drawn = draw(row, uniform(first + token as u64));
                row[drawn] -= 1.0;
            });
            product_back(head, &logits)
        })
        .collect()
}

/// The index at which the running sum of the probabilities passes `at`.
fn draw(probabilities: &[f32], at: f64) -> usize {
    let mut sum = 0.0;
    for (index, &probability) in probabilities.iter().enumerate() {
        sum += f64::from(probability);
        if sum > at {
            return index;
        }
    }
    probabilities.len() - 1
}

/// A number of 0..1 for each seed (Steele et al., "SplittableRandom", 2014).
fn uniform(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as f64 / 2f64.powi(64)
}

/// Through `row / sqrt(mean(row²) + eps) * weight`.
fn norm_gradient(shared: &Shared<'_>, weight: &[f32], rows: &[f32], gradient: &[f32]) -> Vec<f32> {
    let epsilon = shared.llama.hyperparameters.rms_epsilon;
    let width = weight.len();
    let mut out = vec![0.0; rows.len()];
    let parts = rows.par_chunks(width).zip(gradient.par_chunks(width));
    out.par_chunks_mut(width).zip(parts).for_each(|(out, (row, gradient))| {
        let square = row.iter().map(|x| x * x).sum::<f32>() / width as f32;
        let inverse = 1.0 / (square + epsilon).sqrt();
        let along: f32 = row.iter().zip(gradient).zip(weight).map(|((x, g), w)| x * g * w).sum();
        let share = inverse * inverse * along / width as f32;
        for (((out, x), g), w) in out.iter_mut().zip(row).zip(gradient).zip(weight) {
            *out = inverse * (g * w - x * share);
        }
    });
    out
}

/// Through `silu(gate) * up`; both outputs hold the gradient of the product before.
fn gated_gradient(gate: &[f32], up: &[f32], to_gate: &mut [f32], to_up: &mut [f32]) {
    const PIECE: usize = 4096;
    let inputs = gate.par_chunks(PIECE).zip(up.par_chunks(PIECE));
    let outputs = to_gate.par_chunks_mut(PIECE).zip(to_up.par_chunks_mut(PIECE));
    inputs.zip(outputs).for_each(|((gate, up), (to_gate, to_up))| {
        for (((gate, up), to_gate), to_up) in gate.iter().zip(up).zip(to_gate).zip(to_up) {
            let sigmoid = 1.0 / (1.0 + (-gate).exp());
            *to_gate *= up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
            *to_up *= gate * sigmoid;
        }
    });
}

/// Through attention, to the outputs of the matrices: before scaling and turning.
fn attention_gradient(shared: &Shared<'_>, heads: &Heads, to_mixed: &[f32]) -> Heads {
    let sizes = &shared.llama.hyperparameters;
    let (count, count_kv) = (sizes.head_count, sizes.head_count_kv);
    let (key_length, value_length) = (sizes.key_length, sizes.value_length);
    let group = count / count_kv;
    let context = shared.context;
    let windows = heads.queries.len() / (context * count * key_length);
    // Each key-value head of each window by itself, then all put into place.
    let parts: Vec<[Vec<f32>; 3]> = (0..windows * count_kv)
        .into_par_iter()
        .map(|part| {
            let (window, shared_head) = (part / count_kv, part % count_kv);
            let of = |values: &[f32], head: usize, cols: usize, all: usize| {
                gathered(values, window * context, context, head * cols, cols, all * cols)
            };
            let keys = of(&heads.keys, shared_head, key_length, count_kv);
            let values = of(&heads.values, shared_head, value_length, count_kv);
            let mut to_queries = vec![0.0; context * group * key_length];
            let mut to_keys = vec![0.0; context * key_length];
            let mut to_values = vec![0.0; context * value_length];
            for member in 0..group {
                let head = shared_head * group + member;
                let queries = of(&heads.queries, head, key_length, count);
                let to_head = of(to_mixed, head, value_length, count);
                let mut scores = plain_product(&keys, &queries, key_length);
                let mut to_scores = plain_product(&values, &to_head, value_length);
                for (position, (row, to)) in scores
                    .chunks_exact_mut(context)
                    .zip(to_scores.chunks_exact_mut(context))
                    .enumerate()
                {
                    let (seen, unseen) = row.split_at_mut(position + 1);
                    kernels::selected().softmax_in_place(seen);
                    unseen.fill(0.0);
                    let (to, to_unseen) = to.split_at_mut(position + 1);
                    let mean: f32 = seen.iter().zip(&*to).map(|(p, t)| p * t).sum();
                    for (to, p) in to.iter_mut().zip(seen) {
                        *to = *p * (*to - mean);
                    }
                    to_unseen.fill(0.0);
                }
                let own = plain_product(&transposed(&keys, key_length), &to_scores, context);
                let rows = to_queries.chunks_exact_mut(group * key_length);
                for (row, own) in rows.zip(own.chunks_exact(key_length)) {
                    row[member * key_length..(member + 1) * key_length].copy_from_slice(own);
                }
                let to_scores = transposed(&to_scores, context);
                let queries = transposed(&queries, key_length);
                add(&mut to_keys, &plain_product(&queries, &to_scores, context));
                let scores = transposed(&scores, context);
                let to_head = transposed(&to_head, value_length);
                add(&mut to_values, &plain_product(&to_head, &scores, context));
            }
            [to_queries, to_keys, to_values]
        })
        .collect();
    let place = |which: usize, cols: usize| {
        let width = count_kv * cols;
        let mut out = vec![0.0; windows * context * width];
        for (part, values) in parts.iter().enumerate() {
            let (window, head) = (part / count_kv, part % count_kv);
            let rows = out[window * context * width..].chunks_exact_mut(width);
            for (row, values) in rows.zip(values[which].chunks_exact(cols)) {
                row[head * cols..(head + 1) * cols].copy_from_slice(values);
            }
        }
        out
    };
    let mut queries = place(0, group * key_length);
    let mut keys = place(1, key_length);
    let values = place(2, value_length);
    kernels::selected().scale_in_place(&mut queries, shared.query_scale());
    shared.turn_back(&mut queries, count * key_length);
    shared.turn_back(&mut keys, count_kv * key_length);
    Heads { queries, keys, values }
}

/// Columns `column..column + cols` of `rows` rows.
fn gathered(
    values: &[f32],
    first: usize,
    rows: usize,
    column: usize,
    cols: usize,
    width: usize,
) -> Vec<f32> {
    let rows = values[first * width..].chunks_exact(width).take(rows);
    rows.flat_map(|row| &row[column..column + cols]).copied().collect()
}

/// `x · wᵀ` by one thread, rows of `cols`.
fn plain_product(w: &[f32], x: &[f32], cols: usize) -> Vec<f32> {
    let w = Dense::new(w.len() / cols, cols, w.to_vec());
    let x = Activations::new(Mode::Exact, x, cols);
    let mut out = vec![0.0; x.tokens() * w.rows];
    matmul(&w.matrix(), &x, &mut out, &mut Scratch::default());
    out
}
