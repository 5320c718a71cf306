//! What a calibration takes.
//!
//! Multiply-adds, for `T` tokens of which `F` are fitted and `B` pass backward, and a matrix of `m`
//! rows and `n` columns of one of the blocks, of which `g` rows feel their errors together:
//!
//! | part | multiply-adds |
//! |---|---|
//! | backward | `B · (3 m n + m g / 2)`; head: `B · 2 m n` |
//! | streams | `T · 2 m n`; once more where the product is added to the stream, or where the inputs of such a matrix are too large to be kept |
//! | sums | `F · n² / 2` per input, and `F · n²` (`F · m n` where added to the stream) |
//! | solving | `n³ / 6` per input and damping, `m n²` (twice where not added to the stream), `m g² / 3` |
//! | rounding | see [`PerWeight`] |
//! | judging | `J · 3 m n`, `J` at most 4,096 |
//!
//! Memory is that of the way back or of the widest matrix, see [`Stage::memory`].

use std::time::Instant;

use llq_gguf::TensorType;
use llq_quant::{INDEPENDENT_ROWS, batch_rows};

use super::{
    Calibration, HELD_OUT, PASS_WINDOWS,
    backward::{FITTED_PASSES, JUDGING_PASSES, LOGITS, STREAM_BYTES, square_rows},
    dense::{Dense, product},
    forward::{Part, Shared, Weights},
    moments::Moments,
    solve::{MOST_JUDGING, SLICE, sample_rows, slice_rows},
    stages::KEPT_BYTES,
};
use crate::Llama;

/// What rounding takes per weight, in multiply-adds, or those that products do in the time. Fitted to
/// blocks of 1,024, 2,048 and 4,096 columns (`docs/benchmarks.md`).
#[derive(Clone, Copy)]
struct PerWeight {
    /// For each column: products, in which descent tells columns of each other.
    sweeps: f64,
    /// For each row of the group: what the others left.
    combining: f64,
    /// Descent within blocks of columns.
    steps: f64,
}

/// Rows beside each other, and rows by themselves.
const TOGETHER: PerWeight = PerWeight { sweeps: 34.0, combining: 29.0, steps: 1.5e4 };
const ALONE: PerWeight = PerWeight { sweeps: 6.0, combining: 0.0, steps: 8.0e4 };

/// How many times as many sweeps matrices take whose products are added to the stream.
const ADDED: f64 = 2.6;

/// Reading a column of the curvature, once for all rows side by side.
const READING: f64 = 480.0;

/// How many dampings are tried, about.
const TRIED: f64 = 2.5;

/// Forms of f32 that a weight has while it is rounded, an input and what it misses while they are
/// summed, and values of the feed-forward network and of the stream on the way back.
const FORMS: usize = 7;
const FORMS_SUMMED: usize = 4;
const FORMS_BACK: [usize; 2] = [6, 8];

/// Multiply-adds of the parts of a calibration, and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CalibrationCost {
    /// The pass that finds what errors in outputs cost.
    pub backward: f64,
    /// Both streams through all blocks.
    pub streams: f64,
    /// Sums over inputs.
    pub sums: f64,
    /// Factors, and the rows that are wanted beside rounded inputs.
    pub solving: f64,
    /// Error feedback and descent.
    pub rounding: f64,
    /// Both candidates on held-out inputs.
    pub judging: f64,
    /// Bytes of memory at the most, beside the model's file.
    pub memory: u64,
}

/// How many tokens are used for what.
struct Tokens {
    /// Of a pass.
    together: usize,
    all: f64,
    fitted: f64,
    backward: f64,
    judging: f64,
}

/// Matrices that have the same input.
struct Stage<'a> {
    parts: Vec<Part<'a>>,
    names: Vec<String>,
    is_added: bool,
    /// Rows of a part that feel their errors together; `None` where each is rounded by itself.
    group: Option<usize>,
    /// Multiply-adds per token to make its input, and values that these make.
    making: f64,
    made: usize,
}

impl CalibrationCost {
    /// What it takes to calibrate the tensors for which `types` has a type.
    pub fn of(
        llama: &Llama<'_>,
        types: &dyn Fn(&str) -> Option<TensorType>,
        options: &Calibration,
    ) -> CalibrationCost {
        let sizes = &llama.hyperparameters;
        let shared = Shared::new(llama, options.context);
        let tokens = Tokens::of(options);
        let mut cost = CalibrationCost::default();
        let group = square_rows(&shared);
        let width = sizes.embedding_length;
        let attention =
            (options.context * sizes.head_count * (sizes.key_length + sizes.value_length) / 2)
                as f64;
        let (mut sums, mut stages) = (0, 0);
        for (index, block) in llama.blocks.iter().enumerate() {
            let weights = Weights::of(block);
            let (mut own_sums, mut rounded) = (0, 0);
            for part in weights.all() {
                cost.backward += tokens.backward * 3.0 * size(&part);
                if let Some(group) = group {
                    let rows = group.min(part.matrix.rows());
                    cost.backward += tokens.backward * (part.matrix.rows() * rows) as f64 / 2.0;
                    own_sums += Moments::len(part.matrix.rows(), rows);
                }
            }
            cost.backward += tokens.backward * 4.0 * attention;
            for stage in Stage::all(index, weights, group, attention) {
                stages = stages.max(cost.add(&stage, types, &tokens) + own_sums + rounded);
                rounded += stage.rounded_bytes(types) / size_of::<f32>();
            }
            sums += own_sums;
        }
        let head = Part { matrix: *llama.head(), bias: None };
        cost.backward += tokens.backward * 2.0 * size(&head);
        if llama.output.is_some() {
            let (parts, names) = (vec![head], vec!["output.weight".to_owned()]);
            let stage = Stage { parts, names, is_added: false, group: None, making: 0.0, made: 0 };
            stages = stages.max(cost.add(&stage, types, &tokens));
        }
        if types("token_embd.weight").is_some() {
            let embedding = Part { matrix: llama.embedding, bias: None };
            cost.rounding += size(&embedding) * ALONE.of(width, 1, INDEPENDENT_ROWS);
            stages = stages.max(5 * width * width + slice(&embedding, 1) * width * FORMS);
        }
        let streams = 2 * tokens.all as usize * width;
        let back = sums + Self::backward_memory(llama, options.context);
        let values = 2 * width * width + back.max(streams + stages);
        cost.memory = (values * size_of::<f32>()) as u64;
        cost
    }

    /// Values that pass backward, beside the sums.
    fn backward_memory(llama: &Llama<'_>, context: usize) -> usize {
        let sizes = &llama.hyperparameters;
        let width = sizes.embedding_length;
        let window = context * width * llama.blocks.len();
        let together = (STREAM_BYTES / size_of::<f32>() / window.max(1)).clamp(1, PASS_WINDOWS);
        let tokens = together * context;
        let inner = llama.blocks.iter().map(|block| block.gate.matrix.rows()).max();
        let [of_inner, of_stream] = FORMS_BACK;
        let block = tokens * (of_inner * inner.unwrap_or_default() + of_stream * width);
        let head = llama.head();
        let logits = (tokens * head.rows()).min(LOGITS.max(head.rows()));
        // A slice of the head, as it is and turned, beside the logits of all rows and its own.
        let at_once = SLICE.min(head.rows() * width);
        let head = logits + logits * at_once / (head.rows() * width) + 2 * at_once;
        together * window + block.max(head)
    }

    /// Of all parts.
    pub fn total(&self) -> f64 {
        let CalibrationCost { backward, streams, sums, solving, rounding, judging, .. } = self;
        backward + streams + sums + solving + rounding + judging
    }

    /// Returns the values in memory.
    fn add(
        &mut self,
        stage: &Stage<'_>,
        types: &dyn Fn(&str) -> Option<TensorType>,
        tokens: &Tokens,
    ) -> usize {
        let columns = stage.columns();
        let n = columns as f64;
        let is_kept = stage.kept(tokens).is_some();
        self.streams += tokens.all * if is_kept { 2.0 } else { 3.0 } * stage.making;
        let products = if stage.is_added { 1.0 } else { 2.0 };
        let [beside, alone] = match stage.is_added {
            true => [TOGETHER.added(), ALONE.added()],
            false => [TOGETHER, ALONE],
        };
        let mut wanted = Vec::new();
        for (part, name) in stage.parts.iter().zip(&stage.names) {
            if stage.is_added {
                self.streams += tokens.all * 3.0 * size(part);
            }
            if types(name).is_none() {
                continue;
            }
            let rows = part.matrix.rows();
            let group = stage.group.map_or(1, |group| group.min(rows));
            let together = slice(part, group).div_ceil(group) * batch_rows(group);
            let per_weight = match stage.group {
                Some(_) => beside.of(columns, group, together),
                None => alone.of(columns, 1, INDEPENDENT_ROWS),
            };
            let sampled: Vec<usize> = sample_rows(rows).map(|rows| rows.len()).collect();
            let together = sampled.iter().copied().max().unwrap_or(1);
            let tried = TRIED * sampled.iter().sum::<usize>() as f64 * n;
            self.solving += products * n * (size(part) + tried);
            self.solving += rows as f64 * (group as f64).powi(2) / 3.0;
            self.rounding += size(part) * per_weight + tried * alone.of(columns, 1, together);
            self.judging += tokens.judging * ((1.0 + products) * size(part) + tried);
            wanted.push(*part);
        }
        if wanted.is_empty() {
            return 0;
        }
        let rows: usize = wanted.iter().map(|part| part.matrix.rows()).sum();
        let missing = if stage.is_added { rows } else { columns };
        self.sums += tokens.fitted * n * (n / 2.0 + missing as f64);
        self.solving += (1.0 + TRIED) * n.powi(3) / 6.0;
        stage.memory(&wanted, missing, tokens)
    }
}

impl<'a> Stage<'a> {
    /// Those of a block.
    fn all(
        index: usize,
        weights: Weights<'a>,
        group: Option<usize>,
        attention: f64,
    ) -> [Stage<'a>; 4] {
        let Weights { query, key, value, output, gate, up, down } = weights;
        let rows = |parts: &[Part<'_>]| parts.iter().map(|part| part.matrix.rows()).sum::<usize>();
        let queries = [query, key, value];
        let gates = [gate, up];
        let attending = queries.iter().map(size).sum::<f64>() + attention;
        let feeding = gates.iter().map(size).sum();
        let (attended, fed) = (rows(&queries), rows(&gates));
        let stage = |parts: &[Part<'a>], names: &[&str], making, made| Stage {
            parts: parts.to_vec(),
            names: names.iter().map(|name| format!("blk.{index}.{name}.weight")).collect(),
            is_added: made > 0,
            group,
            making,
            made,
        };
        [
            stage(&queries, &["attn_q", "attn_k", "attn_v"], 0.0, 0),
            stage(&[output], &["attn_output"], attending, attended),
            stage(&gates, &["ffn_gate", "ffn_up"], 0.0, 0),
            stage(&[down], &["ffn_down"], feeding, fed),
        ]
    }

    fn columns(&self) -> usize {
        self.parts.first().map_or(0, |part| part.matrix.cols())
    }

    /// Values of its inputs, where these are kept until its product is added.
    fn kept(&self, tokens: &Tokens) -> Option<usize> {
        let values = tokens.all as usize * self.columns();
        (values * size_of::<f32>() <= KEPT_BYTES).then_some(if self.is_added { values } else { 0 })
    }

    /// Values in memory: what inputs miss and what judges; and the most of a pass that is summed, of
    /// the moments as a damping is tried, and of their factor and the rows that are rounded at once,
    /// with four squares of their groups and their products with what judges.
    fn memory(&self, wanted: &[Part<'_>], missing: usize, tokens: &Tokens) -> usize {
        let columns = self.columns();
        let judging = tokens.judging as usize;
        let held = columns * missing + judging * (columns + missing);
        let square = columns * columns;
        let passing = square + tokens.together * (FORMS_SUMMED * (columns + missing) + self.made);
        let rounding = wanted.iter().map(|part| {
            let group = self.group.map_or(1, |group| group.min(part.matrix.rows()));
            slice(part, group) * (FORMS * columns + 4 * group + judging)
        });
        let weights: usize = wanted.iter().map(|part| part.matrix.rows() * columns).sum();
        let rounding: usize = match weights <= SLICE {
            true => rounding.sum(),
            false => rounding.max().unwrap_or_default(),
        };
        let most = passing.max(3 * square).max(2 * square + rounding);
        held + self.kept(tokens).unwrap_or_default() + most
    }

    fn rounded_bytes(&self, types: &dyn Fn(&str) -> Option<TensorType>) -> usize {
        let bytes = self.parts.iter().zip(&self.names).filter_map(|(part, name)| {
            let bytes = types(name)?.row_bytes(part.matrix.cols() as u64)?;
            Some(bytes as usize * part.matrix.rows())
        });
        bytes.sum()
    }
}

/// Rows of the matrix that are rounded at once, in groups of so many.
fn slice(part: &Part<'_>, group: usize) -> usize {
    slice_rows(part.matrix.cols(), group).min(part.matrix.rows())
}

impl PerWeight {
    /// Where the product is added to the stream.
    fn added(self) -> PerWeight {
        PerWeight { sweeps: self.sweeps * ADDED, ..self }
    }

    /// Multiply-adds, of rows of so many columns, in groups, with some rows side by side.
    fn of(&self, columns: usize, group: usize, together: usize) -> f64 {
        let PerWeight { sweeps, combining, steps } = self;
        let (columns, group, together) = (columns as f64, group as f64, together as f64);
        steps + columns * (sweeps + READING / together) + group * combining
    }
}

impl Tokens {
    fn of(options: &Calibration) -> Tokens {
        let judging = options.windows / HELD_OUT;
        let fitted = options.windows - judging;
        let of = |windows: usize| (windows * options.context) as f64;
        let backward =
            fitted.min(FITTED_PASSES * PASS_WINDOWS) + judging.min(JUDGING_PASSES * PASS_WINDOWS);
        let judging = if judging == 0 { fitted } else { judging };
        Tokens {
            together: PASS_WINDOWS * options.context,
            all: of(options.windows),
            fitted: of(fitted),
            backward: of(backward),
            judging: of(judging).min(MOST_JUDGING as f64),
        }
    }
}

/// Multiply-adds per second of products on all threads, from a trial: a quarter of a second on two
/// cores with AVX2.
pub fn product_rate() -> f64 {
    const ROWS: usize = 512;
    const COLS: usize = 2048;
    /// As many as make packing the weights a small part, as in a calibration.
    const TOKENS: usize = 1024;
    let w = Dense::new(ROWS, COLS, vec![0.5; ROWS * COLS]);
    let x = vec![0.5; rayon::current_num_threads() * TOKENS * COLS];
    let seconds = |_| {
        let started = Instant::now();
        product(&w.matrix(), &x);
        started.elapsed().as_secs_f64()
    };
    let best = (0..5).map(seconds).fold(f64::INFINITY, f64::min);
    (ROWS * x.len()) as f64 / best.max(1e-9)
}

/// Weights of a matrix.
fn size(part: &Part<'_>) -> f64 {
    part.matrix.rows() as f64 * part.matrix.cols() as f64
}
