//! Sums of outer products over tokens, in f32: each pass adds one number to each.

use std::ops::Range;

use llq_gguf::TensorType;
use llq_quant::{Activations, Curvature, Matrix, Mode, Scratch, matmul};
use rayon::prelude::*;

use super::dense::{Dense, transposed};

/// Squares along the diagonal of `Σ a aᵀ` over tokens.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    /// Rows of all squares together.
    size: usize,
    /// Rows of each but the last, which may have fewer.
    rows: usize,
    /// Of each square the lower triangle, row after row of as many values as it has rows.
    squares: Vec<Vec<f32>>,
}

/// Rows that one thread sums.
const ROWS: usize = 96;

impl Moments {
    /// The whole square.
    pub(super) fn zero(size: usize) -> Moments {
        Moments::of_squares(size, size)
    }

    /// Squares of `rows` rows.
    pub(super) fn of_squares(size: usize, rows: usize) -> Moments {
        let squares = extents(size, rows).map(|square| vec![0.0; square.len() * square.len()]);
        Moments { size, rows, squares: squares.collect() }
    }

    /// Adds some tokens' rows.
    pub(super) fn add(&mut self, a: &[f32]) {
        let tokens = a.len() / self.size;
        let columns = transposed(a, self.size);
        let of = |range: Range<usize>| &columns[range.start * tokens..range.end * tokens];
        let squares = self.squares.iter_mut().zip(extents(self.size, self.rows));
        let tasks = squares.flat_map(|(sums, square)| {
            let parts = sums.chunks_mut(ROWS * square.len()).enumerate();
            parts.map(move |(part, sums)| (square.clone(), square.start + part * ROWS, sums))
        });
        // The longest first, so that all threads end together.
        let tasks: Vec<_> = tasks.collect();
        tasks.into_par_iter().rev().for_each(|(square, first, sums)| {
            let end = square.end.min(first + ROWS);
            add_products(sums, square.len(), of(square.start..end), of(first..end), tokens);
        });
    }

    pub(super) fn are_finite(&self) -> bool {
        self.squares.iter().flatten().all(|sum| sum.is_finite())
    }

    /// The mean of the diagonal.
    pub(super) fn mean(&self) -> f64 {
        self.diagonal().map(f64::from).sum::<f64>() / self.size as f64
    }

    pub(super) fn diagonal(&self) -> impl Iterator<Item = f32> {
        let squares = self.squares.iter().zip(extents(self.size, self.rows));
        squares.flat_map(|(sums, rows)| sums.iter().step_by(rows.len() + 1).copied())
    }

    /// Rows of a square.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The whole square as a curvature. `None` where it has no mean.
    pub(super) fn into_curvature(self, damping: f64) -> Option<Curvature> {
        let [square] = <[Vec<f32>; 1]>::try_from(self.squares).ok()?;
        Curvature::new(self.size, mirrored(square, self.size), damping)
    }

    /// The whole square.
    pub(super) fn to_dense(&self) -> Option<Dense> {
        let [square] = &*self.squares else { return None };
        Some(Dense::new(self.size, self.size, mirrored(square.clone(), self.size)))
    }

    /// Those of the squares of some rows, which begin and end with one. Empty where one has no mean.
    pub(super) fn curvatures(&self, rows: Range<usize>, damping: f64) -> Vec<Curvature> {
        let squares = self.squares.iter().zip(extents(self.size, self.rows));
        let squares = squares.filter(|(_, square)| rows.contains(&square.start));
        let of = |(sums, square): (&Vec<f32>, Range<usize>)| {
            Curvature::new(square.len(), mirrored(sums.clone(), square.len()), damping)
        };
        squares.map(of).collect::<Option<_>>().unwrap_or_default()
    }

    /// All sums.
    pub(super) fn values(&self) -> impl Iterator<Item = &f32> {
        self.squares.iter().flatten()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut f32> {
        self.squares.iter_mut().flatten()
    }

    /// How many sums [`of_squares`](Self::of_squares) has.
    pub(super) fn len(size: usize, rows: usize) -> usize {
        let last = size % rows;
        let whole = (size - last).saturating_mul(rows);
        whole.saturating_add(last.saturating_mul(last))
    }
}

/// Where the squares lie.
fn extents(size: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..size).step_by(rows.max(1)).map(move |first| first..size.min(first + rows))
}

/// The square of which there is the lower triangle.
fn mirrored(mut square: Vec<f32>, size: usize) -> Vec<f32> {
    for i in 0..size {
        let (above, row) = square.split_at_mut(i * size);
        for (j, above) in above.chunks_exact_mut(size).enumerate() {
            above[i] = row[j];
        }
    }
    square
}

/// Adds `Σ d xᵀ` over tokens: rows of as many values as `d` has columns, columns of `x`.
pub(super) fn add_cross(sums: &mut [f32], d: &[f32], x: &[f32], cols: usize) {
    let tokens = x.len() / cols;
    let (d, x) = (transposed(d, sums.len() / cols), transposed(x, cols));
    let parts = sums.par_chunks_mut(ROWS * cols).zip(d.par_chunks(ROWS * tokens));
    parts.for_each(|(sums, d)| add_products(sums, cols, &x, d, tokens));
}

/// Adds to the first columns of each row of `sums`, rows of `width`, the products of a row of `x`
/// with all rows of `w`.
fn add_products(sums: &mut [f32], width: usize, w: &[f32], x: &[f32], tokens: usize) {
    let rows = w.len() / tokens;
    let w = Matrix::new(TensorType::F32, rows, tokens, bytemuck::cast_slice(w));
    let w = w.unwrap_or_else(|problem| unreachable!("f32 rows: {problem}"));
    let x = Activations::new(Mode::Exact, x, tokens);
    let mut products = vec![0.0; rows * x.tokens()];
    matmul(&w, &x, &mut products, &mut Scratch::default());
    for (sums, products) in sums.chunks_mut(width).zip(products.chunks_exact(rows)) {
        sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
    }
}
