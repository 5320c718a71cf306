//! Writing all files of a model: either all of them get their names, or none.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    FileWriter, Header, ModelLayout, Overwrite, SealedFile, disk,
    error::{Error, Result},
    file_writer::{self, sync_name},
};

/// Writes a planned model at positions, from any thread. Dropped before
/// [`publish`](SealedModel::publish), it leaves nothing.
#[derive(Debug)]
pub struct ModelWriter {
    layout: ModelLayout,
    files: Vec<FileWriter>,
}

impl ModelWriter {
    /// Checks that there is room for all files, and creates them as
    /// [`FileWriter::create`] does, under the names of [`ModelLayout::paths`].
    ///
    /// # Errors
    ///
    /// Where there is no room, and those of [`FileWriter::create`] and [`ModelLayout::paths`].
    pub fn create(target: &Path, layout: ModelLayout, overwrite: Overwrite) -> Result<ModelWriter> {
        let paths = layout.paths(target)?;
        for path in &paths {
            file_writer::check_target(path, overwrite)?;
        }
        disk::check_room(target, layout.file_bytes())?;
        let files = paths.iter().zip(layout.parts());
        let files = files.map(|(path, part)| FileWriter::create(path, part.clone(), overwrite));
        Ok(ModelWriter { files: files.collect::<Result<_>>()?, layout })
    }

    /// Writes `bytes` of tensor `index` (of [`ModelLayout::tensors`]) at `offset` inside it.
    ///
    /// # Errors
    ///
    /// Those of [`FileWriter::write_at`].
    ///
    /// # Panics
    ///
    /// Where the layout has no tensor `index`.
    pub fn write_at(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (part, index) = self.layout.place(index);
        self.files[part].write_at(index, offset, bytes)
    }

    /// [`FileWriter::replace_layout`] for each file.
    ///
    /// # Errors
    ///
    /// Those of [`FileWriter::replace_layout`].
    pub fn replace_layout(&mut self, layout: ModelLayout) -> Result<()> {
        if layout.parts().len() != self.files.len() {
            return Err(Error::OtherLayout { path: self.files[0].target().to_owned() });
        }
        for (file, part) in self.files.iter_mut().zip(layout.parts()) {
            file.replace_layout(part.clone())?;
        }
        self.layout = layout;
        Ok(())
    }

    /// [`FileWriter::seal`] for each file.
    ///
    /// # Errors
    ///
    /// Those of [`FileWriter::seal`]; then nothing is left.
    pub fn seal(self) -> Result<SealedModel> {
        let files = self.files.into_iter().map(FileWriter::seal).collect::<Result<_>>()?;
        Ok(SealedModel { files })
    }
}

/// The complete files of a model, which lack only their names. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct SealedModel {
    files: Vec<SealedFile>,
}

impl SealedModel {
    /// The headers of the files, as they were read back from the disk.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = &Header> {
        self.files.iter().map(SealedFile::header)
    }

    /// Gives all files their names. Where one cannot have its own, those that have theirs already
    /// are removed, unless they have replaced others.
    ///
    /// # Errors
    ///
    /// Those of [`SealedFile::publish`]. All files stay where only their folder cannot be synced.
    pub fn publish(self) -> Result<()> {
        let targets: Vec<PathBuf> = self.files.iter().map(|file| file.target().into()).collect();
        let mut new = Vec::new();
        for (file, target) in self.files.into_iter().zip(&targets) {
            let replaces = fs::symlink_metadata(target).is_ok();
            if let Err(error) = file.take_name() {
                for path in new {
                    let _ = fs::remove_file(path);
                }
                return Err(error);
            }
            if !replaces {
                new.push(target);
            }
        }
        // They lie in one folder.
        targets.first().map_or(Ok(()), |target| sync_name(target))
    }
}
