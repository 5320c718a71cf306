//! What can be wrong with a legacy GGML file.

/// What can be wrong with a GGML file of 2023.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgmlError {
    /// A LoRA adapter has the same family of magics.
    #[error("a legacy LoRA adapter, not a model")]
    Adapter,
    /// The container never had this version.
    #[error("{magic} version {found} at byte 4: expected {expected}")]
    Version {
        /// The magic, as text.
        magic: &'static str,
        /// The version.
        found: u32,
        /// The versions there are.
        expected: &'static str,
    },
    /// The file ends too early, or a length in it is too large.
    #[error("{what} at byte {offset} needs {needed} bytes, but {left} are left")]
    Truncated {
        /// The field or tensor.
        what: String,
        /// Where it starts.
        offset: u64,
        /// What it takes, in bytes; saturated at `u64::MAX`.
        needed: u64,
        /// What is left of the file from `offset`, in bytes.
        left: u64,
    },
    /// More tokens than any vocabulary has.
    #[error("a vocabulary of {found} tokens, expected 3 to {limit}{NOT_LLAMA}")]
    Vocabulary {
        /// The count.
        found: u32,
        /// The most that is supported.
        limit: u32,
    },
    /// A token is longer than any vocabulary has.
    #[error("token {id} has {bytes} bytes, more than the {limit} supported{NOT_LLAMA}")]
    LongToken {
        /// Its id.
        id: u32,
        /// Its length in bytes.
        bytes: u32,
        /// The most that is supported.
        limit: u32,
    },
    /// A tensor's name is none.
    #[error("the name of tensor number {number} at byte {offset} {problem}")]
    Name {
        /// The tensor's number in the file, from 0.
        number: usize,
        /// Where its record starts.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// More tensors than any model has.
    #[error("more than {limit} tensors")]
    TooManyTensors {
        /// The most that is supported.
        limit: usize,
    },
    /// A tensor has a type that such files never had.
    #[error("tensor {tensor:?} has type {id}, which {container} does not have")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The number of its type.
        id: u32,
        /// Magic and version of the file.
        container: &'static str,
    },
    /// A tensor can not be as its record says.
    #[error("tensor {tensor:?}: {problem}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
}

const NOT_LLAMA: &str = "; models of other kinds share the magic \"ggml\", only LLaMA is read";
