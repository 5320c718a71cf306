//! Q4_0, Q4_1, Q5_0 and Q5_1: blocks of 32 weights with a half-precision scale.
//!
//! Without importance the bytes equal those of the reference encoders (`gguf` of PyPI): the scale
//! comes from the extreme weights and codes are rounded once. With importance the scale is
//! searched.

use half::f16;

use super::{
    affine::{Ends, MinSign, fit_affine},
    panel::{CodeRange, GROUPS, Panel},
    symmetric::{Signs, fit_symmetric},
    weighting::{limit, weigh_by},
};
use crate::{
    kernels::{LANES, Simd},
    packing::HalfLe,
};

const BLOCK: usize = 32;

const ENDS: Ends = Ends { trials: 7, inward: 0.9, apart: 6 };

/// Encodes a row for `weight = scale * (code - HALF_RANGE)`; codes are below `2 * HALF_RANGE`.
/// `write` takes the block's index, its scale and its codes.
#[inline(always)]
pub(crate) fn encode_symmetric<const HALF_RANGE: u8>(
    simd: impl Simd,
    row: &[f32],
    importance: Option<&[f32]>,
    mut write: impl FnMut(usize, HalfLe, &[u8; BLOCK]),
) {
    let range = CodeRange { lowest: -f32::from(HALF_RANGE), highest: f32::from(HALF_RANGE - 1) };
    if let Some(weighted) = WeightedRow::new(simd, row, importance) {
        return weighted.for_each_panel(
            simd,
            #[inline(always)]
            |first, blocks, panel| {
                let scales = halves(simd, fit_symmetric(simd, panel, range, Signs::Both).scale);
                let codes = panel.codes(simd, values(simd, scales), None, range);
                for g in 0..blocks {
                    write(first + g, scales[g], &codes[g]);
                }
            },
        );
    }
    for (i, weights) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
        let (scale, codes) = round_symmetric::<HALF_RANGE>(weights);
        write(i, scale, &codes);
    }
}

/// Encodes a row for `weight = scale * code + minimum` with codes up to `LARGEST`. `write` takes
/// the block's index, its scale, its minimum and its codes.
#[inline(always)]
pub(crate) fn encode_affine<const LARGEST: u8>(
    simd: impl Simd,
    row: &[f32],
    importance: Option<&[f32]>,
    mut write: impl FnMut(usize, HalfLe, HalfLe, &[u8; BLOCK]),
) {
    let range = CodeRange { lowest: 0.0, highest: f32::from(LARGEST) };
    if let Some(weighted) = WeightedRow::new(simd, row, importance) {
        return weighted.for_each_panel(
            simd,
            #[inline(always)]
            |first, blocks, panel| {
                let fit = fit_affine(simd, panel, range, MinSign::Any, ENDS);
                let zero = simd.splat(0.0);
                let scales = halves(simd, fit.scale);
                let mins = halves(simd, simd.sub(zero, fit.min));
                let subtracted = simd.sub(zero, values(simd, mins));
                let codes = panel.codes(simd, values(simd, scales), Some(subtracted), range);
                for g in 0..blocks {
                    write(first + g, scales[g], mins[g], &codes[g]);
                }
            },
        );
    }
    for (i, weights) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
        let (scale, min, codes) = round_affine::<LARGEST>(weights);
        write(i, scale, min, &codes);
    }
}

/// A row with what its errors count.
struct WeightedRow {
    weights: Vec<f32>,
    importance: Vec<f32>,
}

impl WeightedRow {
    /// `None` where there is no importance, or where it is zero throughout.
    #[inline(always)]
    fn new(simd: impl Simd, row: &[f32], importance: Option<&[f32]>) -> Option<WeightedRow> {
        let importance = importance?;
        let weights: Vec<f32> = row.iter().copied().map(limit).collect();
        let mut weighted = vec![0.0; row.len()];
        weigh_by(simd, importance, &weights, &mut weighted)
            .then_some(WeightedRow { weights, importance: weighted })
    }

    /// Hands over the row in panels: index of the first block, number of blocks, and the panel,
    /// which blocks of zeros fill where the last has fewer.
    #[inline(always)]
    fn for_each_panel(&self, simd: impl Simd, mut encode: impl FnMut(usize, usize, &Panel<BLOCK>)) {
        let blocks = self.weights.as_chunks().0.chunks(GROUPS);
        let blocks = blocks.zip(self.importance.as_chunks().0.chunks(GROUPS));
        for (p, (weights, importance)) in blocks.enumerate() {
            let panel = Panel::new(simd, &filled(weights), &filled(importance));
            encode(p * GROUPS, weights.len(), &panel);
        }
    }
}

#[inline(always)]
fn filled(blocks: &[[f32; BLOCK]]) -> [[f32; BLOCK]; GROUPS] {
    let mut filled = [[0.0; BLOCK]; GROUPS];
    filled[..blocks.len()].copy_from_slice(blocks);
    filled
}

#[inline(always)]
fn halves<S: Simd>(simd: S, values: S::F) -> [HalfLe; GROUPS] {
    let mut stored = [0.0; LANES];
    simd.store(values, &mut stored);
    stored.map(HalfLe::finite)
}

#[inline(always)]
fn values<S: Simd>(simd: S, halves: [HalfLe; GROUPS]) -> S::F {
    simd.load(&halves.map(HalfLe::to_f32))
}

/// The first weight of largest magnitude gets code 0; the scale takes the opposite of its sign.
#[inline(always)]
fn round_symmetric<const HALF_RANGE: u8>(weights: &[f32; BLOCK]) -> (HalfLe, [u8; BLOCK]) {
    let half_range = f32::from(HALF_RANGE);
    let extreme = weights.iter().fold(weights[0], |m, &w| if w.abs() > m.abs() { w } else { m });
    let scale = within_half(extreme / -half_range);
    let inverse = inverse_or_zero(scale);
    let codes = weights.map(|w| ((w * inverse + (half_range + 0.5)) as u8).min(2 * HALF_RANGE - 1));
    (HalfLe::finite(scale), codes)
}

/// The smallest weight gets code 0, the largest weight the largest code.
#[inline(always)]
fn round_affine<const LARGEST: u8>(weights: &[f32; BLOCK]) -> (HalfLe, HalfLe, [u8; BLOCK]) {
    let min = within_half(weights.iter().copied().fold(f32::INFINITY, f32::min));
    let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = within_half((max - min) / f32::from(LARGEST));
    let inverse = inverse_or_zero(scale);
    let codes = weights.map(|w| (((w - min) * inverse + 0.5) as u8).min(LARGEST));
    (HalfLe::finite(scale), HalfLe::finite(min), codes)
}

/// What is beyond the range of a half is cut before codes are made with it.
#[inline(always)]
fn within_half(value: f32) -> f32 {
    value.clamp(-f16::MAX.to_f32(), f16::MAX.to_f32())
}

#[inline(always)]
fn inverse_or_zero(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}
