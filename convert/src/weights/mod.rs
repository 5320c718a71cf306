//! Weight files as they are published: tensors under their published names, read row by row.

mod file;
pub(crate) mod folder;
pub(crate) mod ggml;
mod index;
mod meta_shard;
pub(crate) mod model_parallel;
pub(crate) mod plain_names;
pub(crate) mod safetensors;
pub(crate) mod torch;
pub(crate) mod twin_heads;

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use llq_gguf::TensorType;

use crate::{Error, error::Result};

pub(crate) use file::{InputFile, is_lfs_pointer};
pub(crate) use index::is_plain_file_name;

/// The tensors of a checkpoint, whatever files they lie in.
pub(crate) trait Weights: fmt::Debug + Send + Sync {
    /// The tensors, in no particular order; names are unique.
    fn tensors(&self) -> &[PublishedTensor];

    /// The files that rows are read from.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads `rows` of tensor `tensor` into `out`, little endian.
    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()>;

    /// The float type in which the file holds `tensor`, where [`Weights::tensors`] may widen it.
    fn stored_type(&self, tensor: usize) -> Option<TensorType> {
        match self.tensors()[tensor].dtype {
            Dtype::Float(tensor_type) => Some(tensor_type),
            Dtype::Other(_) => None,
        }
    }
}

/// Name, shape and number type of a tensor as published. The product of its extents, times the
/// bytes of a number, was checked to fit a `u64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublishedTensor {
    pub(crate) name: String,
    /// Extent per dimension, the slowest (rows) first.
    pub(crate) shape: Vec<u64>,
    pub(crate) dtype: Dtype,
}

/// The number type of a published tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    /// One that weights have: F32, F16 or BF16; of a legacy GGML file, any type with a layout.
    Float(TensorType),
    /// Any other, by its published name.
    Other(String),
}

impl PublishedTensor {
    /// Weights in a row: the last extent.
    pub(crate) fn columns(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The product of all extents but the last.
    pub(crate) fn rows(&self) -> u64 {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// Bytes of a number of a type that weights have.
    pub(crate) fn number_bytes(&self) -> u64 {
        match self.dtype {
            Dtype::Float(TensorType::F32) => 4,
            _ => 2,
        }
    }

    /// The float type; an error for tensors of other numbers. `path` is the checkpoint.
    pub(crate) fn float(&self, path: &Path) -> Result<TensorType> {
        match &self.dtype {
            Dtype::Float(tensor_type) => Ok(*tensor_type),
            Dtype::Other(dtype) => Err(Error::Dtype {
                path: path.to_path_buf(),
                tensor: self.name.clone(),
                dtype: dtype.clone(),
            }),
        }
    }
}

/// The product of extents and bytes per number; `None` where it overflows.
pub(crate) fn checked_product(factors: impl IntoIterator<Item = u64>) -> Option<u64> {
    factors.into_iter().try_fold(1u64, u64::checked_mul)
}
