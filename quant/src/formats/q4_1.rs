//! Q4_1: 32 weights of 4 bits with scale and minimum; 5 bits per weight.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use llq_gguf::TensorType;

use crate::{
    format::BlockFormat,
    kernels::Simd,
    packing::{HalfLe, pack, widen_halves},
    search::legacy,
};

/// 32 weights of 4 bits with scale and minimum: `weight = scale * code + minimum`.
#[derive(Debug)]
pub(crate) enum Q4_1 {}

/// A block of [`Q4_1`], 20 bytes: [`LAYOUT`](BlockFormat::LAYOUT).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ4_1 {
    scale: HalfLe,
    min: HalfLe,
    nibbles: [u8; 16],
}

impl BlockFormat for Q4_1 {
    const TENSOR_TYPE: TensorType = TensorType::Q4_1;
    const SUMMARY: &'static str = "32 weights of 4 bits, scale and minimum";
    const LAYOUT: &'static str = "\
weight = scale * code + minimum

0..2         scale, f16
2..4         minimum, f16
4..20        code i in the low nibble of byte 4+i, code 16+i in the high nibble";
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;
    const CODE_BITS: u32 = 4;
    const NUMBERS: &'static [Range<usize>] = &[0..2, 2..4];
    type Block = BlockQ4_1;

    #[inline(always)]
    fn numbers<S: Simd>(simd: S, blocks: &[BlockQ4_1], scales: &mut [f32], mins: &mut [f32]) {
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
    fn codes<S: Simd>(simd: S, block: &BlockQ4_1, _part: usize) -> S::B {
        simd.nibbles(&block.nibbles)
    }

    #[inline(always)]
    fn encode_row<S: Simd>(
        simd: S,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [BlockQ4_1],
    ) {
        legacy::encode_affine::<15>(
            simd,
            row,
            importance,
            #[inline(always)]
            |i, scale, min, codes| {
                out[i].scale = scale;
                out[i].min = min;
                pack::<4, 16, 0>(codes, &mut out[i].nibbles);
            },
        );
    }

    fn defect(block: &BlockQ4_1) -> Option<&'static str> {
        if !block.scale.is_finite() {
            return Some("scale is NaN or infinite");
        }
        (!block.min.is_finite()).then_some("minimum is NaN or infinite")
    }
}
