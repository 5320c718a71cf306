//! Any source with the user's own metadata.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use llq_gguf::{Metadata, TensorSpec, TensorType};

use crate::{Note, Overrides, Source, SourceKind, error::Result};

/// `source` with `overrides`, of which there may be none.
pub(super) fn open(source: Box<dyn Source>, overrides: &Overrides) -> Result<Box<dyn Source>> {
    if overrides.is_empty() {
        return Ok(source);
    }
    let metadata = overrides.apply(source.metadata())?;
    Ok(Box::new(Overridden { source, metadata }))
}

#[derive(Debug)]
struct Overridden {
    source: Box<dyn Source>,
    metadata: Metadata,
}

impl Source for Overridden {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[TensorSpec] {
        self.source.tensors()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.source.files()
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        self.source.read_rows(tensor, rows, out)
    }

    fn kind(&self) -> SourceKind {
        self.source.kind()
    }

    fn stored_type(&self, tensor: usize) -> TensorType {
        self.source.stored_type(tensor)
    }

    fn notes(&self) -> &[Note] {
        self.source.notes()
    }
}
