//! Other metadata for a GGUF file that is there.

use std::path::Path;

use llq_gguf::{Metadata, Model, Rewritten, rewrite_metadata};

use crate::{Error, Overrides, Progress, demands, error::Result};

/// What a model's metadata would become.
#[derive(Debug)]
pub struct Edit {
    model: Model,
    metadata: Metadata,
}

impl Edit {
    /// Opens the model at `path` and applies the changes to its metadata.
    ///
    /// # Errors
    ///
    /// What is no GGUF file; a change that is not allowed; one after which a loader would find less
    /// than it asks for.
    pub fn plan(path: &Path, changes: &Overrides) -> Result<Edit> {
        let model = Model::open(path)?;
        let metadata = changes.apply(model.metadata())?;
        let unmet = |metadata| demands::unmet(metadata, demands::tensors(model.tensors().iter()));
        let before = unmet(model.metadata());
        match unmet(&metadata).into_iter().find(|demand| !before.contains(demand)) {
            Some(demand) => Err(Error::Demand { path: path.to_owned(), demand }),
            None => Ok(Edit { model, metadata }),
        }
    }

    /// The metadata as it is.
    pub fn before(&self) -> &Metadata {
        self.model.metadata()
    }

    /// The metadata as it will be.
    pub fn after(&self) -> &Metadata {
        &self.metadata
    }

    /// Writes it, as [`rewrite_metadata`] does.
    ///
    /// # Errors
    ///
    /// Those of [`rewrite_metadata`].
    pub fn write(self, progress: &dyn Progress) -> Result<Rewritten> {
        progress.begin(self.model.tensors().iter().map(|t| t.bytes).fold(0, u64::saturating_add));
        Ok(rewrite_metadata(self.model, &self.metadata, &|bytes| progress.advance(bytes))?)
    }
}
