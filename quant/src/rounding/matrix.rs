//! All rows of a matrix.

use rayon::prelude::*;

use super::{
    curvature::Curvature,
    descent::Descent,
    feedback,
    row::{Row, Shape},
};
use crate::{
    kernels::{self, Kernels, Simd, Work},
    registry::FormatInfo,
};

/// A matrix to round.
#[derive(Clone, Copy, Debug)]
pub struct Rounding<'a> {
    /// What it becomes.
    pub format: &'static FormatInfo,
    /// The wanted weights, row after row.
    pub target: &'a [f32],
    /// What errors along a row cost.
    pub inputs: &'a Curvature,
    /// What errors of the rows cost together; without it, rows are independent.
    pub outputs: Option<&'a Curvature>,
    /// How many times each row is taken up again beside the others.
    pub passes: usize,
}

/// Rows that are rounded side by side: the others see their errors only afterwards. It is part of
/// the result, so it does not depend on the number of threads.
const BATCH: usize = 8;

/// Rounds of descent of a row when its turn comes.
const ROUNDS: usize = 24;

/// Rounds the matrix; on the threads of the current rayon pool, with the same bytes for any number.
/// `None` where the format has no blocks or its blocks do not fill the rows.
///
/// # Panics
/// If the target is no matrix of the curvatures' sizes.
pub fn round_matrix(rounding: &Rounding<'_>) -> Option<Vec<u8>> {
    round_matrix_with(kernels::selected(), rounding)
}

/// [`round_matrix`] by the code of a given instruction set.
///
/// # Panics
/// As [`round_matrix`].
pub fn round_matrix_with(kernels: &Kernels, rounding: &Rounding<'_>) -> Option<Vec<u8>> {
    let shape = Shape::of(rounding.format)?;
    let cols = rounding.inputs.size();
    assert!(rounding.target.len().is_multiple_of(cols), "rows of {cols}");
    let row_bytes = rounding.format.tensor_type.row_bytes(cols as u64)? as usize;
    let count = rounding.target.len() / cols;
    assert!(rounding.outputs.is_none_or(|outputs| outputs.size() == count), "{count} outputs");
    let rows = Rows { kernels, shape: &shape, rounding, cols }.round();
    let mut bytes = vec![0; count * row_bytes];
    bytes.par_chunks_mut(row_bytes).zip(&rows).for_each(|(out, row)| row.encode(&shape, out));
    Some(bytes)
}

/// An order in which the rows of a batch are far apart, as rows of one head are the most alike.
fn order(count: usize) -> Vec<usize> {
    let batches = count.div_ceil(BATCH);
    (0..batches).flat_map(|first| (first..count).step_by(batches)).collect()
}

struct Rows<'a> {
    kernels: &'a Kernels,
    shape: &'a Shape,
    rounding: &'a Rounding<'a>,
    cols: usize,
}

impl Rows<'_> {
    fn round(&self) -> Vec<Row> {
        let order = order(self.rounding.target.len() / self.cols);
        let outputs = self.rounding.outputs.and_then(|outputs| outputs.reordered(&order));
        let Some(outputs) = outputs else {
            let targets = self.rounding.target.par_chunks(self.cols);
            return targets.map(|target| self.round_row(target)).collect();
        };
        let (mut rows, mut gradients) = self.first_rows(&outputs, &order);
        for _ in 0..self.rounding.passes {
            self.pass(&outputs, &mut rows, &mut gradients);
        }
        let mut placed: Vec<(usize, Row)> = order.into_iter().zip(rows).collect();
        placed.sort_unstable_by_key(|(place, _)| *place);
        placed.into_iter().map(|(_, row)| row).collect()
    }

    /// Row by row in this order, each making up for the errors of those before. Also returns
    /// `(Q - T) H`.
    fn first_rows(&self, outputs: &Curvature, order: &[usize]) -> (Vec<Row>, Vec<f32>) {
        let count = outputs.size();
        let mut rows: Vec<Row> = Vec::with_capacity(count);
        let mut gradients = Vec::with_capacity(count * self.cols);
        while rows.len() < count {
            let batch = rows.len()..count.min(rows.len() + BATCH);
            let made: Vec<(Row, Vec<f32>)> = batch
                .into_par_iter()
                .map(|i| {
                    let own = self.target(order[i]);
                    let mut target = own.to_vec();
                    for (k, row) in rows.iter().enumerate() {
                        let factor = outputs.factor_row(k)[i];
                        let wanted = self.target(order[k]).iter().zip(&row.weights);
                        for (out, (wanted, weight)) in target.iter_mut().zip(wanted) {
                            *out += factor * (wanted - weight);
                        }
                    }
                    let row = self.round_row(&target);
                    let gradient = self.gradient(&row, own);
                    (row, gradient)
                })
                .collect();
            for (row, gradient) in made {
                rows.push(row);
                gradients.extend(gradient);
            }
        }
        (rows, gradients)
    }

    /// Every row goes down again beside the others. `gradients` are those of each row by itself.
    fn pass(&self, outputs: &Curvature, rows: &mut [Row], gradients: &mut [f32]) {
        let count = rows.len();
        for first in (0..count).step_by(BATCH) {
            let batch: Vec<usize> = (first..count.min(first + BATCH)).collect();
            let moved: Vec<(Row, Vec<f32>, Vec<f32>)> = batch
                .par_iter()
                .map(|&i| {
                    let mut gradient = vec![0.0; self.cols];
                    let own = outputs.row(i)[i];
                    let parts = gradients.chunks_exact(self.cols).zip(outputs.row(i));
                    self.kernels.run(Combine { parts, out: &mut gradient, divisor: own });
                    let before = gradient.clone();
                    let mut row = rows[i].clone();
                    self.descend(&mut row, &mut gradient);
                    for (after, &before) in gradient.iter_mut().zip(&before) {
                        *after -= before;
                    }
                    (row, before, gradient)
                })
                .collect();
            self.take(outputs, &batch, moved, rows, gradients);
        }
    }

    /// Takes the moved rows one after another, where they still are better beside those before.
    fn take(
        &self,
        outputs: &Curvature,
        batch: &[usize],
        moved: Vec<(Row, Vec<f32>, Vec<f32>)>,
        rows: &mut [Row],
        gradients: &mut [f32],
    ) {
        let mut taken: Vec<usize> = Vec::new();
        let mut growths: Vec<Vec<f32>> = Vec::new();
        for (&i, (row, before, growth)) in batch.iter().zip(moved) {
            let own = outputs.row(i)[i];
            let mut cost = 0.0;
            for j in 0..self.cols {
                let change = f64::from(row.weights[j]) - f64::from(rows[i].weights[j]);
                let mut slope = 2.0 * f64::from(before[j]) + f64::from(growth[j]);
                for (&k, growth) in taken.iter().zip(&growths) {
                    slope += 2.0 * f64::from(outputs.row(i)[k] / own) * f64::from(growth[j]);
                }
                cost += change * slope;
            }
            if cost < 0.0 {
                let gradient = &mut gradients[i * self.cols..][..self.cols];
                for (gradient, growth) in gradient.iter_mut().zip(&growth) {
                    *gradient += growth;
                }
                rows[i] = row;
                taken.push(i);
                growths.push(growth);
            }
        }
    }

    fn target(&self, i: usize) -> &[f32] {
        &self.rounding.target[i * self.cols..][..self.cols]
    }

    /// A row by itself.
    fn round_row(&self, target: &[f32]) -> Row {
        let mut row = feedback::round(self.kernels, self.shape, self.rounding.inputs, target);
        let mut gradient = self.gradient(&row, target);
        self.descend(&mut row, &mut gradient);
        row
    }

    fn descend(&self, row: &mut Row, gradient: &mut [f32]) {
        let (shape, curvature) = (self.shape, self.rounding.inputs);
        self.kernels.run(Descent { shape, curvature, row, gradient, rounds: ROUNDS });
    }

    /// `(row - target) · H`.
    fn gradient(&self, row: &Row, target: &[f32]) -> Vec<f32> {
        let mut gradient = vec![0.0; self.cols];
        let errors: Vec<f32> = row.weights.iter().zip(target).map(|(q, t)| q - t).collect();
        let parts = (0..self.cols).map(|j| self.rounding.inputs.row(j)).zip(&errors);
        self.kernels.run(Combine { parts, out: &mut gradient, divisor: 1.0 });
        gradient
    }
}

/// Adds `Σ factor / divisor · part` to `out`.
struct Combine<'a, P> {
    parts: P,
    out: &'a mut [f32],
    divisor: f32,
}

impl<'a, P: Iterator<Item = (&'a [f32], &'a f32)>> Work for Combine<'_, P> {
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        for (part, factor) in self.parts {
            let factor = factor / self.divisor;
            for (sum, value) in self.out.iter_mut().zip(part) {
                *sum += factor * value;
            }
        }
    }
}
