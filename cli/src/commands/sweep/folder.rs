//! Where the models of a sweep lie.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use llq_gguf::Overwrite;
use llq_quant::mix::Mix;

use crate::{failure::Refusal, interrupt::TemporaryFolder, target::Target};

/// A folder for the models that a sweep makes of `input`.
pub(super) struct Folder {
    input: PathBuf,
    place: Place,
}

enum Place {
    /// Removed at the end, each model as soon as it is measured.
    Temporary(TemporaryFolder),
    /// The user's: the models stay.
    Kept(PathBuf),
}

impl Folder {
    pub(super) fn of(input: &Path, keep: Option<&Path>) -> anyhow::Result<Folder> {
        let place = match keep {
            Some(folder) if folder.is_dir() => Place::Kept(folder.to_owned()),
            Some(folder) => {
                let folder = folder.display();
                return Err(Refusal::new(format!("--keep: there is no folder {folder}"))
                    .hint(format!("mkdir -p {folder}"))
                    .into());
            }
            None => {
                let folder = TemporaryFolder::new();
                Place::Temporary(folder.context("cannot make a temporary folder")?)
            }
        };
        Ok(Folder { input: input.to_owned(), place })
    }

    /// Checks every name that will be needed, before the first model is made.
    pub(super) fn check(&self, mixes: impl Iterator<Item = Mix>) -> Result<(), Refusal> {
        if self.input.is_dir() {
            self.base()?;
        }
        mixes.map(|mix| self.quantized(mix)).try_for_each(|target| target.map(drop))
    }

    /// Where the unquantized model goes.
    pub(super) fn base(&self) -> Result<Target, Refusal> {
        self.target(&format!("{}.gguf", self.stem()))
    }

    /// Where a quantized model goes.
    pub(super) fn quantized(&self, mix: Mix) -> Result<Target, Refusal> {
        self.target(&format!("{}-{}.gguf", self.stem(), mix.name().to_lowercase()))
    }

    /// A quantized model was measured.
    pub(super) fn release(&self, model: &Target) -> anyhow::Result<()> {
        match &self.place {
            Place::Kept(_) => Ok(()),
            Place::Temporary(_) => fs::remove_file(model.path())
                .with_context(|| format!("cannot remove {}", model.path().display())),
        }
    }

    /// Says how to get another folder where this one has no room.
    pub(super) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let full = matches!(
            error.downcast_ref(),
            Some(llq_convert::Error::Gguf(
                llq_gguf::Error::NoSpace { .. } | llq_gguf::Error::NotEnoughSpace { .. }
            ))
        );
        if !full || matches!(self.place, Place::Kept(_)) {
            return error;
        }
        error.context(
            Refusal::new("the folder for temporary files has too little room")
                .hint("TMPDIR=FOLDER llq sweep … takes another"),
        )
    }

    fn target(&self, name: &str) -> Result<Target, Refusal> {
        let folder = match &self.place {
            Place::Temporary(folder) => folder.path(),
            Place::Kept(folder) => folder,
        };
        Target::check(&folder.join(name), Overwrite::Forbid, &self.input)
    }

    /// What the input is called: its file name without extension, or the folder's name.
    fn stem(&self) -> String {
        let input = self.input.canonicalize().unwrap_or_else(|_| self.input.clone());
        let name = if input.is_dir() { input.file_name() } else { input.file_stem() };
        name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}
