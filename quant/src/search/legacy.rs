//! Q4_0, Q4_1, Q5_0 and Q5_1: blocks of 32 weights with a half-precision scale.
//!
//! At [`Effort::Fast`] and without importance the bytes equal those of the reference encoders
//! (`gguf` of PyPI): the scale comes from the extreme weights and codes are rounded once. Otherwise
//! the scale is searched, that of the reference among others.

use half::f16;

use super::{
    affine::{Ends, MinSign, fit_affine},
    panel::{CodeRange, GROUPS, Panel},
    symmetric::{ScaleTrials, Signs, fit_symmetric},
    weighting::{limit, weigh, weigh_by},
};
use crate::{
    effort::{Effort, Encoding},
    kernels::{LANES, Simd, tree},
    packing::HalfLe,
};

const BLOCK: usize = 32;

/// What a weight near zero counts without importance: this many mean squares of its block.
const FLOOR: f32 = 8.0;

/// How far a search for a block's scale goes.
struct Reach {
    /// For blocks without a minimum.
    scales: ScaleTrials,
    /// For blocks with a minimum.
    ends: Ends,
}

const QUICK: Reach = Reach {
    scales: ScaleTrials { count: 9, reach: 1.2, signs: Signs::Both },
    ends: Ends { trials: 7, inward: 0.9, apart: 6 },
};

/// What is searched beside that for [`Effort::Best`].
const WIDE: Reach = Reach {
    scales: ScaleTrials { count: 65, reach: 2.4, signs: Signs::Both },
    ends: Ends { trials: 17, inward: 1.4, apart: 16 },
};

const fn reaches(effort: Effort) -> &'static [Reach] {
    match effort {
        Effort::Fast | Effort::Default => &[QUICK],
        Effort::Best => &[QUICK, WIDE],
    }
}

/// The halves with the least error so far, as f32.
struct Best<S: Simd> {
    error: S::F,
    scale: S::F,
    min: S::F,
}

impl<S: Simd> Best<S> {
    #[inline(always)]
    fn new(simd: S) -> Best<S> {
        let zero = simd.splat(0.0);
        Best { error: simd.splat(f32::INFINITY), scale: zero, min: zero }
    }

    /// Takes the halves nearest to `scale` and `min` where their error is smaller.
    #[inline(always)]
    fn consider(
        &mut self,
        simd: S,
        panel: &Panel<BLOCK>,
        range: CodeRange,
        (scale, min): (S::F, Option<S::F>),
    ) {
        let scale = values(simd, halves(simd, scale));
        let min = min.map(
            #[inline(always)]
            |min| values(simd, halves(simd, min)),
        );
        let error = panel.error(simd, scale, min, range);
        let better = simd.gt(self.error, error);
        self.error = simd.select(better, error, self.error);
        self.scale = simd.select(better, scale, self.scale);
        if let Some(min) = min {
            self.min = simd.select(better, min, self.min);
        }
    }
}

/// Encodes a row for `weight = scale * (code - HALF_RANGE)`; codes are below `2 * HALF_RANGE`.
/// `write` takes the block's index, its scale and its codes.
#[inline(always)]
pub(crate) fn encode_symmetric<const HALF_RANGE: u8>(
    simd: impl Simd,
    row: &[f32],
    encoding: Encoding<'_>,
    mut write: impl FnMut(usize, HalfLe, &[u8; BLOCK]),
) {
    let range = CodeRange { lowest: -f32::from(HALF_RANGE), highest: f32::from(HALF_RANGE - 1) };
    let Some(weighted) = WeightedRow::new(simd, row, encoding) else {
        for (i, weights) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
            let (scale, codes) = round_symmetric::<_, HALF_RANGE>(simd, weights);
            write(i, scale, &codes);
        }
        return;
    };
    weighted.for_each_panel(
        simd,
        #[inline(always)]
        |first, blocks, panel| {
            let zero = simd.splat(0.0);
            let (low, high) = panel.extremes(simd);
            let largest = simd.max(high, simd.sub(zero, low));
            let of_reference = simd.div(largest, simd.splat(range.lowest));
            let mut best = Best::new(simd);
            for reach in reaches(encoding.effort) {
                let found = fit_symmetric(simd, panel, range, reach.scales).scale;
                best.consider(simd, panel, range, (found, None));
            }
            best.consider(simd, panel, range, (of_reference, None));
            best.consider(simd, panel, range, (simd.sub(zero, of_reference), None));
            let scales = best.scale;
            let codes = panel.codes(simd, scales, None, range);
            let scales = halves(simd, scales);
            for g in 0..blocks {
                write(first + g, scales[g], &codes[g]);
            }
        },
    );
}

/// Encodes a row for `weight = scale * code + minimum` with codes up to `LARGEST`. `write` takes
/// the block's index, its scale, its minimum and its codes.
#[inline(always)]
pub(crate) fn encode_affine<const LARGEST: u8>(
    simd: impl Simd,
    row: &[f32],
    encoding: Encoding<'_>,
    mut write: impl FnMut(usize, HalfLe, HalfLe, &[u8; BLOCK]),
) {
    let range = CodeRange { lowest: 0.0, highest: f32::from(LARGEST) };
    let Some(weighted) = WeightedRow::new(simd, row, encoding) else {
        for (i, weights) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
            let (scale, min, codes) = round_affine::<_, LARGEST>(simd, weights);
            write(i, scale, min, &codes);
        }
        return;
    };
    weighted.for_each_panel(
        simd,
        #[inline(always)]
        |first, blocks, panel| {
            let zero = simd.splat(0.0);
            let (low, high) = panel.extremes(simd);
            let span = simd.sub(high, low);
            let of_reference = simd.div(span, simd.splat(range.highest));
            let mut best = Best::new(simd);
            for reach in reaches(encoding.effort) {
                let found = fit_affine(simd, panel, range, MinSign::Any, reach.ends);
                best.consider(simd, panel, range, (found.scale, Some(found.min)));
            }
            best.consider(simd, panel, range, (of_reference, Some(simd.sub(zero, low))));
            let (scales, mins) = (best.scale, best.min);
            let codes = panel.codes(simd, scales, Some(mins), range);
            let (scales, mins) = (halves(simd, scales), halves(simd, simd.sub(zero, mins)));
            for g in 0..blocks {
                write(first + g, scales[g], mins[g], &codes[g]);
            }
        },
    );
}

/// A row with what its errors count.
struct WeightedRow {
    weights: Vec<f32>,
    importance: Vec<f32>,
}

impl WeightedRow {
    /// `None` where nothing is searched: without importance that is not zero throughout, at
    /// [`Effort::Fast`].
    #[inline(always)]
    fn new(simd: impl Simd, row: &[f32], encoding: Encoding<'_>) -> Option<WeightedRow> {
        let weights: Vec<f32> = row.iter().copied().map(limit).collect();
        let mut importance = vec![0.0; row.len()];
        let given = encoding.importance.is_some_and(
            #[inline(always)]
            |given| weigh_by(simd, given, &mut importance),
        );
        if !given {
            if encoding.effort == Effort::Fast {
                return None;
            }
            let blocks = weights.as_chunks::<BLOCK>().0.iter();
            for (weights, out) in blocks.zip(importance.as_chunks_mut::<BLOCK>().0) {
                weigh(simd, weights, None, FLOOR, out);
            }
        }
        Some(WeightedRow { weights, importance })
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
fn round_symmetric<S: Simd, const HALF_RANGE: u8>(
    simd: S,
    weights: &[f32; BLOCK],
) -> (HalfLe, [u8; BLOCK]) {
    let half_range = f32::from(HALF_RANGE);
    let (least, largest) = extremes(simd, weights);
    let extreme = if largest > -least {
        largest
    } else if -least > largest {
        least
    } else {
        weights.iter().copied().find(|w| w.abs() == largest).unwrap_or(0.0)
    };
    let scale = within_half(extreme / -half_range);
    let inverse = simd.splat(inverse_or_zero(scale));
    let middle = simd.splat(half_range + 0.5);
    let codes = codes(
        simd,
        weights,
        2 * HALF_RANGE - 1,
        #[inline(always)]
        |w| simd.add(simd.mul(w, inverse), middle),
    );
    (HalfLe::finite(scale), codes)
}

/// The smallest weight gets code 0, the largest weight the largest code.
#[inline(always)]
fn round_affine<S: Simd, const LARGEST: u8>(
    simd: S,
    weights: &[f32; BLOCK],
) -> (HalfLe, HalfLe, [u8; BLOCK]) {
    let (least, largest) = extremes(simd, weights);
    let min = within_half(least);
    let scale = within_half((largest - min) / f32::from(LARGEST));
    let (lowest, inverse) = (simd.splat(min), simd.splat(inverse_or_zero(scale)));
    let half = simd.splat(0.5);
    let codes = codes(
        simd,
        weights,
        LARGEST,
        #[inline(always)]
        |w| simd.add(simd.mul(simd.sub(w, lowest), inverse), half),
    );
    (HalfLe::finite(scale), HalfLe::finite(min), codes)
}

/// The least and the largest weight; NaN is passed over.
#[inline(always)]
fn extremes<S: Simd>(simd: S, weights: &[f32; BLOCK]) -> (f32, f32) {
    let (mut least, mut largest) = (simd.splat(f32::INFINITY), simd.splat(f32::NEG_INFINITY));
    for weights in weights.as_chunks::<LANES>().0 {
        let weights = simd.load(weights);
        least = simd.min(weights, least);
        largest = simd.max(weights, largest);
    }
    let (mut least_lanes, mut largest_lanes) = ([0.0; LANES], [0.0; LANES]);
    simd.store(least, &mut least_lanes);
    simd.store(largest, &mut largest_lanes);
    (
        tree(least_lanes, |a, b| if b < a { b } else { a }),
        tree(largest_lanes, |a, b| if b > a { b } else { a }),
    )
}

/// The whole part of what `scaled` makes of each weight, within `0..=largest`; 0 of NaN.
#[inline(always)]
fn codes<S: Simd>(
    simd: S,
    weights: &[f32; BLOCK],
    largest: u8,
    scaled: impl Fn(S::F) -> S::F,
) -> [u8; BLOCK] {
    /// Adding and subtracting it rounds to a whole number; the sum has that in its lowest bits.
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23
    let (zero, one, shift) = (simd.splat(0.0), simd.splat(1.0), simd.splat(SHIFT));
    let most = simd.splat(f32::from(largest) + 0.5);
    let mut codes = [0; BLOCK];
    let chunks = weights.as_chunks::<LANES>().0.iter();
    for (weights, codes) in chunks.zip(codes.as_chunks_mut::<LANES>().0) {
        let scaled = simd.min(simd.max(scaled(simd.load(weights)), zero), most);
        let nearest = simd.sub(simd.add(scaled, shift), shift);
        let above = simd.gt(nearest, scaled);
        let whole = simd.select(above, simd.sub(nearest, one), nearest);
        let mut stored = [0.0f32; LANES];
        simd.store(simd.add(whole, shift), &mut stored);
        for (code, shifted) in codes.iter_mut().zip(stored) {
            *code = shifted.to_bits() as u8;
        }
    }
    codes
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
