//! Q2_K: 256 weights of 2 bits; 2.625 bits per weight.

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

/// 16 groups of 16 weights of 2 bits, each group with a scale and a minimum of 4 bits:
/// `weight = scale * scale_code * code - min * min_code`.
#[derive(Debug)]
pub(crate) enum Q2_K {}

/// A super-block of [`Q2_K`], 84 bytes: [`LAYOUT`](BlockFormat::LAYOUT).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ2_K {
    groups: [u8; 16],
    codes: [u8; 64],
    scale: HalfLe,
    min: HalfLe,
}

/// Integers of the format, and how far its searches go.
const SHAPE: Shape = Shape {
    codes: CodeRange { lowest: 0.0, highest: 3.0 },
    scales: ScaleCodes {
        range: CodeRange { lowest: 0.0, highest: 15.0 },
        ends: &[15.0],
        trials: 16,
        shrink: 0.4,
    },
};

/// What a weight near zero counts without importance, see [`Row`].
const FLOOR: f32 = 8.0;

impl BlockFormat for Q2_K {
    const TENSOR_TYPE: TensorType = TensorType::Q2_K;
    const SUMMARY: &'static str = "16 groups of 16 weights of 2 bits, scales and minima of 4 bits";
    const LAYOUT: &'static str = "\
weight = scale * scale_code * code - min * min_code

0..16        of group j: scale code in the low nibble of byte j, minimum code in the high
16..80       per 128 weights 32 bytes: code 32p+i in bits 2p, 2p+1 of byte i
80..82       scale of the scales, f16
82..84       scale of the minima, f16";
    const GROUP: usize = 16;
    const HAS_MIN: bool = true;
    const CODE_BITS: u32 = 2;
    const NUMBERS: &'static [Range<usize>] = &[80..82, 82..84];
    type Block = BlockQ2_K;

    #[inline(always)]
    fn numbers<S: Simd>(simd: S, blocks: &[BlockQ2_K], scales: &mut [f32], mins: &mut [f32]) {
        let numbers = scales.as_chunks_mut::<LANES>().0.iter_mut();
        let numbers = numbers.zip(mins.as_chunks_mut::<LANES>().0);
        for (block, (scales, mins)) in blocks.iter().zip(numbers) {
            let (scale, min) = (block.scale.widen(simd), block.min.widen(simd));
            let codes = simd.widen_bytes(&block.groups.map(|group| (group & 15) as i8));
            simd.store(simd.mul(simd.splat(scale), codes), scales);
            let codes = simd.widen_bytes(&block.groups.map(|group| (group >> 4) as i8));
            simd.store(simd.mul(simd.splat(min), codes), mins);
        }
    }

    #[inline(always)]
    fn codes<S: Simd>(simd: S, block: &BlockQ2_K, part: usize) -> S::B {
        plane::<S, 2, 0>(simd, &block.codes, part / 4, part % 4)
    }

    #[inline(always)]
    fn encode_row<S: Simd>(
        simd: S,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [BlockQ2_K],
    ) {
        superblock::encode_affine::<S, 16, 1>(
            simd,
            Row { weights: row, importance, floor: FLOOR },
            SHAPE,
            #[inline(always)]
            |i, found| {
                let block = &mut out[i];
                block.scale = found.scale;
                block.min = found.min;
                for (j, group) in block.groups.iter_mut().enumerate() {
                    *group = found.scale_codes[j] as u8 | ((found.min_codes[j] as u8) << 4);
                }
                pack::<2, 32, 0>(&found.codes, &mut block.codes);
            },
        );
    }

    fn defect(block: &BlockQ2_K) -> Option<&'static str> {
        if !block.scale.is_finite() {
            return Some("scale is NaN or infinite");
        }
        (!block.min.is_finite()).then_some("scale of the minima is NaN or infinite")
    }
}
