//! Sums of outer products over tokens.

use super::dense::{Dense, product, transposed};

/// `Σ b aᵀ` over tokens, where `a` and `b` have as many columns.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    pub(super) size: usize,
    /// Row after row, one row per column of `b`.
    pub(super) sums: Vec<f64>,
}

impl Moments {
    pub(super) fn zero(size: usize) -> Moments {
        Moments { size, sums: vec![0.0; size * size] }
    }

    /// Adds some tokens' rows.
    pub(super) fn add(&mut self, a: &[f32], b: &[f32]) {
        let tokens = a.len() / self.size;
        let a = Dense::new(self.size, tokens, transposed(a, self.size));
        let products = product(&a.matrix(), &transposed(b, self.size));
        accumulate(&mut self.sums, &products);
    }

    pub(super) fn to_f32(&self) -> Vec<f32> {
        self.sums.iter().map(|&sum| sum as f32).collect()
    }
}

pub(super) fn accumulate(sums: &mut [f64], products: &[f32]) {
    sums.iter_mut().zip(products).for_each(|(sum, &product)| *sum += f64::from(product));
}

/// `Σ d xᵀ` over tokens: rows of `d`, columns of `x`.
pub(super) fn cross(d: &[f32], rows: usize, x: &[f32], cols: usize) -> Vec<f32> {
    let x = Dense::new(cols, x.len() / cols, transposed(x, cols));
    product(&x.matrix(), &transposed(d, rows))
}
