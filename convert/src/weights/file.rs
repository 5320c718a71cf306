//! A file that is read at positions.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use llq_gguf::{ForwardFile, zip::ReadAt};

use crate::{Error, error::Result};

/// An open file, its length, and its path for errors.
#[derive(Debug)]
pub(crate) struct InputFile {
    path: PathBuf,
    file: ForwardFile,
    len: u64,
}

impl InputFile {
    pub(crate) fn open(path: &Path) -> Result<InputFile> {
        // Before it is opened: a pipe would wait for its other end.
        if !path.metadata().map_err(Error::io(path))?.is_file() {
            let found = std::io::Error::other("not a regular file");
            return Err(Error::Io { path: path.to_path_buf(), source: found });
        }
        let file = File::open(path).map_err(Error::io(path))?;
        let len = file.metadata().map_err(Error::io(path))?.len();
        Ok(InputFile { path: path.to_path_buf(), file: ForwardFile::new(file, len), len })
    }

    /// The whole of a small file; an error where it has more than `limit` bytes, or is a Git LFS
    /// pointer.
    pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
        let file = InputFile::open(path)?;
        if file.len > limit {
            let problem = format!("{} bytes, more than the {limit} such a file may have", file.len);
            let source = std::io::Error::other(problem);
            return Err(Error::Io { path: path.to_path_buf(), source });
        }
        let bytes = file.read(0, file.len)?;
        if is_lfs_pointer(&bytes) {
            return Err(Error::LfsPointer { path: path.to_path_buf() });
        }
        Ok(bytes)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` from `offset` on.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(offset, out).map_err(Error::io(&self.path))
    }

    /// Reads `len` bytes at `offset`; nothing is allocated where the file ends before.
    pub(crate) fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let in_file = offset.checked_add(len).is_some_and(|end| end <= self.len);
        let Ok(size) = usize::try_from(len) else { return Err(self.ends_early()) };
        if !in_file {
            return Err(self.ends_early());
        }
        let mut bytes = vec![0; size];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Up to `len` bytes from the start: enough to recognise a format.
    pub(crate) fn start(&self, len: u64) -> Result<Vec<u8>> {
        self.read(0, len.min(self.len))
    }

    fn ends_early(&self) -> Error {
        let source = std::io::ErrorKind::UnexpectedEof.into();
        Error::Io { path: self.path.clone(), source }
    }
}

impl ReadAt for InputFile {
    type Error = Error;

    fn size(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        InputFile::read(self, offset, len)
    }
}

/// Whether the bytes start a Git LFS pointer: what a clone without LFS has in a file's place.
pub(crate) fn is_lfs_pointer(start: &[u8]) -> bool {
    start.starts_with(b"version https://git-lfs")
}
