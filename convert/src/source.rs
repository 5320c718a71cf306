//! What the pipeline reads from.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use llq_gguf::{Metadata, TensorSpec, TensorType};

use crate::error::Result;

/// Whether a source was GGUF before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A checkpoint as its authors published it.
    Published,
    /// GGUF: its tensor types were chosen already.
    Gguf,
}

/// A model as it will be written, whatever form it was published in: its metadata, its tensors
/// under their GGUF names, and their rows on demand.
pub trait Source: fmt::Debug + Send + Sync {
    /// What was opened.
    fn path(&self) -> &Path;

    /// Metadata of the output, but for what a [`Plan`](crate::Plan) decides.
    fn metadata(&self) -> &Metadata;

    /// The tensors in output order: those of no block first, then block after block. Their types
    /// are those of the source.
    fn tensors(&self) -> &[TensorSpec];

    /// The files that rows are read from.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads `rows` of tensor `tensor` into `out`, little endian, in the source's type. A row has
    /// `shape[0]` weights; a tensor has as many rows as the product of its other extents.
    ///
    /// # Panics
    /// Where `rows` is not in the tensor or `out` has not their size: a fault of the caller.
    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()>;

    /// The type that the weights of `tensor` are published in, which [`Source::tensors`] may widen.
    fn stored_type(&self, tensor: usize) -> TensorType {
        self.tensors()[tensor].tensor_type
    }

    /// Choices the reader made that a user should know of.
    fn notes(&self) -> &[Note];

    /// Whether this was GGUF before.
    fn kind(&self) -> SourceKind {
        SourceKind::Published
    }
}

/// A choice that was made without being asked for, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note(pub String);

impl Note {
    /// A name for the pre-tokenizer was given where there is none.
    pub(crate) fn pre_not_used() -> Note {
        Note("a SentencePiece vocabulary has no pre-tokenizer: its name is not used".to_owned())
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Bytes of a row of a tensor whose shape and type were checked against each other.
pub(crate) fn row_bytes(spec: &TensorSpec) -> u64 {
    spec.tensor_type.row_bytes(columns(spec)).unwrap_or(0)
}

/// Weights in a row.
pub(crate) fn columns(spec: &TensorSpec) -> u64 {
    spec.shape.first().copied().unwrap_or(1)
}

/// The product of all extents but the first.
pub(crate) fn rows(spec: &TensorSpec) -> u64 {
    spec.shape.iter().skip(1).product()
}
