//! A file that is read once, at positions that go forward on the whole.

use std::{fs::File, io};

use crate::page_cache;

/// A file of which the system reads ahead. One so large that it would push much else out of the
/// page cache leaves it again as it is read, unless it was there before.
#[derive(Debug)]
pub struct ForwardFile {
    file: File,
    once_read: OnceRead,
}

/// What becomes of pages in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnceRead {
    Keep,
    Drop,
}

/// Shorter reads are not worth another call to the system.
const SHORTEST: usize = 64 << 10;

impl ForwardFile {
    /// Takes an open regular file of `bytes` bytes.
    pub fn new(file: File, bytes: u64) -> ForwardFile {
        let passes = page_cache::is_large(bytes) && !page_cache::is_cached(&file, bytes);
        page_cache::read_far_ahead(&file);
        ForwardFile { file, once_read: if passes { OnceRead::Drop } else { OnceRead::Keep } }
    }

    /// Fills `out` from `offset` on. Any thread may call it.
    ///
    /// # Errors
    ///
    /// Where the system refuses, and where the file ends before.
    pub fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact_at(&self.file, out, offset)?;
        if self.once_read == OnceRead::Drop && out.len() >= SHORTEST {
            page_cache::write_back_or_drop(&self.file, offset, out.len() as u64);
        }
        Ok(())
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                out = &mut out[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
