//! A file that only gets its name when it is complete.

use std::io::{self, BufWriter, Write};

use anyhow::Context;
use llq_gguf::{Overwrite, create_partial};
use tempfile::NamedTempFile;

use crate::{
    failure::Refusal,
    interrupt::Writing,
    target::{Target, folder_of},
};

/// Written to a temporary file beside the target; dropped, it leaves nothing.
pub(crate) struct NewFile {
    target: Target,
    file: BufWriter<NamedTempFile>,
    writing: Writing,
}

impl NewFile {
    pub(crate) fn create(target: Target) -> anyhow::Result<NewFile> {
        let writing = Writing::start();
        let file = create_partial(folder_of(target.path())).with_context(|| failed(&target))?;
        Ok(NewFile { file: BufWriter::new(file), target, writing })
    }

    /// Gives the file its name, with all that was written on the disk.
    pub(crate) fn publish(self) -> anyhow::Result<()> {
        let NewFile { target, file, writing: _writing } = self;
        let file = file.into_inner().map_err(|error| error.into_error());
        let file = file.with_context(|| failed(&target))?;
        file.as_file().sync_all().with_context(|| failed(&target))?;
        let published = match target.to_write() {
            (path, Overwrite::Replace) => file.persist(path),
            (path, Overwrite::Forbid) => file.persist_noclobber(path),
        };
        published.map(drop).map_err(|error| error.error).with_context(|| failed(&target))
    }

    /// Writes all of it at once.
    pub(crate) fn write(target: Target, text: &str) -> anyhow::Result<()> {
        let mut file = NewFile::create(target)?;
        file.write_all(text.as_bytes()).with_context(|| failed(&file.target))?;
        file.publish()
    }
}

fn failed(target: &Target) -> Refusal {
    Refusal::new(format!("cannot write {}", target.path().display()))
}

/// Unwinds where Ctrl-C was pressed.
impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writing.check();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
