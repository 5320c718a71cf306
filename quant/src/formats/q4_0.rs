//! Q4_0: 32 weights of 4 bits with one scale; 4.5 bits per weight.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use llq_gguf::TensorType;

use crate::{
    format::BlockFormat,
    kernels::Simd,
    packing::{HalfLe, pack, widen_halves},
    search::legacy,
};

/// 32 weights of 4 bits with one scale: `weight = scale * (code - 8)`.
#[derive(Debug)]
pub(crate) enum Q4_0 {}

/// A block of [`Q4_0`], 18 bytes: [`LAYOUT`](BlockFormat::LAYOUT).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ4_0 {
    scale: HalfLe,
    nibbles: [u8; 16],
}

impl BlockFormat for Q4_0 {
    const TENSOR_TYPE: TensorType = TensorType::Q4_0;
    const SUMMARY: &'static str = "32 weights of 4 bits, one scale";
    const LAYOUT: &'static str = "\
weight = scale * (code - 8)

0..2         scale, f16
2..18        code i in the low nibble of byte 2+i, code 16+i in the high nibble";
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;
    const CODE_BITS: u32 = 4;
    const NUMBERS: &'static [Range<usize>] = &[0..2];
    type Block = BlockQ4_0;

    #[inline(always)]
    fn numbers<S: Simd>(simd: S, blocks: &[BlockQ4_0], scales: &mut [f32], _mins: &mut [f32]) {
        widen_halves(
            simd,
            blocks,
            #[inline(always)]
            |block| block.scale,
            scales,
        );
    }

    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &BlockQ4_0, _part: usize) -> S::B {
        simd.nibbles(&block.nibbles)
    }

    #[inline(always)]
    fn encode_row<S: Simd>(
        simd: S,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [BlockQ4_0],
    ) {
        legacy::encode_symmetric::<8>(
            simd,
            row,
            importance,
            #[inline(always)]
            |i, scale, codes| {
                out[i].scale = scale;
                pack::<4, 16, 0>(codes, &mut out[i].nibbles);
            },
        );
    }

    fn defect(block: &BlockQ4_0) -> Option<&'static str> {
        (!block.scale.is_finite()).then_some("scale is NaN or infinite")
    }
}
