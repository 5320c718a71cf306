//! Writing all files of a model: either all of them get their names, or none.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::{
    Earlier, FileWriter, Fingerprint, Header, ModelLayout, Overwrite, SealedFile, disk,
    error::{Error, Result},
    file_writer::{self, sync_name},
    journal::Journal,
    partial,
    resume::{self, ResumeFolder},
};

/// Writes a planned model at positions, from any thread. Dropped before
/// [`publish`](SealedModel::publish), it leaves nothing, unless it is [resumable](Self::resume).
#[derive(Debug)]
pub struct ModelWriter {
    layout: ModelLayout,
    files: Vec<FileWriter>,
    /// Of a resumable run.
    journal: Option<Journal>,
}

impl ModelWriter {
    /// Checks that there is room for all files, and creates them as
    /// [`FileWriter::create`] does, under the names of [`ModelLayout::paths`]. What an interrupted
    /// resumable run has left of the model is removed.
    ///
    /// # Errors
    ///
    /// Where there is no room, and those of [`FileWriter::create`] and [`ModelLayout::paths`].
    pub fn create(target: &Path, layout: ModelLayout, overwrite: Overwrite) -> Result<ModelWriter> {
        let paths = check_targets(target, &layout, overwrite)?;
        resume::remove_abandoned(target);
        disk::check_room(target, layout.file_bytes())?;
        let files = paths.iter().zip(layout.parts());
        let files = files.map(|(path, part)| FileWriter::create(path, part.clone(), overwrite));
        Ok(ModelWriter { files: files.collect::<Result<_>>()?, layout, journal: None })
    }

    /// Goes on with what an interrupted run of the same `fingerprint` has left, or begins. The
    /// unfinished files lie in the folder `.llq-NAME.resume` beside the target, and stay there when
    /// the writer is dropped or its process killed. What is damaged there is written anew.
    ///
    /// Of what is there already, only what is [adopted](Self::adopt) is not to be written; what is
    /// to be there for the next run has to be [kept](Self::keep).
    ///
    /// # Errors
    ///
    /// Where a run of another fingerprint has left something, or another run is writing, and those
    /// of [`create`](Self::create).
    pub fn resume(
        target: &Path,
        layout: ModelLayout,
        overwrite: Overwrite,
        fingerprint: Fingerprint,
    ) -> Result<(ModelWriter, Earlier)> {
        let paths = check_targets(target, &layout, overwrite)?;
        partial::remove_abandoned(file_writer::folder(target));
        let folder = ResumeFolder::open(target)?;
        let (journal, earlier) = Journal::open(folder, &layout, fingerprint)?;
        let folder = journal.folder();
        let absent = layout.parts().iter().enumerate();
        let absent = absent.filter(|(number, _)| !folder.part(*number).exists());
        let needed = absent.map(|(_, part)| part.file_bytes()).fold(0, u64::saturating_add);
        disk::check_room(target, needed)?;
        let io = |source| Error::Io { path: folder.path().to_owned(), source };
        let mut files = Vec::new();
        for (number, (path, part)) in paths.iter().zip(layout.parts()).enumerate() {
            let file = folder.open_part(number).map_err(io)?;
            files.push(FileWriter::over(file, path, part.clone(), overwrite)?);
        }
        folder.sync().map_err(io)?;
        Ok((ModelWriter { files, layout, journal: Some(journal) }, earlier))
    }

    /// Counts `bytes` of tensor `index` as written where an earlier run has written all of them; says
    /// whether it has.
    ///
    /// # Errors
    ///
    /// Where they were written already.
    pub fn adopt(&self, index: usize, bytes: Range<u64>) -> Result<bool> {
        if !self.journal.as_ref().is_some_and(|journal| journal.has(index, &bytes)) {
            return Ok(false);
        }
        let (part, index) = self.layout.place(index);
        self.files[part].add_written(index, bytes.start, bytes.end)?;
        Ok(true)
    }

    /// Takes note that `bytes` of tensor `index`, which were written, are as they are to be, so that
    /// a later run can [adopt](Self::adopt) them. Does nothing where the writer is not resumable.
    ///
    /// # Errors
    ///
    /// Where the system refuses.
    pub fn keep(&self, index: usize, bytes: Range<u64>) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let (part, _) = self.layout.place(index);
        journal.keep(index, part, bytes)
    }

    /// Removes what was written, so that nobody goes on with it.
    pub fn discard(self) {
        if let Some(journal) = self.journal {
            journal.remove();
        }
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
        if let Some(journal) = &self.journal {
            let types = self.layout.tensors().zip(layout.tensors()).enumerate();
            let changed = types.filter(|(_, (old, new))| old.tensor_type != new.tensor_type);
            journal.forget(changed.map(|(index, _)| (index, self.layout.place(index).0)))?;
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
    /// Those of [`FileWriter::seal`]; then nothing is left, unless the writer is resumable.
    pub fn seal(self) -> Result<SealedModel> {
        let files = self.files.into_iter().map(FileWriter::seal).collect::<Result<_>>()?;
        Ok(SealedModel { files, journal: self.journal })
    }
}

fn check_targets(
    target: &Path,
    layout: &ModelLayout,
    overwrite: Overwrite,
) -> Result<Vec<PathBuf>> {
    let paths = layout.paths(target)?;
    for path in &paths {
        file_writer::check_target(path, overwrite)?;
    }
    Ok(paths)
}

/// The complete files of a model, which lack only their names. Dropped, it leaves nothing, unless it
/// was written resumably.
#[derive(Debug)]
pub struct SealedModel {
    files: Vec<SealedFile>,
    journal: Option<Journal>,
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
        targets.first().map_or(Ok(()), |target| sync_name(target))?;
        if let Some(journal) = self.journal {
            journal.remove();
        }
        Ok(())
    }
}
