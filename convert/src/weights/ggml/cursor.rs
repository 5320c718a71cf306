//! A position in a legacy GGML file.

use super::GgmlError;
use crate::{Error, error::Result, weights::InputFile};

/// Reads front to back, through a window so that small fields are no calls of their own.
pub(super) struct Cursor<'a> {
    file: &'a InputFile,
    position: u64,
    window: Vec<u8>,
    window_start: u64,
}

const WINDOW_BYTES: u64 = 1 << 16;

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a InputFile) -> Self {
        Cursor { file, position: 0, window: Vec::new(), window_start: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn left(&self) -> u64 {
        self.file.len() - self.position
    }

    pub(super) fn fail<T>(&self, problem: GgmlError) -> Result<T> {
        Err(Error::Ggml { path: self.file.path().to_path_buf(), problem })
    }

    /// The next `count` bytes; nothing is allocated where the file ends before.
    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<&[u8]> {
        let start = self.position;
        self.skip(count, what)?;
        let window_end = self.window_start + self.window.len() as u64;
        if start < self.window_start || self.position > window_end {
            let wanted = count.max(WINDOW_BYTES).min(self.file.len() - start);
            self.window = self.file.read(start, wanted)?;
            self.window_start = start;
        }
        let at = (start - self.window_start) as usize;
        Ok(&self.window[at..at + count as usize])
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4, what)?);
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn f32(&mut self, what: &str) -> Result<f32> {
        Ok(f32::from_bits(self.u32(what)?))
    }

    /// Passes over `count` bytes, which must be there.
    pub(super) fn skip(&mut self, count: u64, what: &str) -> Result<()> {
        let left = self.left();
        if count > left {
            let (what, offset) = (what.to_owned(), self.position);
            return self.fail(GgmlError::Truncated { what, offset, needed: count, left });
        }
        self.position += count;
        Ok(())
    }

    /// Passes over padding up to a multiple of `alignment`.
    pub(super) fn align(&mut self, alignment: u64) -> Result<()> {
        self.skip(self.position.next_multiple_of(alignment) - self.position, "padding")
    }

    pub(super) fn seek_back_to(&mut self, position: u64) {
        self.position = self.position.min(position);
    }
}
