//! How much the model's prediction feels an error in the output of each matrix.
//!
//! The second-order change of the KL divergence is the Fisher information: gradients of the
//! log-likelihood of tokens drawn from the model's own prediction, squared. Of it the factor that
//! belongs to the outputs of each matrix is kept, `A = Σ g gᵀ` (Martens and Grosse, "K-FAC", 2015;
//! for rounding Tseng et al., "YAQA", 2025).

use llq_quant::{Activations, Matrix, Mode, Scratch, kernels, matmul};
use rayon::prelude::*;

use super::{
    CalibrationProgress, Finished, Pass, Use,
    dense::{Dense, add, product, transposed},
    forward::{Heads, Shared, Weights, embed},
    moments::Moments,
};
use crate::{Error, error::Result, llama::Block};

/// Transposed matrices of a block, for the way back.
struct Back {
    query: Dense,
    key: Dense,
    value: Dense,
    output: Dense,
    gate: Dense,
    up: Dense,
    down: Dense,
}

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

/// Of all blocks, and of the embedding.
pub(super) struct Sensitivities {
    pub(super) blocks: Vec<Sensitivity>,
    pub(super) embedding: Moments,
}

/// What the sums may take in memory; where they would take more, rows are rounded each by itself.
pub(super) const MOST_BYTES: usize = 2 << 30;

/// Passes that are summed over at the most: 32,768 tokens of windows of 512.
const MOST_PASSES: usize = 16;

/// Name under which the sums are kept.
const NAME: &str = "sensitivity";

impl Sensitivities {
    /// Sums over the windows that are fitted, or the sums that were kept. `None` where they would
    /// take too much memory or are not finite.
    pub(super) fn of(
        shared: &Shared<'_>,
        passes: &[Pass],
        finished: &dyn Finished,
        progress: &dyn CalibrationProgress,
    ) -> Result<Option<Sensitivities>> {
        // Asked before anything of that size is made.
        let len = Sensitivities::len(shared);
        if len.saturating_mul(size_of::<f64>()) > MOST_BYTES {
            passes.iter().for_each(|_| progress.step());
            return Ok(None);
        }
        let mut sums = Sensitivities::zero(shared);
        if let Some(bytes) = finished.load(NAME, len * size_of::<f64>()) {
            let sums_of = sums.all().into_iter().flat_map(|moments| &mut moments.sums);
            for (sum, bytes) in sums_of.zip(bytes.as_chunks().0) {
                *sum = f64::from_le_bytes(*bytes);
            }
            passes.iter().for_each(|_| progress.step());
            return Ok(Some(sums));
        }
        let head = Dense::of(shared.llama.head()).transposed();
        for (index, pass) in passes.iter().enumerate() {
            if pass.use_for == Use::Fitting && index < MOST_PASSES {
                sums.add(shared, &head, index, &pass.tokens);
            }
            progress.step();
        }
        let all = sums.all();
        if all.iter().any(|moments| moments.sums.iter().any(|sum| !sum.is_finite())) {
            return Ok(None);
        }
        let values = all.iter().flat_map(|moments| &moments.sums);
        let bytes: Vec<u8> = values.flat_map(|sum| sum.to_le_bytes()).collect();
        finished
            .store(NAME, &bytes)
            .map_err(|source| Error::Finished { name: NAME.to_owned(), source })?;
        Ok(Some(sums))
    }

    /// How many sums there are.
    fn len(shared: &Shared<'_>) -> usize {
        let square = |size: usize| size.saturating_mul(size);
        let blocks = shared.llama.blocks.iter().flat_map(|block| {
            let Weights { query, key, value, output, gate, up, down } = Weights::of(block);
            [query, key, value, output, gate, up, down].map(|part| square(part.matrix.rows()))
        });
        let embedding = square(shared.llama.hyperparameters.embedding_length);
        blocks.fold(embedding, usize::saturating_add)
    }

    fn zero(shared: &Shared<'_>) -> Sensitivities {
        let llama = shared.llama;
        let blocks = llama.blocks.iter().map(|block| Sensitivity::zero(&Weights::of(block)));
        let embedding = Moments::zero(llama.hyperparameters.embedding_length);
        Sensitivities { blocks: blocks.collect(), embedding }
    }

    fn all(&mut self) -> Vec<&mut Moments> {
        let blocks = self.blocks.iter_mut().flat_map(|block| {
            let Sensitivity { query, key, value, output, gate, up, down } = block;
            [query, key, value, output, gate, up, down]
        });
        blocks.chain([&mut self.embedding]).collect()
    }

    /// Adds the gradients of some windows, given the transposed head.
    fn add(&mut self, shared: &Shared<'_>, head: &Dense, pass: usize, tokens: &[u32]) {
        let llama = shared.llama;
        let mut stream = embed(&llama.embedding, tokens);
        let mut streams = Vec::with_capacity(llama.blocks.len());
        for block in &llama.blocks {
            let after = shared.run(block, &Weights::of(block), stream.clone());
            streams.push(stream);
            stream = after;
        }
        let hidden = shared.norm(&llama.output_norm, &stream);
        let gradient = head_gradient(llama.head(), head, &hidden, pass);
        let mut gradient = norm_gradient(shared, &llama.output_norm, &stream, &gradient);
        for ((block, sums), stream) in llama.blocks.iter().zip(&mut self.blocks).zip(&streams).rev()
        {
            let weights = Weights::of(block);
            let back = Back::of(&weights);
            gradient = sums.add(shared, block, &weights, &back, stream, gradient);
        }
        self.embedding.add(&gradient, &gradient);
    }
}

impl Back {
    fn of(weights: &Weights<'_>) -> Back {
        let of = |matrix: &Matrix<'_>| Dense::of(matrix).transposed();
        Back {
            query: of(&weights.query.matrix),
            key: of(&weights.key.matrix),
            value: of(&weights.value.matrix),
            output: of(&weights.output.matrix),
            gate: of(&weights.gate.matrix),
            up: of(&weights.up.matrix),
            down: of(&weights.down.matrix),
        }
    }
}

impl Sensitivity {
    fn zero(weights: &Weights<'_>) -> Sensitivity {
        let of = |matrix: &Matrix<'_>| Moments::zero(matrix.rows());
        Sensitivity {
            query: of(&weights.query.matrix),
            key: of(&weights.key.matrix),
            value: of(&weights.value.matrix),
            output: of(&weights.output.matrix),
            gate: of(&weights.gate.matrix),
            up: of(&weights.up.matrix),
            down: of(&weights.down.matrix),
        }
    }

    /// Adds what the gradient of the stream after the block says; returns that of the stream before.
    fn add(
        &mut self,
        shared: &Shared<'_>,
        block: &Block<'_>,
        weights: &Weights<'_>,
        back: &Back,
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

        self.down.add(&gradient, &gradient);
        let mut to_gate = product(&back.down.matrix(), &gradient);
        let mut to_up = to_gate.clone();
        gated_gradient(&gate, &up, &mut to_gate, &mut to_up);
        self.gate.add(&to_gate, &to_gate);
        self.up.add(&to_up, &to_up);
        let mut to_inner = product(&back.gate.matrix(), &to_gate);
        add(&mut to_inner, &product(&back.up.matrix(), &to_up));
        let to_middle = norm_gradient(shared, &block.feed_forward_norm, &middle, &to_inner);
        add(&mut gradient, &to_middle);

        self.output.add(&gradient, &gradient);
        let to_mixed = product(&back.output.matrix(), &gradient);
        let to_heads = attention_gradient(shared, &heads, &to_mixed);
        self.query.add(&to_heads.queries, &to_heads.queries);
        self.key.add(&to_heads.keys, &to_heads.keys);
        self.value.add(&to_heads.values, &to_heads.values);
        let mut to_x = product(&back.query.matrix(), &to_heads.queries);
        add(&mut to_x, &product(&back.key.matrix(), &to_heads.keys));
        add(&mut to_x, &product(&back.value.matrix(), &to_heads.values));
        let to_stream = norm_gradient(shared, &block.attention_norm, stream, &to_x);
        add(&mut gradient, &to_stream);
        gradient
    }
}

/// The gradient of the hidden states: of the log-likelihood of a token drawn for each.
fn head_gradient(head: &Matrix<'_>, back: &Dense, hidden: &[f32], pass: usize) -> Vec<f32> {
    /// Tokens whose logits exist at once.
    const TURN: usize = 192;
    let turns = hidden.chunks(TURN * head.cols());
    turns
        .enumerate()
        .flat_map(|(turn, hidden)| {
            let mut logits = product(head, hidden);
            logits.par_chunks_mut(head.rows()).enumerate().for_each(|(token, row)| {
                kernels::selected().softmax_in_place(row);
                let drawn =
                    draw(row, uniform(((pass as u64) << 32) + (turn * TURN + token) as u64));
                row[drawn] -= 1.0;
            });
            product(&back.matrix(), &logits)
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
