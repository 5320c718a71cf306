//! Dot products of one row: two chains of sixteen lanes, and one tree at the end.

use super::{
    simd::{LANES, Simd},
    vector::tree,
};

/// Whether codes can be below zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeSigns {
    /// None is.
    NonNegative,
    /// They can.
    Both,
}

/// The sums of a row.
#[derive(Clone, Copy)]
pub(crate) struct LaneSums<S: Simd>([S::F; 2]);

impl<S: Simd> LaneSums<S> {
    #[inline(always)]
    pub(crate) fn zero(simd: S) -> Self {
        LaneSums([simd.splat(0.0); 2])
    }

    /// Adds `a * b` to chain `CHAIN`.
    #[inline(always)]
    pub(crate) fn add<const CHAIN: usize>(&mut self, simd: S, a: S::F, b: S::F) {
        self.0[CHAIN] = simd.mul_add(a, b, self.0[CHAIN]);
    }

    /// Adds the products of weights and activations, sixteen columns by sixteen; zeros follow the
    /// last.
    #[inline(always)]
    pub(crate) fn add_products(&mut self, simd: S, weights: &[f32], x: &[f32]) {
        assert_eq!(weights.len(), x.len());
        let (weights, weights_rest) = weights.as_chunks::<LANES>();
        let (x, x_rest) = x.as_chunks::<LANES>();
        let (weights, weights_last) = weights.as_chunks::<2>();
        let (x, x_last) = x.as_chunks::<2>();
        for (weights, x) in weights.iter().zip(x) {
            self.add::<0>(simd, simd.load(&weights[0]), simd.load(&x[0]));
            self.add::<1>(simd, simd.load(&weights[1]), simd.load(&x[1]));
        }
        for (weights, x) in weights_last.iter().zip(x_last) {
            self.add::<0>(simd, simd.load(weights), simd.load(x));
        }
        if !x_rest.is_empty() {
            let (mut weights, mut x) = ([0.0; LANES], [0.0; LANES]);
            weights[..weights_rest.len()].copy_from_slice(weights_rest);
            x[..x_rest.len()].copy_from_slice(x_rest);
            self.add::<1>(simd, simd.load(&weights), simd.load(&x));
        }
    }

    /// The sums less what is in the lanes of `lanes`.
    #[inline(always)]
    pub(crate) fn minus(self, simd: S, lanes: S::F) -> Self {
        LaneSums([simd.sub(self.0[0], lanes), self.0[1]])
    }

    #[inline(always)]
    pub(crate) fn total(self, simd: S) -> f32 {
        let mut lanes = [0.0; LANES];
        simd.store(simd.add(self.0[0], self.0[1]), &mut lanes);
        tree(lanes, |a, b| a + b)
    }
}
