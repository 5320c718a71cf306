//! Q6_K: 256 weights of 6 bits; 6.5625 bits per weight.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use llq_gguf::TensorType;

use crate::{
    format::BlockFormat,
    kernels::{LANES, Simd},
    packing::{HalfLe, pack, plane},
    search::{
        k_row::Row,
        panel::CodeRange,
        scale_grid::ScaleCodes,
        superblock::{self, Shape},
    },
};

/// 16 groups of 16 weights of 6 bits, each group with a signed scale of 8 bits:
/// `weight = scale * scale_code * (code - 32)`.
#[derive(Debug)]
pub(crate) enum Q6_K {}

/// A super-block of [`Q6_K`], 210 bytes: [`LAYOUT`](BlockFormat::LAYOUT).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ6_K {
    nibbles: [u8; 128],
    high_bits: [u8; 64],
    groups: [i8; 16],
    scale: HalfLe,
}

/// Integers of the format, and how far its searches go.
const SHAPE: Shape = Shape {
    codes: CodeRange { lowest: -32.0, highest: 31.0 },
    scales: ScaleCodes {
        range: CodeRange { lowest: -128.0, highest: 127.0 },
        ends: &[-128.0, 127.0],
        trials: 16,
        shrink: 0.2,
    },
};

/// What a weight near zero counts without importance, see [`Row`].
const FLOOR: f32 = 2.0;

impl BlockFormat for Q6_K {
    const TENSOR_TYPE: TensorType = TensorType::Q6_K;
    const SUMMARY: &'static str = "16 groups of 16 weights of 6 bits, signed scales of 8 bits";
    const LAYOUT: &'static str = "\
weight = scale * scale_code * (code - 32)

0..128       per 128 weights 64 bytes: bits 0-3 of code i in the low nibble of byte i, of
             code 64+i in the high
128..192     per 128 weights 32 bytes: bits 4-5 of code 32p+i in bits 2p, 2p+1 of byte i
192..208     signed scale code of group j in byte 192+j
208..210     scale of the scales, f16";
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;
    const CODE_BITS: u32 = 6;
    const NUMBERS: &'static [Range<usize>] = &[208..210];
    type Block = BlockQ6_K;

    #[inline(always)]
    fn numbers<S: Simd>(simd: S, blocks: &[BlockQ6_K], scales: &mut [f32], _mins: &mut [f32]) {
        for (block, scales) in blocks.iter().zip(scales.as_chunks_mut::<LANES>().0) {
            let scale = simd.splat(block.scale.widen(simd));
            simd.store(simd.mul(scale, simd.widen_bytes(&block.groups)), scales);
        }
    }

    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &BlockQ6_K, part: usize) -> S::B {
        let (half, part) = (part / 4, part % 4);
        let low = plane::<S, 4, 0>(simd, &block.nibbles, 2 * half + part % 2, part / 2);
        simd.or_bytes(low, plane::<S, 2, 4>(simd, &block.high_bits, half, part))
    }

    #[inline(always)]
    fn encode_row<S: Simd>(
        simd: S,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [BlockQ6_K],
    ) {
        superblock::encode_symmetric::<S, 16, 2>(
            simd,
            Row { weights: row, importance, floor: FLOOR },
            SHAPE,
            #[inline(always)]
            |i, found| {
                let block = &mut out[i];
                block.scale = found.scale;
                block.groups = found.scale_codes;
                pack::<4, 64, 0>(&found.codes, &mut block.nibbles);
                pack::<2, 32, 4>(&found.codes, &mut block.high_bits);
            },
        );
    }

    fn defect(block: &BlockQ6_K) -> Option<&'static str> {
        (!block.scale.is_finite()).then_some("scale is NaN or infinite")
    }
}
