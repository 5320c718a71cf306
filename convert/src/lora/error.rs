//! What can be wrong with an adapter.

use crate::error::nearest_hint;

/// Why an adapter can not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// The file has nothing in it.
    #[error("the adapter has no tensors")]
    Empty,
    /// A tensor's name is not one that PEFT gives.
    #[error("tensor {tensor:?} is no part of a LoRA adapter that llq knows")]
    UnknownPart {
        /// The tensor.
        tensor: String,
    },
    /// A tensor changes what the base does not have.
    #[error("tensor {tensor:?}: the base has no {module:?}{}", nearest_hint(nearest))]
    NoModule {
        /// The tensor.
        tensor: String,
        /// The module it belongs to.
        module: String,
        /// The module of the base whose name is nearest.
        nearest: Option<String>,
    },
    /// Two tensors are the same part of one module.
    #[error("tensors {first:?} and {second:?} are the same part of one module")]
    Twice {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A factor lacks its partner.
    #[error("module {module:?} has {present} and no {missing}")]
    Unpaired {
        /// The module.
        module: String,
        /// The part that is there.
        present: &'static str,
        /// The part that is not.
        missing: &'static str,
    },
    /// The factors and the configuration do not agree on the rank.
    #[error("tensor {tensor:?} of shape {shape:?} has not the rank {expected} of {origin}")]
    Rank {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// The rank.
        expected: u64,
        /// What says so.
        origin: String,
    },
    /// A tensor does not fit the base's.
    #[error(
        "tensor {tensor:?} is {found:?}, expected {expected:?}: {base:?} of the base is {shape:?}"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape, rows first.
        found: Vec<u64>,
        /// The shape that fits.
        expected: Vec<u64>,
        /// The base's tensor.
        base: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// The adapter was trained with a vocabulary of another size.
    #[error(
        "tensor {tensor:?} has {found} rows and the base a vocabulary of {base}: tokens were added \
         in training. Copy the base's folder, put the adapter's tokenizer files there and set \
         vocab_size to {found} in config.json"
    )]
    Vocabulary {
        /// The tensor.
        tensor: String,
        /// Its rows.
        found: u64,
        /// Tokens of the base.
        base: u64,
    },
    /// Something that a merge can do and a GGUF adapter can not hold.
    #[error(
        "tensor {tensor:?} is {what}, which a GGUF adapter can not hold; merging the adapter into \
         its base while that is converted can"
    )]
    MergeOnly {
        /// The tensor.
        tensor: String,
        /// What it is.
        what: &'static str,
    },
    /// Something that is not done.
    #[error("tensor {tensor:?} is {what}, which is not supported")]
    Unsupported {
        /// The tensor.
        tensor: String,
        /// What it is.
        what: &'static str,
    },
}
