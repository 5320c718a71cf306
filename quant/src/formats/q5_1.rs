//! Q5_1: 32 weights of 5 bits with scale and minimum; 6 bits per weight.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use llq_gguf::TensorType;

use crate::{
    format::BlockFormat,
    kernels::Simd,
    packing::{HalfLe, pack, widen_halves},
    search::legacy,
};

/// 32 weights of 5 bits with scale and minimum: `weight = scale * code + minimum`.
#[derive(Debug)]
pub(crate) enum Q5_1 {}

/// A block of [`Q5_1`], 24 bytes: [`LAYOUT`](BlockFormat::LAYOUT).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ5_1 {
    scale: HalfLe,
    min: HalfLe,
    high_bits: [u8; 4],
    nibbles: [u8; 16],
}

impl BlockFormat for Q5_1 {
    const TENSOR_TYPE: TensorType = TensorType::Q5_1;
    const SUMMARY: &'static str = "32 weights of 5 bits, scale and minimum";
    const LAYOUT: &'static str = "\
weight = scale * code + minimum

0..2         scale, f16
2..4         minimum, f16
4..8         bit 4 of code i in bit i of a u32
8..24        bits 0-3 of code i in the low nibble of byte 8+i, of code 16+i in the high nibble";
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;
    const CODE_BITS: u32 = 5;
    const NUMBERS: &'static [Range<usize>] = &[0..2, 2..4, 4..8];
    type Block = BlockQ5_1;

    #[inline(always)]
    fn numbers<S: Simd>(simd: S, blocks: &[BlockQ5_1], scales: &mut [f32], mins: &mut [f32]) {
        widen_halves(
            simd,
            blocks,
            #[inline(always)]
            |block| block.scale,
            scales,
        );
        widen_halves(
            simd,
            blocks,
            #[inline(always)]
            |block| block.min.negated(),
            mins,
        );
    }

    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &BlockQ5_1, _part: usize) -> S::B {
        let high = simd.spread_bits(u32::from_le_bytes(block.high_bits), 1 << 4);
        simd.or_bytes(simd.nibbles(&block.nibbles), high)
    }

    #[inline(always)]
    fn encode_row<S: Simd>(
        simd: S,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [BlockQ5_1],
    ) {
        legacy::encode_affine::<31>(
            simd,
            row,
            importance,
            #[inline(always)]
            |i, scale, min, codes| {
                out[i].scale = scale;
                out[i].min = min;
                pack::<4, 16, 0>(codes, &mut out[i].nibbles);
                pack::<1, 1, 4>(codes, &mut out[i].high_bits);
            },
        );
    }

    fn defect(block: &BlockQ5_1) -> Option<&'static str> {
        if !block.scale.is_finite() {
            return Some("scale is NaN or infinite");
        }
        (!block.min.is_finite()).then_some("minimum is NaN or infinite")
    }
}
