//! The plain number formats: F32, F16, BF16.

use half::{bf16, f16, slice::HalfFloatSliceExt};
use llq_gguf::TensorType;

use crate::{
    format::PlainFormat,
    kernels::{LANES, Simd},
};

/// How many halves are converted by one call: it looks up what the processor can do.
const AT_ONCE: usize = 256;

/// IEEE 754 single precision.
#[derive(Debug)]
pub(crate) enum F32 {}

/// IEEE 754 half precision: 11 significant bits, largest value 65504.
#[derive(Debug)]
pub(crate) enum F16 {}

/// The upper half of an F32: 8 significant bits, the range of F32.
#[derive(Debug)]
pub(crate) enum BF16 {}

impl PlainFormat for F32 {
    const TENSOR_TYPE: TensorType = TensorType::F32;
    const SUMMARY: &'static str = "IEEE 754 single precision";
    type Element = [u8; 4];

    #[inline(always)]
    fn to_f32(element: [u8; 4]) -> f32 {
        f32::from_le_bytes(element)
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, elements: &[[u8; 4]; LANES]) -> S::F {
        let mut weights = [0.0; LANES];
        for (weight, &element) in weights.iter_mut().zip(elements) {
            *weight = f32::from_le_bytes(element);
        }
        simd.load(&weights)
    }

    #[inline(always)]
    fn from_f32(weight: f32) -> [u8; 4] {
        weight.to_le_bytes()
    }
}

impl PlainFormat for F16 {
    const TENSOR_TYPE: TensorType = TensorType::F16;
    const SUMMARY: &'static str = "IEEE 754 half precision, largest value 65504";
    type Element = [u8; 2];

    #[inline(always)]
    fn to_f32(element: [u8; 2]) -> f32 {
        f16::from_le_bytes(element).to_f32()
    }

    #[inline(always)]
    fn from_f32(weight: f32) -> [u8; 2] {
        f16::from_f32(weight).to_le_bytes()
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, elements: &[[u8; 2]; LANES]) -> S::F {
        simd.load_f16(elements)
    }

    #[inline(always)]
    fn write(weights: &[f32], out: &mut [[u8; 2]]) {
        let mut halves = [f16::ZERO; AT_ONCE];
        for (weights, out) in weights.chunks(AT_ONCE).zip(out.chunks_mut(AT_ONCE)) {
            halves[..weights.len()].convert_from_f32_slice(weights);
            for (&half, element) in halves.iter().zip(out) {
                *element = half.to_le_bytes();
            }
        }
    }
}

impl PlainFormat for BF16 {
    const TENSOR_TYPE: TensorType = TensorType::BF16;
    const SUMMARY: &'static str = "upper half of an F32: its range, 8 significant bits";
    type Element = [u8; 2];

    #[inline(always)]
    fn to_f32(element: [u8; 2]) -> f32 {
        bf16::from_le_bytes(element).to_f32()
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, elements: &[[u8; 2]; LANES]) -> S::F {
        simd.load_bf16(elements)
    }

    /// Without branches, so that the loop over a row becomes vectors.
    #[inline(always)]
    fn from_f32(weight: f32) -> [u8; 2] {
        const QUIET: u32 = 0x40;
        let bits = weight.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let element = if weight.is_nan() { (bits >> 16) | QUIET } else { rounded };
        (element as u16).to_le_bytes()
    }
}
