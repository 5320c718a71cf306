//! Positive definite matrices that an error is measured by, and their triangular factors.

use std::ops::Range;

use rayon::prelude::*;

use super::products::{Part, Read, add_products, blocks};
use crate::kernels::{self, Kernels};

/// A symmetric positive definite matrix `H` of `size` rows, and its factor `H = U D Uᵀ` with `U`
/// upper triangular of unit diagonal.
///
/// An error `e` of a row costs `e H eᵀ = Σ_j D_j (e_j + Σ_{k<j} e_k U_kj)²`: what earlier columns
/// left is to be made up for by later ones, which is error feedback (Frantar et al., "GPTQ", 2022;
/// in this form Chee et al., "QuIP", 2023).
#[derive(Clone, Debug)]
pub struct Curvature {
    size: usize,
    matrix: Vec<f32>,
    factor: Vec<f32>,
    pivots: Vec<f32>,
}

/// What is added to the diagonal at first if the matrix has no factor, as a share of its mean.
const LEAST_DAMPING: f64 = 1e-4;

/// Columns whose products are summed at once.
const DEPTH: usize = 512;

/// Rows that are solved for at once.
const SOLVED_ROWS: usize = 384;

impl Curvature {
    /// Takes a symmetric matrix, row after row. `damping` times the mean of the diagonal is added to
    /// the diagonal, and more where that is not enough. `None` where the diagonal has no mean above
    /// zero: then nothing is known of what errors cost.
    ///
    /// # Panics
    /// If the matrix is not `size` by `size`.
    pub fn new(size: usize, mut matrix: Vec<f32>, damping: f64) -> Option<Curvature> {
        assert_eq!(matrix.len(), size * size, "a square of {size}");
        let trace: f64 = (0..size).map(|i| f64::from(matrix[i * size + i])).sum();
        let mean = trace / size as f64;
        if !(mean > f64::from(f32::MIN_POSITIVE) && mean < f64::from(f32::MAX)) {
            return None;
        }
        if matrix.iter().any(|entry| !entry.is_finite()) {
            return None;
        }
        // All numbers near one, whatever the activations are.
        let scale = 1.0 / mean;
        matrix.iter_mut().for_each(|entry| *entry = (f64::from(*entry) * scale) as f32);
        let mut added = damping;
        loop {
            if let Some(factor) = factor(size, &matrix, added) {
                return Some(Curvature::of_factor(size, matrix, factor, added));
            }
            added = (added * 4.0).max(LEAST_DAMPING);
            if added > 1e3 {
                return None;
            }
        }
    }

    fn of_factor(size: usize, mut matrix: Vec<f32>, mut factor: Vec<f32>, added: f64) -> Curvature {
        for i in 0..size {
            matrix[i * size + i] += added as f32;
        }
        let roots: Vec<f32> = (0..size).map(|j| factor[j * size + j]).collect();
        let pivots = roots.iter().map(|root| root * root).collect();
        factor.par_chunks_mut(size).for_each(|row| {
            row.iter_mut().zip(&roots).for_each(|(entry, root)| *entry /= root);
        });
        Curvature { size, matrix, factor, pivots }
    }

    /// The same with rows and columns in another order.
    pub(super) fn reordered(&self, order: &[usize]) -> Option<Curvature> {
        let entries = order.iter().flat_map(|&i| order.iter().map(move |&j| self.row(i)[j]));
        Curvature::new(self.size, entries.collect(), 0.0)
    }

    /// Rows, and columns.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Row `i` of the matrix, of which the mean of the diagonal was one before damping.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.matrix[i * self.size..][..self.size]
    }

    /// Some rows and columns of the matrix.
    pub(super) fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Part<'_> {
        Part { square: &self.matrix, size: self.size, rows, columns, read: Read::Plain }
    }

    /// Some rows and columns of the unit factor.
    pub(super) fn factor_part(&self, rows: Range<usize>, columns: Range<usize>) -> Part<'_> {
        Part { square: &self.factor, size: self.size, rows, columns, read: Read::Plain }
    }

    /// Row `i` of the unit factor.
    pub(super) fn factor_row(&self, i: usize) -> &[f32] {
        &self.factor[i * self.size..][..self.size]
    }

    /// What the squared error of each column costs once later columns make up for it.
    pub(super) fn pivots(&self) -> &[f32] {
        &self.pivots
    }

    /// Replaces each of the rows by `row · H⁻¹`.
    ///
    /// # Panics
    /// If they are no rows of this size.
    pub fn solve(&self, rows: &mut [f32]) {
        assert!(rows.len().is_multiple_of(self.size), "rows of {}", self.size);
        let kernels = kernels::selected();
        for rows in rows.chunks_mut(SOLVED_ROWS * self.size) {
            let mut rows: Vec<&mut [f32]> = rows.chunks_exact_mut(self.size).collect();
            for block in blocks(self.size).rev() {
                let read = Read::Transposed;
                self.solve_block(kernels, &mut rows, &block, 0..block.start, read);
            }
            for row in &mut rows {
                row.iter_mut().zip(&self.pivots).for_each(|(x, pivot)| *x /= pivot);
            }
            for block in blocks(self.size) {
                let read = Read::Plain;
                self.solve_block(kernels, &mut rows, &block, block.end..self.size, read);
            }
        }
    }

    /// Solves `x Uᵀ = row` (transposed) or `x U = row` for the columns of a block, and takes what
    /// these make off the columns `left`.
    fn solve_block(
        &self,
        kernels: &Kernels,
        rows: &mut [&mut [f32]],
        block: &Range<usize>,
        left: Range<usize>,
        read: Read,
    ) {
        let solved: Vec<Vec<f32>> = rows
            .par_iter_mut()
            .map(|row| {
                let mut x: Vec<f64> = row[block.clone()].iter().map(|&v| f64::from(v)).collect();
                let factor = |i: usize| &self.factor_row(block.start + i)[block.clone()];
                match read {
                    Read::Transposed => {
                        for i in (0..x.len()).rev() {
                            let (known, later) = (&factor(i)[i + 1..], &x[i + 1..]);
                            let sum: f64 =
                                known.iter().zip(later).map(|(&u, x)| f64::from(u) * x).sum();
                            x[i] -= sum;
                        }
                    }
                    Read::Plain => {
                        for i in 0..x.len() {
                            let known = x[i];
                            for (x, &u) in x[i + 1..].iter_mut().zip(&factor(i)[i + 1..]) {
                                *x -= known * f64::from(u);
                            }
                        }
                    }
                }
                for (value, x) in row[block.clone()].iter_mut().zip(&x) {
                    *value = *x as f32;
                }
                x.into_iter().map(|x| -x as f32).collect()
            })
            .collect();
        let solved: Vec<&[f32]> = solved.iter().map(Vec::as_slice).collect();
        let mut rows: Vec<&mut [f32]> = rows.iter_mut().map(|row| &mut row[left.clone()]).collect();
        let (rows_of, columns) = (block.clone(), left);
        let part = Part { square: &self.factor, size: self.size, rows: rows_of, columns, read };
        add_products(kernels, &solved, &part, &mut rows);
    }
}

/// `R` with `matrix + added · I = R Rᵀ`, upper triangular; `None` if there is none. What columns of
/// a block have to do with later ones is products, the rest is done in f64.
fn factor(size: usize, matrix: &[f32], added: f64) -> Option<Vec<f32>> {
    let kernels = kernels::selected();
    let mut r = matrix.to_vec();
    for block in blocks(size).rev() {
        let width = block.len();
        let mut known = vec![0.0f32; block.end * width];
        for later in (block.end..size).step_by(DEPTH).map(|k| k..size.min(k + DEPTH)) {
            let factors: Vec<&[f32]> =
                r.chunks_exact(size).take(block.end).map(|row| &row[later.clone()]).collect();
            let (rows, columns) = (later, block.clone());
            let part = Part { square: &r, size, rows, columns, read: Read::Transposed };
            let mut out: Vec<&mut [f32]> = known.chunks_exact_mut(width).collect();
            add_products(kernels, &factors, &part, &mut out);
        }
        let (above, own) = r.split_at_mut(block.start * size);
        let (known_above, known) = known.split_at(block.start * width);
        let left = |row: &[f32], known: &[f32]| -> Vec<f64> {
            let pairs = row[block.clone()].iter().zip(known);
            pairs.map(|(&entry, &known)| f64::from(entry) - f64::from(known)).collect()
        };
        let mut square: Vec<f64> = own
            .chunks_exact(size)
            .zip(known.chunks_exact(width))
            .flat_map(|(row, known)| left(row, known))
            .collect();
        factor_block(&mut square, width, added)?;
        let rows = own.chunks_exact_mut(size).zip(square.chunks_exact(width));
        rows.enumerate().for_each(|(i, (row, square))| {
            row[..block.start + i].fill(0.0);
            for (out, &root) in row[block.start + i..].iter_mut().zip(&square[i..]) {
                *out = root as f32;
            }
        });
        let rows = above.par_chunks_mut(size).zip(known_above.par_chunks(width));
        rows.for_each(|(row, known)| {
            let mut x = left(row, known);
            for j in (0..width).rev() {
                let root = &square[j * width..(j + 1) * width];
                x[j] = (x[j] - dot(&x[j + 1..], &root[j + 1..])) / root[j];
            }
            for (out, x) in row[block.clone()].iter_mut().zip(x) {
                *out = x as f32;
            }
        });
    }
    Some(r)
}

/// [`factor`] in place, for a block; entries under the diagonal stay.
fn factor_block(r: &mut [f64], size: usize, added: f64) -> Option<()> {
    for j in (0..size).rev() {
        let (above, row) = r.split_at_mut(j * size);
        let (pivot, tail) = row[j..size].split_first_mut()?;
        let square = *pivot + added - dot(tail, tail);
        // Also where it is no number.
        let root = Some(square).filter(|&square| square > 1e-9)?.sqrt();
        *pivot = root;
        let tail = &*tail;
        for row in above.chunks_exact_mut(size) {
            row[j] = (row[j] - dot(&row[j + 1..], tail)) / root;
        }
    }
    Some(())
}

/// `Σ a b`, in eight lanes.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f64>() + rest
}
