//! Q5_K: 256 weights of 5 bits; 5.5 bits per weight.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use llq_gguf::TensorType;

use crate::{
    format::BlockFormat,
    kernels::{LANES, Simd},
    packing::{HalfLe, pack, pack_six_bit_pairs, plane, unpack_six_bit_pairs},
    search::{
        k_row::Row,
        panel::CodeRange,
        scale_grid::ScaleCodes,
        superblock::{self, Shape},
    },
};

/// 8 groups of 32 weights of 5 bits, each group with a scale and a minimum of 6 bits:
/// `weight = scale * scale_code * code - min * min_code`.
#[derive(Debug)]
pub(crate) enum Q5_K {}

/// A super-block of [`Q5_K`], 176 bytes: [`LAYOUT`](BlockFormat::LAYOUT).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ5_K {
    scale: HalfLe,
    min: HalfLe,
    groups: [u8; 12],
    high_bits: [u8; 32],
    nibbles: [u8; 128],
}

/// Integers of the format, and how far its searches go.
const SHAPE: Shape = Shape {
    codes: CodeRange { lowest: 0.0, highest: 31.0 },
    scales: ScaleCodes {
        range: CodeRange { lowest: 0.0, highest: 63.0 },
        ends: &[63.0],
        trials: 32,
        shrink: 0.4,
    },
};

/// What a weight near zero counts without importance, see [`Row`].
const FLOOR: f32 = 8.0;

impl BlockFormat for Q5_K {
    const TENSOR_TYPE: TensorType = TensorType::Q5_K;
    const SUMMARY: &'static str = "8 groups of 32 weights of 5 bits, scales and minima of 6 bits";
    const LAYOUT: &'static str = "\
weight = scale * scale_code * code - min * min_code

0..2         scale of the scales, f16
2..4         scale of the minima, f16
4..16        8 scale codes and 8 minimum codes of 6 bits, as in Q4_K
16..48       bit 4 of code 32p+i in bit p of byte 16+i
48..176      per 64 weights 32 bytes: bits 0-3 of code i in the low nibble of byte i, of
             code 32+i in the high";
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;
    const CODE_BITS: u32 = 5;
    const NUMBERS: &'static [Range<usize>] = &[0..2, 2..4];
    type Block = BlockQ5_K;

    #[inline(always)]
    fn numbers<S: Simd>(simd: S, blocks: &[BlockQ5_K], scales: &mut [f32], mins: &mut [f32]) {
        let numbers = scales.as_chunks_mut::<8>().0.iter_mut().zip(mins.as_chunks_mut::<8>().0);
        for (block, (scales, mins)) in blocks.iter().zip(numbers) {
            let (scale, min) = (block.scale.widen(simd), block.min.widen(simd));
            let codes = simd.widen_bytes(&unpack_six_bit_pairs(&block.groups));
            let mut stored = [0.0; LANES];
            simd.store(simd.mul(codes, simd.spread_2(&[scale, min])), &mut stored);
            scales.copy_from_slice(&stored[..8]);
            mins.copy_from_slice(&stored[8..]);
        }
    }

    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &BlockQ5_K, part: usize) -> S::B {
        let low = plane::<S, 4, 0>(simd, &block.nibbles, part / 2, part % 2);
        simd.or_bytes(low, plane::<S, 1, 4>(simd, &block.high_bits, 0, part))
    }

    #[inline(always)]
    fn encode_row<S: Simd>(
        simd: S,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [BlockQ5_K],
    ) {
        superblock::encode_affine::<S, 32, 2>(
            simd,
            Row { weights: row, importance, floor: FLOOR },
            SHAPE,
            #[inline(always)]
            |i, found| {
                let block = &mut out[i];
                block.scale = found.scale;
                block.min = found.min;
                let (scales, mins) =
                    (found.scale_codes.map(|c| c as u8), found.min_codes.map(|c| c as u8));
                block.groups = pack_six_bit_pairs(&scales, &mins);
                pack::<4, 32, 0>(&found.codes, &mut block.nibbles);
                pack::<1, 32, 4>(&found.codes, &mut block.high_bits);
            },
        );
    }

    fn defect(block: &BlockQ5_K) -> Option<&'static str> {
        if !block.scale.is_finite() {
            return Some("scale is NaN or infinite");
        }
        (!block.min.is_finite()).then_some("scale of the minima is NaN or infinite")
    }
}
