//! A file that is read once, at positions that go forward on the whole.

use std::{fs::File, io};

use crate::page_cache;

/// A file whose reads keep the disk busy ahead of them.
///
/// A file that the page cache has already stays there. Of one that it lacks, what comes next is
/// read from the disk while the caller works on what it has; and where the file is so large that
/// it would push much else out of the cache, what was read leaves it again.
#[derive(Debug)]
pub struct ForwardFile {
    file: File,
    cache: CacheUse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CacheUse {
    /// It has the file.
    Found,
    /// It shall keep the file.
    Fill,
    /// Bytes pass through it.
    Pass,
}

/// How far the disk is ahead of the reader, in bytes.
const AHEAD: u64 = 16 << 20;

/// Shorter reads are not worth a call to the system.
const SHORTEST: usize = 64 << 10;

impl ForwardFile {
    /// Takes an open regular file of `bytes` bytes.
    pub fn new(file: File, bytes: u64) -> ForwardFile {
        let cache = match () {
            () if page_cache::is_cached(&file, bytes) => CacheUse::Found,
            () if page_cache::is_large(bytes) => CacheUse::Pass,
            () => CacheUse::Fill,
        };
        ForwardFile { file, cache }
    }

    /// Fills `out` from `offset` on. Any thread may call it.
    ///
    /// # Errors
    ///
    /// Where the system refuses, and where the file ends before.
    pub fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = out.len() as u64;
        let advise = self.cache != CacheUse::Found && out.len() >= SHORTEST;
        if advise {
            page_cache::read_ahead(&self.file, offset.saturating_add(AHEAD), bytes);
        }
        read_exact_at(&self.file, out, offset)?;
        if advise && self.cache == CacheUse::Pass {
            page_cache::write_back_or_drop(&self.file, offset, bytes);
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
