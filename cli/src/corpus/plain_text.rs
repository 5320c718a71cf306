//! A text file: one document, in whole lines.

use std::{
    io::{BufRead, Read},
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{Piece, cannot_read};
use crate::{failure::Refusal, figures::Count};

/// Read at once, in bytes.
const AT_ONCE: u64 = 1 << 16;

/// A line of more bytes is given in parts.
const LONGEST_LINE: usize = 1 << 20;

pub(super) struct PlainText {
    /// `None` at the end.
    reader: Option<Box<dyn BufRead>>,
    path: PathBuf,
    /// What was read and not given.
    rest: Vec<u8>,
    /// Bytes that were passed over at the start of the file.
    skipped: u64,
    /// Bytes that were given.
    given: u64,
}

impl PlainText {
    /// Text from where `reader` is, after `skipped` bytes.
    pub(super) fn new(reader: Box<dyn BufRead>, path: &Path, skipped: usize) -> PlainText {
        PlainText {
            reader: Some(reader),
            path: path.to_owned(),
            rest: Vec::new(),
            skipped: skipped as u64,
            given: 0,
        }
    }

    /// Reads until `rest` has a whole line, or too much of one, or all; how much of it to give.
    fn read_lines(&mut self) -> anyhow::Result<usize> {
        while let Some(reader) = &mut self.reader {
            if let Some(newline) = self.rest.iter().rposition(|&byte| byte == b'\n') {
                return Ok(newline + 1);
            }
            if self.rest.len() >= LONGEST_LINE {
                break;
            }
            let read = reader.take(AT_ONCE).read_to_end(&mut self.rest);
            if read.with_context(|| cannot_read(&self.path))? == 0 {
                self.reader = None;
            }
        }
        Ok(self.rest.len())
    }

    fn next_text(&mut self) -> anyhow::Result<String> {
        let end = self.read_lines()?;
        let text = match std::str::from_utf8(&self.rest[..end]) {
            Ok(text) => text,
            // The last character is not complete, but there is more to read.
            Err(error) if error.error_len().is_none() && self.reader.is_some() => {
                std::str::from_utf8(&self.rest[..error.valid_up_to()])?
            }
            Err(error) => {
                let at = Count(self.skipped + self.given + error.valid_up_to() as u64);
                let path = self.path.display();
                return Err(Refusal::new(format!("{path} is not UTF-8 at byte {at}")).into());
            }
        };
        let text = text.to_owned();
        self.rest.drain(..text.len());
        Ok(text)
    }
}

impl Iterator for PlainText {
    type Item = anyhow::Result<Piece>;

    fn next(&mut self) -> Option<anyhow::Result<Piece>> {
        let text = match self.next_text() {
            Ok(text) if text.is_empty() => return None,
            Ok(text) => text,
            Err(error) => return Some(Err(error)),
        };
        let is_start = self.given == 0;
        self.given += text.len() as u64;
        Some(Ok(if is_start { Piece::Start(text) } else { Piece::More(text) }))
    }
}
