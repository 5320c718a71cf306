//! The bytes of a file, mapped into memory.

#![allow(unsafe_code)] // a file cannot be mapped without it

use std::{
    fs::File,
    io,
    ops::{Deref, Range},
    path::Path,
};

use memmap2::Mmap;

use crate::{
    ForwardFile,
    error::{Error, Result},
};

/// The bytes of a file, or of an entry of an archive that the file is.
#[derive(Debug)]
pub(crate) struct Bytes {
    file: Whole,
    range: Range<usize>,
}

/// The bytes of a file: mapped, or read already.
#[derive(Debug)]
enum Whole {
    Mapped { map: Mmap, file: ForwardFile },
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps the file at `path`.
    pub(crate) fn map(path: &Path) -> Result<Bytes> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        // Before opening: opening a named pipe would wait for its writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is read-only and its length is the file's, so every access is below the
        // end of the file while nobody shortens it, and nobody may: `Model::open` asks for a file
        // that stays as it is. Nothing but a private copy could enforce that; an access beyond a
        // shortened file's end raises SIGBUS.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (range, file) = (0..map.len(), ForwardFile::new(file, map.len() as u64));
        Ok(Bytes { file: Whole::Mapped { map, file }, range })
    }

    pub(crate) fn owned(bytes: Vec<u8>) -> Bytes {
        let range = 0..bytes.len();
        Bytes { file: Whole::Owned(bytes), range }
    }

    /// Fills `out` from `start` on with what lies inside, not through the map: what is copied once
    /// need not be mapped page by page.
    pub(crate) fn read_at(&self, start: usize, out: &mut [u8]) -> io::Result<()> {
        match &self.file {
            Whole::Mapped { file, .. } => {
                file.read_exact_at((self.range.start + start) as u64, out)
            }
            Whole::Owned(_) => {
                out.copy_from_slice(&self[start..][..out.len()]);
                Ok(())
            }
        }
    }

    /// Only those at `range`, which lies inside.
    pub(crate) fn only(self, range: Range<usize>) -> Bytes {
        Bytes { range: self.range.start + range.start..self.range.start + range.end, ..self }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let whole: &[u8] = match &self.file {
            Whole::Mapped { map, .. } => map,
            Whole::Owned(bytes) => bytes,
        };
        &whole[self.range.clone()]
    }
}
