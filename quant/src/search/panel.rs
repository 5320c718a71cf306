//! Sixteen groups of weights side by side, and the sums every search is made of.

use crate::kernels::{LANES, Lanes, Simd, Words};

/// Groups in a panel: one in each lane.
pub(super) const GROUPS: usize = LANES;

/// Adding and subtracting it rounds a number below 2^22 to a whole one, ties to even: the sum has
/// no bits below one. The sum's low byte is that number's.
const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23

/// Sixteen groups of `N` weights: lane `g` of vector `i` is weight `i` of group `g`.
pub(super) struct Panel<const N: usize> {
    /// The weights, finite.
    weights: [Lanes; N],
    /// What the squared error of each weight counts.
    importance: [Lanes; N],
}

/// The codes that a format has.
#[derive(Clone, Copy)]
pub(crate) struct CodeRange {
    /// The lowest.
    pub(crate) lowest: f32,
    /// The highest.
    pub(crate) highest: f32,
}

/// Weighted sums over each group: of the codes `l`, of their squares, and of their products with
/// the weights `x`.
#[derive(Clone, Copy)]
pub(super) struct Moments<S: Simd> {
    pub(super) l: S::F,
    pub(super) ll: S::F,
    pub(super) xl: S::F,
}

/// Weighted sums over each group: of the codes `l` nearest to the weights, and of the residuals
/// `r = x + min - scale * l` that they leave. Without minima, `r` and `l` are left zero.
#[derive(Clone, Copy)]
pub(super) struct Residuals<S: Simd> {
    /// The error.
    pub(super) rr: S::F,
    pub(super) r: S::F,
    pub(super) rl: S::F,
    pub(super) l: S::F,
    pub(super) ll: S::F,
}

impl CodeRange {
    /// The codes nearest to the products `a * b`, ties to even; the lowest for NaN.
    #[inline(always)]
    pub(super) fn nearest_product<S: Simd>(self, simd: S, a: S::F, b: S::F) -> S::F {
        let rounded = simd.mul_add(a, b, simd.splat(ROUNDER));
        let rounded = simd.max(rounded, simd.splat(ROUNDER + self.lowest));
        let rounded = simd.min(rounded, simd.splat(ROUNDER + self.highest));
        simd.sub(rounded, simd.splat(ROUNDER))
    }

    /// The codes nearest to `values`, ties to even; the lowest for NaN.
    #[inline(always)]
    pub(super) fn nearest<S: Simd>(self, simd: S, values: S::F) -> S::F {
        let values = simd.max(values, simd.splat(self.lowest));
        let values = simd.min(values, simd.splat(self.highest));
        let rounder = simd.splat(ROUNDER);
        simd.sub(simd.add(values, rounder), rounder)
    }
}

impl<const N: usize> Panel<N> {
    /// From sixteen groups; those that count nothing fill up.
    #[inline(always)]
    pub(super) fn new<S: Simd>(
        simd: S,
        weights: &[[f32; N]; GROUPS],
        importance: &[[f32; N]; GROUPS],
    ) -> Panel<N> {
        Panel { weights: side_by_side(simd, weights), importance: side_by_side(simd, importance) }
    }

    /// Codes of the weights for `weight = code / inverse - min`.
    #[inline(always)]
    fn codes_of<S: Simd>(
        simd: S,
        weights: S::F,
        inverse: S::F,
        min: Option<S::F>,
        range: CodeRange,
    ) -> S::F {
        range.nearest_product(simd, raised(simd, weights, min), inverse)
    }

    /// Sums over the codes that `inverse` and `min` give.
    #[inline(always)]
    pub(super) fn moments<S: Simd>(
        &self,
        simd: S,
        inverse: S::F,
        min: Option<S::F>,
        range: CodeRange,
    ) -> Moments<S> {
        let zero = simd.splat(0.0);
        let (mut l, mut ll, mut xl) = (zero, zero, zero);
        for (weights, importance) in self.weights.iter().zip(&self.importance) {
            let weights = simd.load(&weights.0);
            let codes = Self::codes_of(simd, weights, inverse, min, range);
            let weighted = simd.mul(simd.load(&importance.0), codes);
            l = simd.add(l, weighted);
            ll = simd.mul_add(weighted, codes, ll);
            xl = simd.mul_add(weighted, weights, xl);
        }
        Moments { l, ll, xl }
    }

    /// Sums over the nearest codes for `weight = scale * code - min` and what they leave.
    #[inline(always)]
    pub(super) fn residuals<S: Simd>(
        &self,
        simd: S,
        scale: S::F,
        min: Option<S::F>,
        range: CodeRange,
    ) -> Residuals<S> {
        let inverse = inverse_or_zero(simd, scale);
        let zero = simd.splat(0.0);
        let minus_scale = simd.sub(zero, scale);
        // Three loops, as one with all sums would need more than sixteen registers.
        let (mut codes, mut offs) = ([Lanes([0.0; LANES]); N], [Lanes([0.0; LANES]); N]);
        for ((weights, codes), off) in self.weights.iter().zip(&mut codes).zip(&mut offs) {
            let raised = raised(simd, simd.load(&weights.0), min);
            let nearest = range.nearest_product(simd, raised, inverse);
            simd.store(nearest, &mut codes.0);
            simd.store(simd.mul_add(minus_scale, nearest, raised), &mut off.0);
        }
        let (mut rr, mut r, mut rl, mut l, mut ll) = (zero, zero, zero, zero, zero);
        for ((importance, codes), off) in self.importance.iter().zip(&codes).zip(&offs) {
            let off = simd.load(&off.0);
            let weighted = simd.mul(simd.load(&importance.0), off);
            rr = simd.mul_add(weighted, off, rr);
            if min.is_some() {
                r = simd.add(r, weighted);
            }
            rl = simd.mul_add(weighted, simd.load(&codes.0), rl);
        }
        for (importance, codes) in self.importance.iter().zip(&codes) {
            let codes = simd.load(&codes.0);
            let weighted = simd.mul(simd.load(&importance.0), codes);
            if min.is_some() {
                l = simd.add(l, weighted);
            }
            ll = simd.mul_add(weighted, codes, ll);
        }
        Residuals { rr, r, rl, l, ll }
    }

    /// Weighted squared error of `weight = scale * code - min` with the nearest codes.
    #[inline(always)]
    pub(super) fn error<S: Simd>(
        &self,
        simd: S,
        scale: S::F,
        min: Option<S::F>,
        range: CodeRange,
    ) -> S::F {
        let inverse = inverse_or_zero(simd, scale);
        let minus_scale = simd.sub(simd.splat(0.0), scale);
        let mut error = simd.splat(0.0);
        for (weights, importance) in self.weights.iter().zip(&self.importance) {
            let raised = raised(simd, simd.load(&weights.0), min);
            let codes = range.nearest_product(simd, raised, inverse);
            let off = simd.mul_add(minus_scale, codes, raised);
            error = simd.mul_add(simd.mul(simd.load(&importance.0), off), off, error);
        }
        error
    }

    /// The nearest codes for `weight = scale * code - min`, less the lowest code, by group.
    #[inline(always)]
    pub(super) fn codes<S: Simd>(
        &self,
        simd: S,
        scale: S::F,
        min: Option<S::F>,
        range: CodeRange,
    ) -> [[u8; N]; GROUPS] {
        let inverse = inverse_or_zero(simd, scale);
        let from_lowest = simd.splat(ROUNDER - range.lowest);
        let mut groups = [[0; N]; GROUPS];
        for (c, columns) in self.weights.as_chunks::<LANES>().0.iter().enumerate() {
            let mut codes = [[0.0f32; LANES]; LANES];
            for (codes, weights) in codes.iter_mut().zip(columns) {
                let nearest = Self::codes_of(simd, simd.load(&weights.0), inverse, min, range);
                simd.store(simd.add(nearest, from_lowest), codes);
            }
            let codes: &[[u32; LANES]; LANES] = bytemuck::cast_ref(&codes);
            for (group, words) in groups.iter_mut().zip(simd.transpose(codes.each_ref())) {
                for (code, word) in group[c * LANES..].iter_mut().zip(words.0) {
                    *code = word as u8;
                }
            }
        }
        groups
    }

    /// Sums of the importance, and of the weights.
    #[inline(always)]
    pub(super) fn weight_sums<S: Simd>(&self, simd: S) -> (S::F, S::F) {
        let (mut importance, mut weights) = (simd.splat(0.0), simd.splat(0.0));
        for (w, q) in self.weights.iter().zip(&self.importance) {
            let q = simd.load(&q.0);
            importance = simd.add(importance, q);
            weights = simd.add(weights, simd.mul(q, simd.load(&w.0)));
        }
        (importance, weights)
    }

    /// Sums of the weights' squares, as their errors count.
    #[inline(always)]
    pub(super) fn energy<S: Simd>(&self, simd: S) -> S::F {
        let mut energy = simd.splat(0.0);
        for (w, q) in self.weights.iter().zip(&self.importance) {
            let w = simd.load(&w.0);
            energy = simd.mul_add(simd.mul(simd.load(&q.0), w), w, energy);
        }
        energy
    }

    /// Smallest and largest weight of each group.
    #[inline(always)]
    pub(super) fn extremes<S: Simd>(&self, simd: S) -> (S::F, S::F) {
        let first = simd.load(&self.weights[0].0);
        let (mut low, mut high) = (first, first);
        for weights in &self.weights[1..] {
            let weights = simd.load(&weights.0);
            low = simd.min(low, weights);
            high = simd.max(high, weights);
        }
        (low, high)
    }
}

/// The weights plus the minimum of their groups, where groups have one.
#[inline(always)]
fn raised<S: Simd>(simd: S, weights: S::F, min: Option<S::F>) -> S::F {
    match min {
        Some(min) => simd.add(weights, min),
        None => weights,
    }
}

/// The inverse of each scale, zero where that is no number to multiply by.
#[inline(always)]
pub(super) fn inverse_or_zero<S: Simd>(simd: S, scale: S::F) -> S::F {
    let zero = simd.splat(0.0);
    let inverse = simd.div(simd.splat(1.0), scale);
    let magnitude = simd.max(inverse, simd.sub(zero, inverse));
    simd.select(simd.gt(simd.splat(f32::INFINITY), magnitude), inverse, zero)
}

#[inline(always)]
fn side_by_side<S: Simd, const N: usize>(simd: S, groups: &[[f32; N]; GROUPS]) -> [Lanes; N] {
    const { assert!(N.is_multiple_of(LANES)) };
    let mut panel = [Lanes([0.0; LANES]); N];
    for (c, columns) in panel.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut rows = [&[0; LANES]; LANES];
        for (row, group) in rows.iter_mut().zip(groups) {
            *row = bytemuck::cast_ref(&group.as_chunks::<LANES>().0[c]);
        }
        *columns = bytemuck::cast::<[Words; LANES], _>(simd.transpose(rows));
    }
    panel
}
