//! Q8_0: 32 weights of 8 bits with one scale; 8.5 bits per weight.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use llq_gguf::TensorType;

use crate::{
    format::BlockFormat,
    kernels::{LANES, Simd},
    packing::{HalfLe, widen_halves},
};

/// 32 weights of 8 bits with one scale: `weight = scale * code`.
#[derive(Debug)]
pub(crate) enum Q8_0 {}

/// A block of [`Q8_0`], 34 bytes: [`LAYOUT`](BlockFormat::LAYOUT).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ8_0 {
    scale: HalfLe,
    codes: [i8; 32],
}

impl BlockFormat for Q8_0 {
    const TENSOR_TYPE: TensorType = TensorType::Q8_0;
    const SUMMARY: &'static str = "32 weights of 8 bits, one scale";
    const LAYOUT: &'static str = "\
weight = scale * code

0..2         scale, f16
2..34        code i, signed, in byte 2+i";
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;
    const CODE_BITS: u32 = 8;
    const NUMBERS: &'static [Range<usize>] = &[0..2];
    type Block = BlockQ8_0;

    #[inline(always)]
    fn numbers<S: Simd>(simd: S, blocks: &[BlockQ8_0], scales: &mut [f32], _mins: &mut [f32]) {
        widen_halves(
            simd,
            blocks,
            #[inline(always)]
            |block| block.scale,
            scales,
        );
    }

    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &BlockQ8_0, _part: usize) -> S::B {
        simd.load_bytes(bytemuck::cast_ref(&block.codes))
    }

    /// Eight bits are so fine that importance would change nothing of note: it is not used.
    #[inline(always)]
    fn encode_row<S: Simd>(
        simd: S,
        row: &[f32],
        _importance: Option<&[f32]>,
        out: &mut [BlockQ8_0],
    ) {
        for (weights, block) in row.as_chunks::<32>().0.iter().zip(out) {
            let scale =
                (largest_magnitude_but_nan(simd, weights) / 127.0).min(half::f16::MAX.to_f32());
            let inverse = simd.splat(if scale == 0.0 { 0.0 } else { 1.0 / scale });
            block.scale = HalfLe::finite(scale);
            let weights = weights.as_chunks::<LANES>().0;
            for (weights, codes) in weights.iter().zip(block.codes.as_chunks_mut::<LANES>().0) {
                let shifted = nearest_code(simd, simd.mul(simd.load(weights), inverse));
                let mut stored = [0.0; LANES];
                simd.store(shifted, &mut stored);
                for (code, shifted) in codes.iter_mut().zip(stored) {
                    *code = shifted.to_bits() as i8;
                }
            }
        }
    }

    fn defect(block: &BlockQ8_0) -> Option<&'static str> {
        (!block.scale.is_finite()).then_some("scale is NaN or infinite")
    }
}

/// The largest magnitude of those that are no NaN, which that of the kernel table counts.
#[inline(always)]
fn largest_magnitude_but_nan<S: Simd>(simd: S, weights: &[f32; 32]) -> f32 {
    let zero = simd.splat(0.0);
    let mut largest = zero;
    for weights in weights.as_chunks::<LANES>().0 {
        let weights = simd.load(weights);
        largest = simd.max(simd.max(weights, simd.sub(zero, weights)), largest);
    }
    let mut lanes = [0.0; LANES];
    simd.store(largest, &mut lanes);
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = if lanes[i] > lanes[i + half] { lanes[i] } else { lanes[i + half] };
        }
    }
    lanes[0]
}

/// The nearest code, ties away from zero, in the lowest byte of the result; 0 for NaN.
#[inline(always)]
fn nearest_code<S: Simd>(simd: S, scaled: S::F) -> S::F {
    /// Adding and subtracting it rounds to a whole number, ties to even; the sum has that number
    /// in its lowest bits.
    const SHIFT: f32 = 12_582_912.0;
    let (zero, shift) = (simd.splat(0.0), simd.splat(SHIFT));
    let magnitude = simd.max(simd.max(scaled, simd.sub(zero, scaled)), zero);
    let magnitude = simd.min(magnitude, simd.splat(127.0));
    let even = simd.sub(simd.add(magnitude, shift), shift);
    let tie_below = simd.gt(simd.sub(magnitude, even), simd.splat(0.5f32.next_down()));
    let whole = simd.select(tie_below, simd.add(even, simd.splat(1.0)), even);
    let signed = simd.select(simd.gt(zero, scaled), simd.sub(zero, whole), whole);
    simd.add(signed, shift)
}
