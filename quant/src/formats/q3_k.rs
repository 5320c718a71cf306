//! Q3_K: 256 weights of 3 bits; 3.4375 bits per weight.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use llq_gguf::TensorType;

use crate::{
    effort::Encoding,
    format::{BlockFormat, Fields},
    kernels::{LANES, Simd},
    packing::{HalfLe, pack, plane},
    search::{
        k_row::Row,
        panel::CodeRange,
        scale_grid::ScaleCodes,
        superblock::{self, Gain, Shape},
    },
};

/// 16 groups of 16 weights of 3 bits, each group with a scale of 6 bits:
/// `weight = scale * (scale_code - 32) * (code - 4)`.
#[derive(Debug)]
pub(crate) enum Q3_K {}

/// A super-block of [`Q3_K`], 110 bytes: [`LAYOUT`](BlockFormat::LAYOUT).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ3_K {
    high_bits: [u8; 32],
    low_bits: [u8; 64],
    scale_nibbles: [u8; 8],
    scale_high_bits: [u8; 4],
    scale: HalfLe,
}

/// Integers of the format, and how far its searches go.
const SHAPE: Shape = Shape {
    codes: CodeRange { lowest: -4.0, highest: 3.0 },
    scales: ScaleCodes {
        range: CodeRange { lowest: -32.0, highest: 31.0 },
        ends: &[-32.0, 31.0],
        trials: 16,
        shrink: 0.4,
    },
    gain: Gain::Whole,
};

/// What a weight near zero counts without importance, see [`Row`].
const FLOOR: f32 = 3.0;

impl BlockFormat for Q3_K {
    const TENSOR_TYPE: TensorType = TensorType::Q3_K;
    const SUMMARY: &'static str = "16 groups of 16 weights of 3 bits, signed scales of 6 bits";
    const LAYOUT: &'static str = "\
weight = scale * (scale_code - 32) * (code - 4)

0..32        bit 2 of code 32p+i in bit p of byte i
32..96       per 128 weights 32 bytes: bits 0-1 of code 32p+i in bits 2p, 2p+1 of byte 32+i
96..104      bits 0-3 of the scale codes: j in the low nibble of byte 96+j, 8+j in the high
104..108     bits 4-5 of the scale codes: 4p+j in bits 2p, 2p+1 of byte 104+j
108..110     scale of the scales, f16";
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;
    const CODE_BITS: u32 = 3;
    const SCALE_CODES: [i8; 2] = [-32, 31];
    const NUMBERS: &'static [Range<usize>] = &[108..110];
    type Block = BlockQ3_K;

    #[inline(always)]
    fn numbers<S: Simd>(simd: S, blocks: &[BlockQ3_K], scales: &mut [f32], _mins: &mut [f32]) {
        for (block, scales) in blocks.iter().zip(scales.as_chunks_mut::<LANES>().0) {
            let scale = simd.splat(block.scale.widen(simd));
            let codes = simd.sub(simd.widen_bytes(&block.scale_codes()), simd.splat(32.0));
            simd.store(simd.mul(scale, codes), scales);
        }
    }

    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &BlockQ3_K, part: usize) -> S::B {
        let low = plane::<S, 2, 0>(simd, &block.low_bits, part / 4, part % 4);
        simd.or_bytes(low, plane::<S, 1, 2>(simd, &block.high_bits, 0, part))
    }

    #[inline(always)]
    fn encode_row<S: Simd>(simd: S, row: &[f32], encoding: Encoding<'_>, out: &mut [BlockQ3_K]) {
        superblock::encode_symmetric::<S, 16>(
            simd,
            Row { weights: row, encoding, floor: FLOOR },
            SHAPE,
            1,
            #[inline(always)]
            |i, found| out[i] = Self::pack(&found),
        );
    }

    #[inline(always)]
    fn pack(fields: &Fields) -> BlockQ3_K {
        let mut block = BlockQ3_K::zeroed();
        block.scale = fields.scale;
        let scale_codes = fields.scale_codes.map(|code| (code + 32) as u8);
        pack::<4, 8, 0>(&scale_codes, &mut block.scale_nibbles);
        pack::<2, 4, 4>(&scale_codes, &mut block.scale_high_bits);
        pack::<2, 32, 0>(&fields.codes, &mut block.low_bits);
        pack::<1, 32, 2>(&fields.codes, &mut block.high_bits);
        block
    }

    fn grid(block: &BlockQ3_K) -> Fields {
        let mut fields = Fields::of_group(block.scale, HalfLe::zeroed());
        for (j, code) in fields.scale_codes.iter_mut().enumerate() {
            let low = (block.scale_nibbles[j % 8] >> (j / 8 * 4)) & 15;
            let high = (block.scale_high_bits[j % 4] >> (j / 4 * 2)) & 3;
            *code = (low | (high << 4)) as i8 - 32;
        }
        fields
    }

    fn defect(block: &BlockQ3_K) -> Option<&'static str> {
        (!block.scale.is_finite()).then_some("scale is NaN or infinite")
    }
}

impl BlockQ3_K {
    /// The scale codes, 0..=63.
    #[inline(always)]
    fn scale_codes(&self) -> [i8; 16] {
        const LOW: u32 = 0x0f0f_0f0f;
        const HIGH: u32 = 0x0303_0303;
        let [nibbles_0, nibbles_4] = [0, 4].map(
            #[inline(always)]
            |first| {
                let bytes = &self.scale_nibbles[first..first + 4];
                u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            },
        );
        let high = u32::from_le_bytes(self.scale_high_bits);
        let fours = [
            nibbles_0 & LOW | (high & HIGH) << 4,
            nibbles_4 & LOW | (high >> 2 & HIGH) << 4,
            nibbles_0 >> 4 & LOW | (high >> 4 & HIGH) << 4,
            nibbles_4 >> 4 & LOW | (high >> 6 & HIGH) << 4,
        ];
        bytemuck::cast(fours.map(u32::to_le))
    }
}
