//! The table of formats.

use bytemuck::{cast_slice, cast_slice_mut};
use llq_gguf::TensorType;

use crate::{
    decoding::{Decode, Dequantize, Unpack, Unpacked},
    format::{BlockFormat, Decoded, MAX_BLOCK_WEIGHTS, MIN_GROUP, PlainFormat},
    formats::*,
    gemv::{BlockRows, PlainRows, Vector},
    kernels::{self, ACTIVATION_GROUP, Kernels, Simd, Work},
};

/// A format as a value: what a file under `formats/` defines, over bytes.
#[derive(Debug)]
pub struct FormatInfo {
    /// Wire id, name and sizes.
    pub tensor_type: TensorType,
    /// What the format is, in one line.
    pub summary: &'static str,
    /// How a block is made up; `None` for plain numbers.
    pub blocks: Option<BlockInfo>,
    dequantize: fn(&Kernels, &[u8], &mut [f32]),
    encode_row: fn(&Kernels, &[f32], Option<&[f32]>, &mut [u8]),
    gemv: fn(&Kernels, &[u8], &Vector, &mut [f32]),
    first_defect: fn(&[u8]) -> Option<(usize, &'static str)>,
    swap_endian: fn(&mut [u8]),
}

/// What only block formats have.
#[derive(Debug)]
pub struct BlockInfo {
    /// Weights that share a scale.
    pub group: usize,
    /// Whether groups have a minimum.
    pub has_min: bool,
    /// The smallest code.
    pub lowest: i8,
    /// Bits of a code.
    pub code_bits: u32,
    /// The formula of a weight, and the fields by byte offset, as plain text.
    pub layout: &'static str,
    decode: fn(&[u8], &mut Decoded),
    unpack: fn(&Kernels, &[u8], Unpacked<'_>),
}

impl BlockInfo {
    /// Reads the block that `bytes` are. What `out` has beyond the block's weights and groups stays
    /// as it was.
    ///
    /// # Panics
    /// If the bytes are not as many as a block has.
    pub fn decode(&self, bytes: &[u8], out: &mut Decoded) {
        (self.decode)(bytes, out);
    }

    /// Reads the blocks that `bytes` are.
    pub(crate) fn unpack(&self, kernels: &Kernels, bytes: &[u8], out: Unpacked<'_>) {
        (self.unpack)(kernels, bytes, out);
    }
}

macro_rules! formats {
    (plain: $($plain:ty),*; blocks: $($block:ty),*;) => {
        /// Every format llq reads and writes, from the widest to the narrowest of each family.
        pub static FORMATS: &[&FormatInfo] =
            &[$(&FormatInfo::plain::<$plain>(),)* $(&FormatInfo::block::<$block>(),)*];
    };
}

formats! {
    plain: plain::F32, plain::F16, plain::BF16;
    blocks: q8_0::Q8_0, q6_k::Q6_K, q5_k::Q5_K, q4_k::Q4_K, q3_k::Q3_K, q2_k::Q2_K, q5_1::Q5_1,
        q5_0::Q5_0, q4_1::Q4_1, q4_0::Q4_0;
}

/// The format of tensors of this type, if llq has it.
pub fn format(tensor_type: TensorType) -> Option<&'static FormatInfo> {
    FORMATS.iter().copied().find(|f| f.tensor_type == tensor_type)
}

impl FormatInfo {
    const fn plain<F: PlainFormat>() -> FormatInfo {
        const { assert!(size_of::<F::Element>() == F::TENSOR_TYPE.block_bytes()) };
        const { assert!(align_of::<F::Element>() == 1 && F::TENSOR_TYPE.block_weights() == 1) };
        FormatInfo {
            tensor_type: F::TENSOR_TYPE,
            summary: F::SUMMARY,
            blocks: None,
            dequantize: |kernels, bytes, out| {
                kernels.run(DequantizePlain::<F> { elements: cast_slice(bytes), out });
            },
            encode_row: |kernels, row, _, out| {
                kernels.run(EncodePlain::<F> { row, out: cast_slice_mut(out) });
            },
            gemv: |kernels, bytes, x, out| {
                kernels.run(PlainRows::<F> { elements: cast_slice(bytes), x, out });
            },
            first_defect: |bytes| {
                let elements = cast_slice::<u8, F::Element>(bytes);
                let bad = elements.iter().position(|&e| !F::to_f32(e).is_finite())?;
                Some((bad, "weight is NaN or infinite"))
            },
            swap_endian: |bytes| {
                for element in bytes.chunks_exact_mut(F::TENSOR_TYPE.block_bytes()) {
                    element.reverse();
                }
            },
        }
    }

    const fn block<F: BlockFormat>() -> FormatInfo {
        const { assert!(size_of::<F::Block>() == F::TENSOR_TYPE.block_bytes()) };
        const { assert!(align_of::<F::Block>() == 1) };
        const { assert!(F::TENSOR_TYPE.block_weights() <= MAX_BLOCK_WEIGHTS) };
        // What AVX2 multiplies without overflow: `kernels/avx2/code_tile.rs`.
        const { assert!(F::CODE_BITS <= 6 || F::CODE_BITS == 8 && !F::HAS_MIN) };
        const { assert!(F::GROUP == MIN_GROUP || F::GROUP == ACTIVATION_GROUP) };
        const { assert!(F::TENSOR_TYPE.block_weights().is_multiple_of(F::GROUP)) };
        FormatInfo {
            tensor_type: F::TENSOR_TYPE,
            summary: F::SUMMARY,
            blocks: Some(BlockInfo {
                group: F::GROUP,
                has_min: F::HAS_MIN,
                lowest: F::LOWEST,
                code_bits: F::CODE_BITS,
                layout: F::LAYOUT,
                decode: |bytes, out| {
                    kernels::scalar().run(Decode::<F> { block: bytemuck::from_bytes(bytes), out });
                },
                unpack: |kernels, bytes, out| {
                    kernels.run(Unpack::<F> { blocks: cast_slice(bytes), out });
                },
            }),
            dequantize: |kernels, bytes, out| {
                kernels.run(Dequantize::<F> { blocks: cast_slice(bytes), out });
            },
            encode_row: |kernels, row, importance, out| {
                kernels.run(EncodeRow::<F> { row, importance, out: cast_slice_mut(out) });
            },
            gemv: |kernels, bytes, x, out| {
                kernels.run(BlockRows::<F> { blocks: cast_slice(bytes), x, out });
            },
            first_defect: |bytes| {
                let blocks = cast_slice::<u8, F::Block>(bytes);
                blocks.iter().enumerate().find_map(|(i, block)| Some((i, F::defect(block)?)))
            },
            swap_endian: |bytes| {
                for block in bytes.chunks_exact_mut(F::TENSOR_TYPE.block_bytes()) {
                    for number in F::NUMBERS {
                        block[number.clone()].reverse();
                    }
                }
            },
        }
    }

    /// The name ggml gives the format, such as `Q4_K`.
    pub fn name(&self) -> &'static str {
        self.tensor_type.name()
    }

    /// Mean storage per weight, in bits.
    pub fn bits_per_weight(&self) -> f64 {
        self.tensor_type.bits_per_weight()
    }

    /// The weights of whole blocks of `bytes`; `out` has one place per weight.
    ///
    /// # Errors
    /// If the bytes are not those of as many weights.
    pub fn dequantize(&self, bytes: &[u8], out: &mut [f32]) -> Result<(), RowError> {
        self.dequantize_with(kernels::selected(), bytes, out)
    }

    /// [`dequantize`](Self::dequantize) by the code of a given instruction set.
    ///
    /// # Errors
    /// Those of [`dequantize`](Self::dequantize).
    pub fn dequantize_with(
        &self,
        kernels: &Kernels,
        bytes: &[u8],
        out: &mut [f32],
    ) -> Result<(), RowError> {
        self.check(out.len(), bytes.len())?;
        self.dequantize_blocks(kernels, bytes, out);
        Ok(())
    }

    /// [`dequantize`](Self::dequantize) of bytes known to be whole blocks of `out.len()` weights.
    pub(crate) fn dequantize_blocks(&self, kernels: &Kernels, bytes: &[u8], out: &mut [f32]) {
        (self.dequantize)(kernels, bytes, out);
    }

    /// Rows of `x.cols()` weights by `x`, as many as `out` has places.
    pub(crate) fn gemv(&self, kernels: &Kernels, rows: &[u8], x: &Vector, out: &mut [f32]) {
        (self.gemv)(kernels, rows, x, out);
    }

    /// Encodes one row with a small squared error. `importance`, where given, says for each column
    /// how much an error counts; what is NaN or below zero counts nothing.
    ///
    /// # Errors
    /// If the row does not take as many bytes as `out` has, or `importance` has another length.
    pub fn encode_row(
        &self,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<(), RowError> {
        self.encode_row_with(kernels::selected(), row, importance, out)
    }

    /// [`encode_row`](Self::encode_row) by the code of a given instruction set.
    ///
    /// # Errors
    /// Those of [`encode_row`](Self::encode_row).
    pub fn encode_row_with(
        &self,
        kernels: &Kernels,
        row: &[f32],
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<(), RowError> {
        self.check(row.len(), out.len())?;
        if let Some(importance) = importance
            && importance.len() != row.len()
        {
            return Err(RowError::Importance { expected: row.len(), found: importance.len() });
        }
        (self.encode_row)(kernels, row, importance, out);
        Ok(())
    }

    /// Checks that whole blocks of `bytes` hold what an encoder can write.
    ///
    /// # Errors
    /// If the bytes end inside a block, or a scale or a plain weight is NaN or infinite.
    pub fn validate(&self, bytes: &[u8]) -> Result<(), RowError> {
        let block_bytes = self.tensor_type.block_bytes();
        if !bytes.len().is_multiple_of(block_bytes) {
            return Err(RowError::PartialBlock {
                tensor_type: self.tensor_type,
                bytes: bytes.len(),
            });
        }
        match (self.first_defect)(bytes) {
            Some((block, defect)) => Err(RowError::Defect { block, defect }),
            None => Ok(()),
        }
    }

    /// Turns whole blocks from big-endian files into those of little-endian files, which all else
    /// here takes, and back. Q5_0 and Q5_1 have their high bits as one `u32`,
    /// which ggml writes in its machine's byte order.
    pub fn swap_endian(&self, bytes: &mut [u8]) {
        (self.swap_endian)(bytes);
    }

    fn check(&self, weights: usize, bytes: usize) -> Result<(), RowError> {
        let expected = self.tensor_type.row_bytes(weights as u64);
        if expected == Some(bytes as u64) {
            return Ok(());
        }
        Err(RowError::Size { tensor_type: self.tensor_type, weights, bytes })
    }
}

struct DequantizePlain<'a, F: PlainFormat> {
    elements: &'a [F::Element],
    out: &'a mut [f32],
}

impl<F: PlainFormat> Work for DequantizePlain<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        F::read(simd, self.elements, self.out);
    }
}

struct EncodePlain<'a, F: PlainFormat> {
    row: &'a [f32],
    out: &'a mut [F::Element],
}

impl<F: PlainFormat> Work for EncodePlain<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        F::write(self.row, self.out);
    }
}

struct EncodeRow<'a, F: BlockFormat> {
    row: &'a [f32],
    importance: Option<&'a [f32]>,
    out: &'a mut [F::Block],
}

impl<F: BlockFormat> Work for EncodeRow<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        F::encode_row(simd, self.row, self.importance, self.out);
    }
}

/// Why a row can't be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// The byte count is not that of the weights.
    #[error("{weights} weights as {tensor_type} do not take {bytes} bytes")]
    Size {
        /// The format.
        tensor_type: TensorType,
        /// Number of weights.
        weights: usize,
        /// Number of bytes.
        bytes: usize,
    },
    /// The bytes end inside a block.
    #[error("{bytes} bytes are no whole number of {tensor_type} blocks")]
    PartialBlock {
        /// The format.
        tensor_type: TensorType,
        /// Number of bytes.
        bytes: usize,
    },
    /// The importance has another length than the row.
    #[error("importance has {found} entries for {expected} columns")]
    Importance {
        /// Columns.
        expected: usize,
        /// Entries.
        found: usize,
    },
    /// A block holds what no encoder writes.
    #[error("block {block}: {defect}")]
    Defect {
        /// Index of the block, or of the weight in plain formats.
        block: usize,
        /// What is wrong with it.
        defect: &'static str,
    },
}
