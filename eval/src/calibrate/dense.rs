//! Matrices of f32 in memory, and products on all threads.

use llq_gguf::TensorType;
use llq_quant::{Activations, Matrix, Mode, Scratch, matmul};
use rayon::prelude::*;

/// Rows of f32.
#[derive(Clone, Debug)]
pub(super) struct Dense {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) values: Vec<f32>,
}

impl Dense {
    pub(super) fn new(rows: usize, cols: usize, values: Vec<f32>) -> Dense {
        assert_eq!(values.len(), rows * cols, "{rows} rows of {cols}");
        Dense { rows, cols, values }
    }

    pub(super) fn of(matrix: &Matrix<'_>) -> Dense {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let mut values = vec![0.0; rows * cols];
        let out = values.par_chunks_mut(cols).enumerate();
        out.for_each(|(row, out)| matrix.decode_row(row, out));
        Dense { rows, cols, values }
    }

    pub(super) fn transposed(&self) -> Dense {
        Dense::new(self.cols, self.rows, transposed(&self.values, self.cols))
    }

    pub(super) fn matrix(&self) -> Matrix<'_> {
        let bytes = bytemuck::cast_slice(&self.values);
        let matrix = Matrix::new(TensorType::F32, self.rows, self.cols, bytes);
        matrix.unwrap_or_else(|problem| unreachable!("f32 rows: {problem}"))
    }
}

/// The columns of rows of `cols` values as rows.
pub(super) fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    /// Rows and columns of a piece that stays in cache.
    const PIECE: usize = 16;
    let rows = values.len() / cols;
    let mut out = vec![0.0; values.len()];
    out.par_chunks_mut(PIECE * rows).enumerate().for_each(|(piece, out)| {
        let first = piece * PIECE;
        for start in (0..rows).step_by(PIECE) {
            for (c, out) in out.chunks_exact_mut(rows).enumerate() {
                for r in start..rows.min(start + PIECE) {
                    out[r] = values[r * cols + first + c];
                }
            }
        }
    });
    out
}

/// `out[t][r] = Σ_c w[r][c] x[t][c]`, token after token.
pub(super) fn product(w: &Matrix<'_>, x: &[f32]) -> Vec<f32> {
    let tokens = x.len() / w.cols();
    let tasks = 2 * rayon::current_num_threads();
    let per_task = tokens.div_ceil(tasks).next_multiple_of(Activations::PART_TOKENS).max(48);
    let mut out = vec![0.0; tokens * w.rows()];
    let parts = out.par_chunks_mut(per_task * w.rows());
    parts.zip(x.par_chunks(per_task * w.cols())).for_each(|(out, x)| {
        let x = Activations::new(Mode::Exact, x, w.cols());
        matmul(w, &x, out, &mut Scratch::default());
    });
    out
}

/// `out[t][c] = Σ_r w[r][c] x[t][r]`: from gradients of outputs to those of inputs. A slice of the
/// matrix is in f32 at a time.
pub(super) fn product_back(w: &Matrix<'_>, x: &[f32]) -> Vec<f32> {
    const WEIGHTS: usize = 1 << 25;
    let (all, cols) = (w.rows(), w.cols());
    let rows = (WEIGHTS / cols).clamp(1, all);
    let mut out = vec![0.0; x.len() / all * cols];
    for first in (0..all).step_by(rows) {
        let rows = first..all.min(first + rows);
        let slice = Dense::of(&w.row_range(rows.clone())).transposed();
        let x: Vec<f32> = x.chunks_exact(all).flat_map(|x| &x[rows.clone()]).copied().collect();
        add(&mut out, &product(&slice.matrix(), &x));
    }
    out
}

/// `sum += values`.
pub(super) fn add(sum: &mut [f32], values: &[f32]) {
    const PIECE: usize = 1 << 14;
    sum.par_chunks_mut(PIECE).zip(values.par_chunks(PIECE)).for_each(|(sum, values)| {
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    });
}
