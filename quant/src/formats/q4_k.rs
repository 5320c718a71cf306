//! Q4_K: 256 weights of 4 bits; 4.5 bits per weight.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use llq_gguf::TensorType;

use crate::{
    effort::Encoding,
    format::{BlockFormat, Fields},
    kernels::{LANES, Simd},
    packing::{HalfLe, pack, pack_six_bit_pairs, plane, unpack_six_bit_pairs},
    search::{
        k_row::Row,
        panel::CodeRange,
        scale_grid::ScaleCodes,
        superblock::{self, Gain, Shape},
    },
};

/// 8 groups of 32 weights of 4 bits, each group with a scale and a minimum of 6 bits:
/// `weight = scale * scale_code * code - min * min_code`.
#[derive(Debug)]
pub(crate) enum Q4_K {}

/// A super-block of [`Q4_K`], 144 bytes: [`LAYOUT`](BlockFormat::LAYOUT).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ4_K {
    scale: HalfLe,
    min: HalfLe,
    groups: [u8; 12],
    nibbles: [u8; 128],
}

/// Integers of the format, and how far its searches go.
const SHAPE: Shape = Shape {
    codes: CodeRange { lowest: 0.0, highest: 15.0 },
    scales: ScaleCodes {
        range: CodeRange { lowest: 0.0, highest: 63.0 },
        ends: &[63.0],
        trials: 32,
        shrink: 0.4,
    },
    gain: Gain::LeastSquares,
};

/// What a weight near zero counts without importance, see [`Row`].
const FLOOR: f32 = 8.0;

impl BlockFormat for Q4_K {
    const TENSOR_TYPE: TensorType = TensorType::Q4_K;
    const SUMMARY: &'static str = "8 groups of 32 weights of 4 bits, scales and minima of 6 bits";
    const LAYOUT: &'static str = "\
weight = scale * scale_code * code - min * min_code

0..2         scale of the scales, f16
2..4         scale of the minima, f16
4..16        8 scale codes and 8 minimum codes of 6 bits:
             byte 4+j, j < 4: scale j in bits 0-5, bits 4-5 of scale 4+j in bits 6-7
             byte 8+j, j < 4: the same of the minima
             byte 12+j, j < 4: bits 0-3 of scale 4+j low, of minimum 4+j high
16..144      per 64 weights 32 bytes: code i in the low nibble of byte i, 32+i in the high";
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;
    const CODE_BITS: u32 = 4;
    const SCALE_CODES: [i8; 2] = [0, 63];
    const NUMBERS: &'static [Range<usize>] = &[0..2, 2..4];
    type Block = BlockQ4_K;

    #[inline(always)]
    fn numbers<S: Simd>(simd: S, blocks: &[BlockQ4_K], scales: &mut [f32], mins: &mut [f32]) {
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
    fn codes<S: Simd>(simd: S, block: &BlockQ4_K, part: usize) -> S::B {
        plane::<S, 4, 0>(simd, &block.nibbles, part / 2, part % 2)
    }

    #[inline(always)]
    fn encode_row<S: Simd>(simd: S, row: &[f32], encoding: Encoding<'_>, out: &mut [BlockQ4_K]) {
        superblock::encode_affine::<S, 32>(
            simd,
            Row { weights: row, encoding, floor: FLOOR },
            SHAPE,
            2,
            #[inline(always)]
            |i, found| out[i] = Self::pack(&found),
        );
    }

    #[inline(always)]
    fn pack(fields: &Fields) -> BlockQ4_K {
        let mut block = BlockQ4_K::zeroed();
        block.scale = fields.scale;
        block.min = fields.min;
        let (scales, mins) =
            (fields.scale_codes.map(|c| c as u8), fields.min_codes.map(|c| c as u8));
        block.groups = pack_six_bit_pairs(&scales, &mins);
        pack::<4, 32, 0>(&fields.codes, &mut block.nibbles);
        block
    }

    fn grid(block: &BlockQ4_K) -> Fields {
        let mut fields = Fields::of_group(block.scale, block.min);
        let codes = unpack_six_bit_pairs(&block.groups);
        fields.scale_codes[..8].copy_from_slice(&codes[..8]);
        fields.min_codes[..8].copy_from_slice(&codes[8..]);
        fields
    }

    fn defect(block: &BlockQ4_K) -> Option<&'static str> {
        if !block.scale.is_finite() {
            return Some("scale is NaN or infinite");
        }
        (!block.min.is_finite()).then_some("scale of the minima is NaN or infinite")
    }
}
