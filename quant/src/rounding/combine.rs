//! Multiples of all rows of a group, summed for some of them at once: each row is read once for all.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::{Kernels, Simd, Work};

/// Columns that are summed together: those of all sums stay in cache.
const STRIP: usize = 256;

/// Rows that are added before a sum is stored.
const DEPTH: usize = 4;

/// Writes some columns of one row.
pub(super) type WriteRow<'a> = dyn Fn(usize, Range<usize>, &mut [f32]) + Sync + 'a;

/// Adds `Σ_k factors[i][k] · row k` to each `sums[i]`, in the order of `k`.
pub(super) fn add_rows(
    kernels: &Kernels,
    factors: &[Vec<f32>],
    write_row: &WriteRow<'_>,
    sums: &mut [Vec<f32>],
) {
    let cols = sums.first().map_or(0, Vec::len);
    let mut strips: Vec<Vec<&mut [f32]>> = (0..cols.div_ceil(STRIP)).map(|_| Vec::new()).collect();
    for sum in sums {
        strips.iter_mut().zip(sum.chunks_mut(STRIP)).for_each(|(strip, sum)| strip.push(sum));
    }
    strips.into_par_iter().enumerate().for_each(|(index, sums)| {
        kernels.run(Strip { first: index * STRIP, factors, write_row, sums });
    });
}

struct Strip<'a> {
    /// Its first column.
    first: usize,
    factors: &'a [Vec<f32>],
    write_row: &'a WriteRow<'a>,
    sums: Vec<&'a mut [f32]>,
}

impl Work for Strip<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, _simd: S) {
        let width = self.sums.first().map_or(0, |sum| sum.len());
        let count = self.factors.first().map_or(0, Vec::len);
        let mut rows = [[0.0; STRIP]; DEPTH];
        for start in (0..count).step_by(DEPTH) {
            let some = start..count.min(start + DEPTH);
            for (k, row) in some.clone().zip(&mut rows) {
                (self.write_row)(k, self.first..self.first + width, &mut row[..width]);
            }
            for (sum, factors) in self.sums.iter_mut().zip(self.factors) {
                add(sum, &factors[some.clone()], &rows);
            }
        }
    }
}

#[inline(always)]
fn add(sum: &mut [f32], factors: &[f32], rows: &[[f32; STRIP]; DEPTH]) {
    let [a, b, c, d] = rows;
    if let [fa, fb, fc, fd] = factors {
        for ((((sum, a), b), c), d) in sum.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *sum = *sum + fa * a + fb * b + fc * c + fd * d;
        }
        return;
    }
    for (factor, row) in factors.iter().zip(rows) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * value);
    }
}
