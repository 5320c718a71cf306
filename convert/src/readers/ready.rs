//! Any source with some tensors that are encoded already.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
};

use llq_gguf::{Metadata, TensorSpec, TensorType};

use crate::{
    Error, Note, Source, SourceKind,
    error::Result,
    source::{row_bytes, rows},
    weights::InputFile,
};

/// A tensor whose bytes lie at the start of a file of its own, as the output is to have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyTensor {
    /// The type it has there.
    pub tensor_type: TensorType,
    /// The file.
    pub path: PathBuf,
}

/// `source` with these tensors, by name, in place of its own. A plan that gives them the types they
/// have copies them.
///
/// # Errors
/// A file that can't be read, or is shorter than its tensor.
pub fn with_ready(
    source: Box<dyn Source>,
    tensors: &HashMap<String, ReadyTensor>,
) -> Result<Box<dyn Source>> {
    let mut specs = source.tensors().to_vec();
    let mut files = Vec::with_capacity(specs.len());
    for spec in &mut specs {
        let ready = tensors.get(&spec.name);
        if let Some(ReadyTensor { tensor_type, path }) = ready {
            spec.tensor_type = *tensor_type;
            let expected = row_bytes(spec).saturating_mul(rows(spec));
            let found = InputFile::open(path)?.len();
            if found < expected || expected == 0 {
                let problem = format!("{found} bytes, {} takes {expected}", spec.name);
                let source = std::io::Error::other(problem);
                return Err(Error::Io { path: path.clone(), source });
            }
        }
        files.push(ready.map(|ready| ready.path.clone()));
    }
    Ok(Box::new(WithReady { source, specs, files }))
}

#[derive(Debug)]
struct WithReady {
    source: Box<dyn Source>,
    specs: Vec<TensorSpec>,
    /// Of each tensor that is ready.
    files: Vec<Option<PathBuf>>,
}

impl Source for WithReady {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn metadata(&self) -> &Metadata {
        self.source.metadata()
    }

    fn tensors(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn files(&self) -> Vec<PathBuf> {
        let ready = self.files.iter().flatten().cloned();
        self.source.files().into_iter().chain(ready).collect()
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        match &self.files[tensor] {
            // Opened for each read: a model has more tensors than a process may have files.
            Some(path) => {
                InputFile::open(path)?.read_at(rows.start * row_bytes(&self.specs[tensor]), out)
            }
            None => self.source.read_rows(tensor, rows, out),
        }
    }

    fn kind(&self) -> SourceKind {
        self.source.kind()
    }

    fn stored_type(&self, tensor: usize) -> TensorType {
        match self.files[tensor] {
            Some(_) => self.specs[tensor].tensor_type,
            None => self.source.stored_type(tensor),
        }
    }

    fn notes(&self) -> &[Note] {
        self.source.notes()
    }
}
