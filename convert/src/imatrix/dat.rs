//! The field's form before 2025, little endian: `i32` entries; per entry `i32` length and name,
//! `i32` calls, `i32` values, and as many `f32`, each a mean square times the calls; then perhaps
//! `i32` windows, `i32` length and name of the text.

use std::path::Path;

use super::{Entry, Imatrix, ImatrixError, in_file};
use crate::{error::Result, weights::InputFile};

/// What windows are taken to have had: the tool's default.
const CHUNK_TOKENS: u32 = 512;

/// Longest name in bytes; ggml's have 63.
const LONGEST_NAME: u64 = 1 << 10;

pub(super) fn read(file: &InputFile) -> Result<Imatrix> {
    let mut cursor = Cursor { file, at: 0 };
    let entries = cursor.count("the number of entries", 1)?;
    let mut imatrix = Imatrix { chunk_tokens: CHUNK_TOKENS, ..Imatrix::default() };
    for _ in 0..entries {
        let name = cursor.text("a tensor's name")?;
        let calls = cursor.count("a number of calls", 0)?.max(1);
        let values = cursor.floats()?;
        let sums = values.iter().map(|value| value * CHUNK_TOKENS as f32).collect();
        let count = calls as f32 * CHUNK_TOKENS as f32;
        let entry = Entry::new(&name, sums, vec![count]).map_err(in_file(file.path()))?;
        imatrix.add(&name, entry).map_err(in_file(file.path()))?;
        imatrix.chunks = imatrix.chunks.max(calls);
    }
    if cursor.left() > 0 {
        imatrix.chunks = cursor.count("the number of windows", 0)?;
        let dataset = cursor.text("the name of the text")?;
        imatrix.datasets.extend(Some(dataset).filter(|name| !name.is_empty()));
    }
    match cursor.left() {
        0 => Ok(imatrix),
        left => Err(cursor.error("the rest", "nothing", format!("{left} bytes"))),
    }
}

struct Cursor<'a> {
    file: &'a InputFile,
    at: u64,
}

impl Cursor<'_> {
    fn left(&self) -> u64 {
        self.file.len() - self.at
    }

    /// A number of at least `least`.
    fn count(&mut self, field: &'static str, least: u32) -> Result<u32> {
        let at = self.at;
        let bytes = self.take(field, 4)?;
        let number = bytes.first_chunk().map_or(-1, |bytes| i32::from_le_bytes(*bytes));
        let count = u32::try_from(number).ok().filter(|&count| count >= least);
        self.at = if count.is_some() { self.at } else { at };
        count.ok_or_else(|| self.error(field, &format!("at least {least}"), number.to_string()))
    }

    fn text(&mut self, field: &'static str) -> Result<String> {
        let length = u64::from(self.count(field, 0)?);
        if length > LONGEST_NAME {
            let expected = format!("a text of at most {LONGEST_NAME} bytes");
            return Err(self.error(field, &expected, format!("{length} bytes")));
        }
        let bytes = self.take(field, length)?;
        String::from_utf8(bytes).map_err(|error| self.error(field, "UTF-8", error.to_string()))
    }

    fn floats(&mut self) -> Result<Vec<f32>> {
        const FIELD: &str = "a tensor's values";
        let values = u64::from(self.count(FIELD, 1)?);
        let bytes = self.take(FIELD, values * size_of::<f32>() as u64)?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// Nothing is allocated where the file ends before.
    fn take(&mut self, field: &'static str, len: u64) -> Result<Vec<u8>> {
        if len > self.left() {
            let found = format!("{} bytes to the end of the file", self.left());
            return Err(self.error(field, &format!("{len} bytes"), found));
        }
        let bytes = self.file.read(self.at, len)?;
        self.at += len;
        Ok(bytes)
    }

    fn error(&self, field: &'static str, expected: &str, found: String) -> crate::Error {
        let (offset, expected) = (self.at, expected.to_owned());
        in_file(self.file.path())(ImatrixError::Dat { offset, field, expected, found })
    }
}

/// A file's bytes. Experts that have seen nothing get a mean square of 1, as the form has one count
/// for all.
pub(super) fn to_bytes(imatrix: &Imatrix, path: &Path) -> Result<Vec<u8>> {
    let number = |what: &'static str, found: usize| {
        let number = i32::try_from(found).map_err(|_| ImatrixError::TooLarge { what, found });
        number.map(i32::to_le_bytes).map_err(in_file(path))
    };
    let mut bytes = number("the number of tensors", imatrix.entries().len())?.to_vec();
    for (name, entry) in imatrix.entries() {
        let most_seen = entry.counts.iter().copied().fold(0.0, f32::max);
        let calls = (most_seen / imatrix.chunk_tokens.max(1) as f32).round().max(1.0);
        bytes.extend(number("the length of a name", name.len())?);
        bytes.extend(name.as_bytes());
        bytes.extend(number("the number of calls", calls as usize)?);
        bytes.extend(number("the number of columns", entry.columns())?);
        bytes.extend(entry.mean_squares().iter().flat_map(|mean| (mean * calls).to_le_bytes()));
    }
    let dataset = imatrix.datasets.first().map_or("", String::as_str);
    bytes.extend(number("the number of windows", imatrix.chunks as usize)?);
    bytes.extend(number("the length of a name", dataset.len())?);
    bytes.extend(dataset.as_bytes());
    Ok(bytes)
}
