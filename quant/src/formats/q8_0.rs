//! Q8_0: 32 weights of 8 bits with one scale; 8.5 bits per weight.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use llq_gguf::TensorType;

use crate::{
    format::{BlockFormat, Decoded},
    kernels::Simd,
    packing::HalfLe,
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
    fn decode<S: Simd>(_simd: S, block: &BlockQ8_0, out: &mut Decoded) {
        out.scales[0] = block.scale.to_f32();
        out.mins[0] = 0.0;
        out.codes[..32].copy_from_slice(&block.codes);
    }

    /// Eight bits are so fine that importance would change nothing of note: it is not used.
    #[inline(always)]
    fn encode_row<S: Simd>(
        _simd: S,
        row: &[f32],
        _importance: Option<&[f32]>,
        out: &mut [BlockQ8_0],
    ) {
        for (weights, block) in row.as_chunks::<32>().0.iter().zip(out) {
            let scale = (largest_magnitude(weights) / 127.0).min(half::f16::MAX.to_f32());
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            block.scale = HalfLe::finite(scale);
            block.codes = weights.map(|weight| nearest_code(weight * inverse));
        }
    }

    fn defect(block: &BlockQ8_0) -> Option<&'static str> {
        (!block.scale.is_finite()).then_some("scale is NaN or infinite")
    }
}

/// The largest magnitude, by the bits: they have the same order, and integers are compared several
/// at once. NaN has none.
#[inline(always)]
fn largest_magnitude(weights: &[f32; 32]) -> f32 {
    let mut largest = [0; 8];
    for weights in weights.as_chunks::<8>().0 {
        for (largest, weight) in largest.iter_mut().zip(weights) {
            let bits = (weight.to_bits() & 0x7fff_ffff) as i32;
            let bits = if bits > f32::INFINITY.to_bits() as i32 { 0 } else { bits };
            *largest = bits.max(*largest);
        }
    }
    f32::from_bits(largest.into_iter().fold(0, i32::max) as u32)
}

/// The nearest code, ties away from zero; 0 for NaN.
#[inline(always)]
fn nearest_code(scaled: f32) -> i8 {
    /// Added to a small whole number it leaves that number in the lowest bits, which saves the
    /// checks of a conversion.
    const SHIFT: f32 = 12_582_912.0;
    let whole = scaled.round().clamp(-127.0, 127.0);
    let whole = if whole.is_nan() { 0.0 } else { whole };
    (whole + SHIFT).to_bits() as i8
}
