//! Positive definite matrices that an error is measured by, and their triangular factors.

use rayon::prelude::*;

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

    fn of_factor(size: usize, mut matrix: Vec<f32>, factor: Vec<f64>, added: f64) -> Curvature {
        for i in 0..size {
            matrix[i * size + i] += added as f32;
        }
        let roots: Vec<f64> = (0..size).map(|j| factor[j * size + j]).collect();
        let pivots = roots.iter().map(|root| (root * root) as f32).collect();
        let unit = |at: usize| (factor[at] / roots[at % size]) as f32;
        let factor = (0..size * size).into_par_iter().map(unit).collect();
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

    /// Row `i` of the unit factor.
    pub(super) fn factor_row(&self, i: usize) -> &[f32] {
        &self.factor[i * self.size..][..self.size]
    }

    /// What the squared error of each column costs once later columns make up for it.
    pub(super) fn pivots(&self) -> &[f32] {
        &self.pivots
    }

    /// Replaces `row` by `row · H⁻¹`.
    ///
    /// # Panics
    /// If the row has another length.
    pub fn solve(&self, row: &mut [f32]) {
        assert_eq!(row.len(), self.size, "a row of {}", self.size);
        let mut x: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
        for i in (0..self.size).rev() {
            let factor = self.factor_row(i);
            let later = (i + 1..self.size).map(|j| x[j] * f64::from(factor[j])).sum::<f64>();
            x[i] -= later;
        }
        for (x, &pivot) in x.iter_mut().zip(&self.pivots) {
            *x /= f64::from(pivot);
        }
        for i in 0..self.size {
            let known = x[i];
            for (x, &factor) in x.iter_mut().zip(self.factor_row(i)).skip(i + 1) {
                *x -= known * f64::from(factor);
            }
        }
        for (value, x) in row.iter_mut().zip(x) {
            *value = x as f32;
        }
    }
}

/// `R` with `matrix + added · I = R Rᵀ`, upper triangular; `None` if there is none.
fn factor(size: usize, matrix: &[f32], added: f64) -> Option<Vec<f64>> {
    let mut r: Vec<f64> = matrix.iter().map(|&entry| f64::from(entry)).collect();
    for j in (0..size).rev() {
        let (above, row) = r.split_at_mut(j * size);
        let (pivot, tail) = row[j..size].split_first_mut()?;
        let square = *pivot + added - dot(tail, tail);
        // Also where it is no number.
        let root = Some(square).filter(|&square| square > 1e-9)?.sqrt();
        *pivot = root;
        let tail = &*tail;
        above.par_chunks_mut(size).with_min_len(64).for_each(|row| {
            row[j] = (row[j] - dot(&row[j + 1..], tail)) / root;
        });
        row[..j].fill(0.0);
    }
    Some(r)
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
