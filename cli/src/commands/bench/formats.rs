//! What a row of the kernel table makes of a format, on one thread.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use llq_quant::{
    Activations, FormatInfo, Matrix, Mode, RowError, Scratch, Vector, gemv_with,
    kernels::{Isa, Kernels},
    matmul_with,
};
use rayon::prelude::*;
use serde::Serialize;

use super::{Effort, Wrong};

/// Rows that are encoded and decoded; the matrix of the products repeats them.
const DISTINCT_ROWS: usize = 16;

/// The figures of a format, per second.
#[derive(Serialize)]
pub(super) struct Figures {
    pub(super) format: &'static str,
    /// Bytes of f32 written.
    pub(super) decode_bytes: f64,
    /// Weights.
    pub(super) encode_weights: f64,
    /// Multiply-adds of products in [`Mode::Exact`], making ready of both sides included.
    pub(super) exact_multiply_adds: f64,
    /// Those in [`Mode::Fast`]; plain formats have none of their own.
    pub(super) fast_multiply_adds: Option<f64>,
    /// Rows of the weights of products with one token.
    pub(super) gemv_rows: usize,
    /// Bytes of weights read by products with one token in [`Mode::Fast`], by all threads.
    pub(super) gemv_bytes: f64,
}

impl Figures {
    pub(super) fn measure(
        kernels: &'static Kernels,
        format: &'static FormatInfo,
        gemv_bytes: usize,
        effort: &Effort,
    ) -> Result<Figures, Wrong> {
        let subject = Subject { kernels, format, effort };
        let values = numbers(2, DISTINCT_ROWS * effort.cols);
        let (bytes, encode) = subject.encode(&values)?;
        let decode = subject.decode(&bytes)?;
        let rows = bytes.repeat(effort.rows / DISTINCT_ROWS);
        let weights = values.len() as f64;
        let (gemv_rows, gemv_bytes) = subject.gemv(gemv_bytes)?;
        Ok(Figures {
            format: format.name(),
            decode_bytes: 4.0 * weights / decode.as_secs_f64(),
            encode_weights: weights / encode.as_secs_f64(),
            exact_multiply_adds: subject.product(&rows, Mode::Exact)?,
            fast_multiply_adds: match &format.blocks {
                Some(_) => Some(subject.product(&rows, Mode::Fast)?),
                None => None,
            },
            gemv_rows,
            gemv_bytes,
        })
    }
}

struct Subject<'a> {
    kernels: &'static Kernels,
    format: &'static FormatInfo,
    effort: &'a Effort,
}

impl Subject<'_> {
    /// The encoded rows, and the least time they took.
    fn encode(&self, values: &[f32]) -> Result<(Vec<u8>, Duration), Wrong> {
        let what = "encoding";
        let row_bytes = self.format.tensor_type.row_bytes(self.effort.cols as u64).unwrap_or(0);
        let mut bytes = vec![0; DISTINCT_ROWS * row_bytes as usize];
        let encode = |kernels, bytes: &mut [u8]| -> Result<(), RowError> {
            let rows = values.chunks_exact(self.effort.cols);
            let mut encoded = rows.zip(bytes.chunks_exact_mut(row_bytes as usize));
            encoded.try_for_each(|(row, out)| self.format.encode_row_with(kernels, row, None, out))
        };
        let mut expected = bytes.clone();
        encode(self.kernels, &mut bytes).map_err(|_| self.wrong(what))?;
        encode(scalar(), &mut expected).map_err(|_| self.wrong(what))?;
        self.check(bytes == expected && self.format.validate(&bytes).is_ok(), what)?;
        Ok((bytes.clone(), best(self.effort, || encode(self.kernels, &mut bytes))))
    }

    fn decode(&self, bytes: &[u8]) -> Result<Duration, Wrong> {
        let what = "decoding";
        let mut found = vec![0.0; DISTINCT_ROWS * self.effort.cols];
        let mut expected = found.clone();
        let decode = |kernels, out: &mut [f32]| self.format.dequantize_with(kernels, bytes, out);
        decode(self.kernels, &mut found).map_err(|_| self.wrong(what))?;
        decode(scalar(), &mut expected).map_err(|_| self.wrong(what))?;
        self.check(found == expected, what)?;
        Ok(best(self.effort, || decode(self.kernels, &mut found)))
    }

    /// Multiply-adds per second.
    fn product(&self, bytes: &[u8], mode: Mode) -> Result<f64, Wrong> {
        let Effort { rows, cols, .. } = *self.effort;
        let what = if mode == Mode::Exact { "the exact product" } else { "the fast product" };
        let w = Matrix::new(self.format.tensor_type, rows, cols, bytes)
            .map_err(|_| self.wrong(what))?;
        let tokens = self.effort.tokens(self.kernels);
        let values = numbers(1, tokens * cols);
        let mut x = Activations::new(mode, &values, cols);
        let mut out = vec![0.0; tokens * rows];
        let mut scratch = Scratch::default();
        matmul_with(self.kernels, &w, &x, &mut out, &mut scratch);
        self.check(product_is_right(&w, &values, mode, &out), what)?;
        let time = best(self.effort, || {
            x.refill_with(self.kernels, &values, cols);
            matmul_with(self.kernels, &w, &x, &mut out, &mut scratch);
        });
        Ok((rows * cols * tokens) as f64 / time.as_secs_f64())
    }

    /// Rows of about `gemv_bytes` of weights, and bytes per second.
    fn gemv(&self, gemv_bytes: usize) -> Result<(usize, f64), Wrong> {
        let what = "the product with one token";
        let cols = self.effort.gemv_cols;
        let tensor_type = self.format.tensor_type;
        let row_bytes = tensor_type.row_bytes(cols as u64).unwrap_or(0) as usize;
        let mut bytes = vec![0; DISTINCT_ROWS * row_bytes];
        let rows = numbers(3, DISTINCT_ROWS * cols);
        for (row, out) in rows.chunks_exact(cols).zip(bytes.chunks_exact_mut(row_bytes)) {
            self.format.encode_row(row, None, out).map_err(|_| self.wrong(what))?;
        }
        let bytes = bytes.repeat((gemv_bytes / bytes.len()).max(1));
        let rows = bytes.len() / row_bytes;
        let w = Matrix::new(tensor_type, rows, cols, &bytes).map_err(|_| self.wrong(what))?;
        let values = numbers(1, cols);
        let x = Vector::with(self.kernels, Mode::Fast, &values);
        let mut out = vec![0.0; rows];
        let task = rows.div_ceil(16 * rayon::current_num_threads());
        let mut multiply = || {
            out.par_chunks_mut(task).enumerate().for_each(|(i, out)| {
                let first = i * task;
                gemv_with(self.kernels, &w.row_range(first..first + out.len()), &x, out);
            });
        };
        let time = best(self.effort, &mut multiply);
        self.check(product_is_right(&w, &values, Mode::Fast, &out), what)?;
        Ok((rows, bytes.len() as f64 / time.as_secs_f64()))
    }

    fn check(&self, right: bool, what: &str) -> Result<(), Wrong> {
        if right { Ok(()) } else { Err(self.wrong(what)) }
    }

    fn wrong(&self, what: &str) -> Wrong {
        Wrong { isa: self.kernels.isa(), what: format!("{what} of {}", self.format.name()) }
    }
}

/// Whether some outputs are those of the definition: equal in exact mode, near in fast mode.
fn product_is_right(w: &Matrix<'_>, x: &[f32], mode: Mode, out: &[f32]) -> bool {
    let (rows, cols) = (w.rows(), w.cols());
    let mut weights = vec![0.0; cols];
    // An odd step, as rows repeat in sixteens.
    (0..rows).step_by((rows / 7) | 1).all(|row| {
        w.decode_row(row, &mut weights);
        x.chunks_exact(cols).enumerate().step_by(5).all(|(token, x)| {
            let expected = weights.iter().zip(x).fold(0.0f32, |sum, (w, x)| w.mul_add(*x, sum));
            let found = out[token * rows + row];
            // The errors of codes of activations are independent of each other.
            let spread = weights.iter().zip(x).map(|(w, x)| (w * x) * (w * x)).sum::<f32>().sqrt();
            match mode {
                Mode::Exact => found.to_bits() == expected.to_bits(),
                Mode::Fast => (found - expected).abs() < 0.05 * spread,
            }
        })
    })
}

/// The least time of some runs.
pub(super) fn best<T>(effort: &Effort, mut run: impl FnMut() -> T) -> Duration {
    let least_runs = if effort.time.is_zero() { 1 } else { 3 };
    let start = Instant::now();
    let mut best = Duration::MAX;
    let mut runs = 0;
    while runs < least_runs || start.elapsed() < effort.time {
        let start = Instant::now();
        black_box(run());
        // A clock that did not move would make a rate infinite.
        best = best.min(start.elapsed().max(Duration::from_nanos(1)));
        runs += 1;
    }
    best
}

fn scalar() -> &'static Kernels {
    Kernels::for_isa(Isa::Scalar).unwrap_or(llq_quant::kernels::selected())
}

/// Numbers in -1..1 (xorshift).
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}
