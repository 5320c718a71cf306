//! The field's file of logits: what a base model predicted on a text, so that others can be
//! compared with it where it is not at hand.
//!
//! Numbers are little endian. `_logits_`; tokens per window (u32), vocabulary size, number of
//! windows, and the tokens of all windows as they are in the text (i32); then a row of u16 per
//! scored token: a scale and the least log-probability (f32 each), a code per token of the
//! vocabulary, and one more where that makes their number even. The log-probability of a token is
//! scale × code + least, and none is more than 16 nats below the largest.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::{Error, error::Result, windows::Windows};

const MAGIC: &[u8; 8] = b"_logits_";

/// The magic and three numbers.
const HEAD_BYTES: u64 = 20;

/// Scale and least log-probability.
const ROW_HEAD: usize = 8;

/// Nats below the largest that are told apart.
const DEPTH: f32 = 16.0;

/// An open file of logits. Its rows are read when they are needed, the tokens (4 bytes each) are
/// kept.
#[derive(Debug)]
pub struct LogitsFile {
    path: PathBuf,
    file: File,
    context: usize,
    vocabulary_size: usize,
    windows: usize,
    tokens: Vec<u32>,
}

impl LogitsFile {
    /// Opens the file and reads all but its rows.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is none of logits, or has another length than its numbers
    /// demand.
    pub fn open(path: &Path) -> Result<LogitsFile> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let wrong = |what: &str, expected: &str, found: String| Error::LogitsFile {
            path: path.to_owned(),
            what: what.to_owned(),
            expected: expected.to_owned(),
            found,
        };
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        if length < HEAD_BYTES {
            return Err(wrong("length", "20 bytes or more", format!("{length} bytes")));
        }
        let mut head = [0; HEAD_BYTES as usize];
        file.read_exact(&mut head).map_err(failed)?;
        let ([magic, numbers @ ..], _) = head.as_chunks::<4>() else { unreachable_head() };
        let ([magic_end, context, vocabulary_size, windows], magic) = (numbers, magic) else {
            unreachable_head()
        };
        todo(magic, magic_end, context, vocabulary_size, windows)
    }
}
