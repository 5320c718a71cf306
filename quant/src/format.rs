//! What a format has to define. Everything else is written once over these traits.

use std::ops::Range;

use bytemuck::Pod;
use llq_gguf::TensorType;

use crate::kernels::{LANES, Simd};

/// Most weights that a block has: a super-block of the K-quants.
pub(crate) const MAX_BLOCK_WEIGHTS: usize = 256;

/// Fewest weights that share a scale.
pub(crate) const MIN_GROUP: usize = 16;

/// The exact integer view of a block: weight `i` is `scales[g] * codes[i] - mins[g]` with
/// `g = i / GROUP`, both operations rounded to f32, never fused. This is the only definition of
/// what a block's bytes mean, and equals ggml's floats bit for bit.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// One code per weight; a format of 32 weights fills the first 32.
    pub codes: [i8; MAX_BLOCK_WEIGHTS],
    /// One scale per group.
    pub scales: [f32; MAX_BLOCK_WEIGHTS / MIN_GROUP],
    /// What is subtracted per group; all zero for symmetric formats.
    pub mins: [f32; MAX_BLOCK_WEIGHTS / MIN_GROUP],
}

impl Decoded {
    /// A view to decode into.
    pub const ZERO: Decoded =
        Decoded { codes: [0; MAX_BLOCK_WEIGHTS], scales: [0.0; 16], mins: [0.0; 16] };
}

/// A block-quantized format.
pub(crate) trait BlockFormat: 'static {
    /// Wire id, name and sizes.
    const TENSOR_TYPE: TensorType;
    /// Weights of a block. A constant, because loops over a block must have a known length.
    const BLOCK_WEIGHTS: usize = Self::TENSOR_TYPE.block_weights();
    /// What the format is, in one line for `llq formats`.
    const SUMMARY: &'static str;
    /// What a weight is, and where its fields lie: byte offsets in the block, then the field. A
    /// code or field is numbered along the row unless it says otherwise.
    const LAYOUT: &'static str;
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// Whether groups have a minimum (codes are then unsigned).
    const HAS_MIN: bool;
    /// Bits of a code; signed codes are two's complement.
    const CODE_BITS: u32;
    /// The smallest code.
    const LOWEST: i8 = if Self::HAS_MIN { 0 } else { -1 << (Self::CODE_BITS - 1) };
    /// What is added to a code as it lies in the block: only codes of eight bits bear a sign there.
    const BIAS: i8 = if Self::CODE_BITS == 8 { 0 } else { Self::LOWEST };
    /// Byte ranges of the block's numbers of more than one byte: big-endian files have these the
    /// other way round.
    const NUMBERS: &'static [Range<usize>];
    /// One block as it lies in the file: `#[repr(C)]`, alignment 1, no padding.
    type Block: Pod;

    /// The scales of the groups of blocks, one block after another, and their minima where the
    /// format has such; otherwise `mins` stays as it was.
    fn numbers<S: Simd>(simd: S, blocks: &[Self::Block], scales: &mut [f32], mins: &mut [f32]);

    /// The codes of weights `32 * part ..` of a block, [`BIAS`](Self::BIAS) not yet added.
    fn codes<S: Simd>(simd: S, block: &Self::Block, part: usize) -> S::B;

    /// Encodes a row of whole blocks so that the squared error, weighted by `importance` (one
    /// weight per column; `None` is the format's own weighting), is small.
    fn encode_row<S: Simd>(
        simd: S,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [Self::Block],
    );

    /// The field that no encoder would write (a scale that is NaN or infinite), if there is one.
    fn defect(block: &Self::Block) -> Option<&'static str>;
}

/// A format that stores each weight as a number of its own.
pub(crate) trait PlainFormat: 'static {
    /// Wire id, name and sizes.
    const TENSOR_TYPE: TensorType;
    /// What the format is, in one line for `llq formats`.
    const SUMMARY: &'static str;
    /// One weight as it lies in the file: alignment 1, little endian.
    type Element: Pod;

    /// The weight.
    fn to_f32(element: Self::Element) -> f32;

    /// The nearest element, ties to even.
    fn from_f32(weight: f32) -> Self::Element;

    /// [`to_f32`](Self::to_f32) of sixteen elements.
    fn load<S: Simd>(simd: S, elements: &[Self::Element; LANES]) -> S::F;

    /// [`to_f32`](Self::to_f32) of each element.
    #[inline(always)]
    fn read<S: Simd>(simd: S, elements: &[Self::Element], out: &mut [f32]) {
        let (elements, elements_rest) = elements.as_chunks::<LANES>();
        let (out, out_rest) = out.as_chunks_mut::<LANES>();
        for (elements, out) in elements.iter().zip(out) {
            simd.store(Self::load(simd, elements), out);
        }
        for (&element, weight) in elements_rest.iter().zip(out_rest) {
            *weight = Self::to_f32(element);
        }
    }

    /// [`from_f32`](Self::from_f32) of each weight.
    #[inline(always)]
    fn write(weights: &[f32], out: &mut [Self::Element]) {
        for (&weight, element) in weights.iter().zip(out) {
            *element = Self::from_f32(weight);
        }
    }
}
