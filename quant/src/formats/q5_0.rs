//! Q5_0: 32 weights of 5 bits with one scale; 5.5 bits per weight.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use llq_gguf::TensorType;

use crate::{
    format::BlockFormat,
    kernels::Simd,
    packing::{HalfLe, pack, widen_halves},
    search::legacy,
};

/// 32 weights of 5 bits with one scale: `weight = scale * (code - 16)`.
#[derive(Debug)]
pub(crate) enum Q5_0 {}

/// A block of [`Q5_0`], 22 bytes: [`LAYOUT`](BlockFormat::LAYOUT).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ5_0 {
    scale: HalfLe,
    high_bits: [u8; 4],
    nibbles: [u8; 16],
}

impl BlockFormat for Q5_0 {
    const TENSOR_TYPE: TensorType = TensorType::Q5_0;
    const SUMMARY: &'static str = "32 weights of 5 bits, one scale";
    const LAYOUT: &'static str = "\
weight = scale * (code - 16)

0..2         scale, f16
2..6         bit 4 of code i in bit i of a u32
6..22        bits 0-3 of code i in the low nibble of byte 6+i, of code 16+i in the high nibble";
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;
    const CODE_BITS: u32 = 5;
    const NUMBERS: &'static [Range<usize>] = &[0..2, 2..6];
    type Block = BlockQ5_0;

    #[inline(always)]
    fn numbers<S: Simd>(simd: S, blocks: &[BlockQ5_0], scales: &mut [f32], _mins: &mut [f32]) {
        widen_halves(
            simd,
            blocks,
            #[inline(always)]
            |block| block.scale,
            scales,
        );
    }

    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &BlockQ5_0, _part: usize) -> S::B {
        let high = simd.spread_bits(u32::from_le_bytes(block.high_bits), 1 << 4);
        simd.or_bytes(simd.nibbles(&block.nibbles), high)
    }

    #[inline(always)]
    fn encode_row<S: Simd>(
        simd: S,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [BlockQ5_0],
    ) {
        legacy::encode_symmetric::<16>(
            simd,
            row,
            importance,
            #[inline(always)]
            |i, scale, codes| {
                out[i].scale = scale;
                pack::<4, 16, 0>(codes, &mut out[i].nibbles);
                pack::<1, 1, 4>(codes, &mut out[i].high_bits);
            },
        );
    }

    fn defect(block: &BlockQ5_0) -> Option<&'static str> {
        (!block.scale.is_finite()).then_some("scale is NaN or infinite")
    }
}
