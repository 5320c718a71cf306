//! Why a model can't be transformed.

use llq_gguf::TensorType;

/// Why a model can't be transformed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransformError {
    /// Another architecture has other channels.
    #[error("architecture {found:?} is not supported; supported: \"llama\"")]
    Architecture {
        /// `general.architecture`.
        found: String,
    },
    /// Metadata lacks a key, or it has another type.
    #[error(transparent)]
    Metadata(#[from] llq_gguf::Error),
    /// A tensor that it is not known for what becomes of it.
    #[error("tensor {tensor:?}: no transform of it is known")]
    Tensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor that is needed is not there.
    #[error("no tensor {tensor:?}")]
    Missing {
        /// The tensor.
        tensor: String,
    },
    /// A tensor has other extents than those it works with.
    #[error("tensor {tensor:?} has the shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// The shape that fits the other tensors.
        expected: Vec<u64>,
        /// Its shape.
        found: Vec<u64>,
    },
    /// A number of the metadata does not fit the tensors.
    #[error("{key} is {found}, expected {expected}")]
    Heads {
        /// The key.
        key: &'static str,
        /// What would fit.
        expected: String,
        /// The value.
        found: u64,
    },
    /// The columns of blocks can't move.
    #[error(
        "tensor {tensor:?} is {found}, expected F32, F16 or BF16: quantized weights can't move"
    )]
    Quantized {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: TensorType,
    },
    /// The importance says nothing of a matrix.
    #[error("the importance has nothing of tensor {tensor:?}; `llq imatrix` collects it")]
    NoImportance {
        /// The matrix.
        tensor: String,
    },
    /// The importance is of another model.
    #[error(
        "tensor {tensor:?} has {expected} columns, the importance has {found}: it was made for \
         another model"
    )]
    Importance {
        /// The matrix.
        tensor: String,
        /// Columns of the matrix.
        expected: u64,
        /// Columns of the importance.
        found: usize,
    },
}
