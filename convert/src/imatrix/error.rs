//! What can be wrong with an importance matrix.

/// Why an importance matrix can't be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ImatrixError {
    /// The file is GGUF of another kind.
    #[error("a GGUF file of type {found:?}, expected \"imatrix\"; `llq imatrix` makes one")]
    Kind {
        /// `general.type`.
        found: String,
    },
    /// The file is neither GGUF nor of the older form.
    #[error("not an importance matrix: at byte {offset}, {field} is {found}, expected {expected}")]
    Dat {
        /// Where in the file.
        offset: u64,
        /// What stands there.
        field: &'static str,
        /// What would be allowed.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A metadata key is out of range.
    #[error("{key} is {found}, expected {expected}")]
    Key {
        /// The key.
        key: &'static str,
        /// What would be allowed.
        expected: &'static str,
        /// The value.
        found: u64,
    },
    /// A metadata key is absent or of another type.
    #[error("{problem}")]
    Metadata {
        /// The key, and what is wrong with it.
        problem: String,
    },
    /// Sums and counts are not both there.
    #[error("tensor {tensor:?} is there without {partner:?}")]
    Unpaired {
        /// The one that is there.
        tensor: String,
        /// The one that is not.
        partner: String,
    },
    /// A tensor is not stored as plain floats.
    #[error("tensor {tensor:?} is {found}, expected F32")]
    Type {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: llq_gguf::TensorType,
    },
    /// Sums and counts do not belong together.
    #[error("tensor {tensor:?} has {sums} sums and {counts} counts: not as many for each matrix")]
    Counts {
        /// The tensor.
        tensor: String,
        /// Number of sums.
        sums: usize,
        /// Number of counts.
        counts: usize,
    },
    /// A sum or a count is NaN, infinite or below zero.
    #[error("tensor {tensor:?}: {place} is {found}, expected a finite number of at least 0")]
    Number {
        /// The tensor.
        tensor: String,
        /// Which number.
        place: String,
        /// The value.
        found: f32,
    },
    /// A tensor is there more than once.
    #[error("tensor {tensor:?} is there twice")]
    Twice {
        /// The tensor.
        tensor: String,
    },
    /// Two files have a tensor in different shapes.
    #[error(
        "tensor {tensor:?} has {} columns in {} matrices, in the file before {} in {}",
        found.0, found.1, expected.0, expected.1
    )]
    Shapes {
        /// The tensor.
        tensor: String,
        /// Columns in all and matrices, in the file that was there first.
        expected: (usize, usize),
        /// The same in the other.
        found: (usize, usize),
    },
    /// The model's tensor has another width.
    #[error(
        "tensor {tensor:?} has {found} columns in all, the model's has {expected}: it was made for \
         another model"
    )]
    Columns {
        /// The tensor.
        tensor: String,
        /// Columns of the model's, all experts together.
        expected: u64,
        /// Columns in the file.
        found: usize,
    },
    /// The model has none of the file's tensors.
    #[error("it knows none of the model's tensors: it was made for another model")]
    NoTensor,
    /// The older form counts in `i32`.
    #[error("{what} is {found}, more than the older form can hold; write GGUF")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// How much it is.
        found: usize,
    },
}
