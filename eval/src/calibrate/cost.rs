//! What a calibration takes.
//!
//! Multiply-adds, for `T` tokens of which `F` are fitted and `B` pass backward, and a matrix of `m`
//! rows and `n` columns of one of the blocks:
//!
//! | part | multiply-adds |
//! |---|---|
//! | backward | `B · 3 m n`, and `B · m · q` for squares of `q` rows; head: `B · 2 m n` |
//! | streams | `T · 2 m n`; once more where the product is added to the stream, or where the inputs of such a matrix are too large to be kept |
//! | sums | `F · n² / 2` per input, and `F · n²` (`F · m n` where added to the stream) |
//! | solving | `n³ / 6` per input, `m n²` (twice where not added to the stream) |
//! | rounding | see [`TOGETHER`] and [`ALONE`] |
//! | judging | `J · 3 m n`, `J` at most 4,096 |
//!
//! Memory: two streams of `T × embedding_length` f32, and the larger of what the sums for the way
//! back take and, for the widest matrix, two squares of its columns, what its inputs miss, and some
//! forms of the weights that are rounded at once.

use std::time::Instant;

use llq_gguf::TensorType;

use super::{
    Calibration, HELD_OUT, PASS_WINDOWS,
    backward::{FITTED_PASSES, JUDGING_PASSES, STREAM_BYTES, square_rows},
    dense::{Dense, product},
    forward::{Part, Shared, Weights},
    moments::Moments,
    solve::{MOST_JUDGING, SLICE},
    stages::KEPT_BYTES,
};
use crate::Llama;

/// What rounding takes per weight: multiply-adds for each of its columns, and those that products do
/// in the time that descent within blocks of columns takes. Two blocks of a 1.1 B shape took up to 1.7
/// times as long (`docs/benchmarks.md`).
struct PerWeight {
    sweeps: f64,
    steps: f64,
}

/// Rows beside each other, and rows by themselves.
const TOGETHER: PerWeight = PerWeight { sweeps: 11.0, steps: 1.2e5 };
const ALONE: PerWeight = PerWeight { sweeps: 4.0, steps: 5.0e4 };

/// Forms of f32 that a weight has while it is rounded, and an input while it is summed.
const FORMS: usize = 10;

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
    is_added: bool,
    rounding: PerWeight,
    /// Multiply-adds per token to make its input.
    making: f64,
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
        let squares = square_rows(&shared);
        let mut sums_len = 0;
        for (index, block) in llama.blocks.iter().enumerate() {
            let weights = Weights::of(block);
            let attention =
                (options.context * sizes.head_count * (sizes.key_length + sizes.value_length) / 2)
                    as f64;
            for part in weights.all() {
                cost.backward += tokens.backward * 3.0 * size(&part);
                if let Some(rows) = squares {
                    let rows = rows.min(part.matrix.rows());
                    cost.backward += tokens.backward * (part.matrix.rows() * rows) as f64 / 2.0;
                    sums_len += Moments::len(part.matrix.rows(), rows);
                }
            }
            cost.backward += tokens.backward * 4.0 * attention;
            let name = |part: &str| format!("blk.{index}.{part}.weight");
            let Weights { query, key, value, output, gate, up, down } = weights;
            let [queries, gates] =
                [size(&query) + size(&key) + size(&value) + attention, size(&gate) + size(&up)];
            let names = ["attn_q", "attn_k", "attn_v"].map(name);
            cost.add(&Stage::new(vec![query, key, value], false, 0.0), types, &names, &tokens);
            let stage = Stage::new(vec![output], true, queries);
            cost.add(&stage, types, &[name("attn_output")], &tokens);
            let names = ["ffn_gate", "ffn_up"].map(name);
            cost.add(&Stage::new(vec![gate, up], false, 0.0), types, &names, &tokens);
            cost.add(&Stage::new(vec![down], true, gates), types, &[name("ffn_down")], &tokens);
        }
        let head = Part { matrix: *llama.head(), bias: None };
        cost.backward += tokens.backward * 2.0 * size(&head);
        if llama.output.is_some() {
            let stage = Stage { rounding: ALONE, ..Stage::new(vec![head], false, 0.0) };
            cost.add(&stage, types, &["output.weight".to_owned()], &tokens);
        }
        if types("token_embd.weight").is_some() {
            cost.rounding += ALONE.of(&Part { matrix: llama.embedding, bias: None });
        }
        let width = sizes.embedding_length;
        let stream = |tokens: f64| (tokens as usize * width * size_of::<f32>()) as u64;
        let on_the_way =
            stream((PASS_WINDOWS * options.context) as f64) * llama.blocks.len() as u64;
        let one = stream(options.context as f64) * llama.blocks.len() as u64;
        let on_the_way = on_the_way.min(one.max(STREAM_BYTES as u64));
        let back = (sums_len * size_of::<f32>()) as u64 + on_the_way;
        cost.memory = back.max(cost.memory + 2 * stream(tokens.all));
        cost
    }

    /// Of all parts.
    pub fn total(&self) -> f64 {
        let CalibrationCost { backward, streams, sums, solving, rounding, judging, .. } = self;
        backward + streams + sums + solving + rounding + judging
    }

    fn add(
        &mut self,
        stage: &Stage<'_>,
        types: &dyn Fn(&str) -> Option<TensorType>,
        names: &[String],
        tokens: &Tokens,
    ) {
        let Some(first) = stage.parts.first() else { return };
        let columns = first.matrix.cols();
        let n = columns as f64;
        let kept = tokens.all as usize * columns * size_of::<f32>();
        let is_kept = kept <= KEPT_BYTES;
        let made = if is_kept { 2.0 } else { 3.0 };
        self.streams += tokens.all * made * stage.making;
        let mut rows = 0;
        for (part, name) in stage.parts.iter().zip(names) {
            if stage.is_added {
                self.streams += tokens.all * 3.0 * size(part);
            }
            if types(name).is_none() {
                continue;
            }
            rows += part.matrix.rows();
            let products = if stage.is_added { 1.0 } else { 2.0 };
            self.solving += products * size(part) * n;
            self.rounding += stage.rounding.of(part);
            self.judging += tokens.judging * (1.0 + products) * size(part);
        }
        if rows == 0 {
            return;
        }
        let missing = if stage.is_added { rows } else { columns };
        self.sums += tokens.fitted * n * (n / 2.0 + missing as f64);
        self.solving += n.powi(3) / 6.0;
        let at_once = SLICE.min(rows * columns) * FORMS;
        let held = tokens.judging as usize * (columns + missing);
        let passing = tokens.together * columns * FORMS;
        let values = 2 * columns * columns + columns * missing + at_once + held + passing;
        let kept = if stage.is_added && is_kept { kept } else { 0 };
        self.memory = self.memory.max((values * size_of::<f32>() + kept) as u64);
    }
}

impl<'a> Stage<'a> {
    fn new(parts: Vec<Part<'a>>, is_added: bool, making: f64) -> Stage<'a> {
        Stage { parts, is_added, rounding: TOGETHER, making }
    }
}

impl PerWeight {
    fn of(&self, part: &Part<'_>) -> f64 {
        size(part) * (self.sweeps * part.matrix.cols() as f64 + self.steps)
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

/// Multiply-adds per second of products on all threads, from a trial of a few milliseconds.
pub fn product_rate() -> f64 {
    const ROWS: usize = 512;
    const COLS: usize = 2048;
    let w = Dense::new(ROWS, COLS, vec![0.5; ROWS * COLS]);
    let x = vec![0.5; rayon::current_num_threads() * 192 * COLS];
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
