//! JSON lines: a document in each.

use std::{
    io::{BufRead, Read},
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::de::DeserializeSeed;

use super::{LONGEST_DOCUMENT, Piece, cannot_read, json_fields::Document};
use crate::{
    failure::Refusal,
    figures::{Bytes, Count},
};

pub(super) struct JsonLines {
    reader: Box<dyn BufRead>,
    path: PathBuf,
    field: String,
    /// The number of the line that was read last.
    line: u64,
}

impl JsonLines {
    pub(super) fn new(reader: Box<dyn BufRead>, path: &Path, field: &str) -> JsonLines {
        JsonLines { reader, path: path.to_owned(), field: field.to_owned(), line: 0 }
    }

    /// The text of the next document that has any.
    fn next_document(&mut self) -> anyhow::Result<Option<String>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut reader = (&mut self.reader).take(LONGEST_DOCUMENT);
            let read = reader.read_until(b'\n', &mut line);
            let read = read.with_context(|| cannot_read(&self.path))?;
            self.line += 1;
            if read == 0 {
                return Ok(None);
            }
            if read as u64 == LONGEST_DOCUMENT && !line.ends_with(b"\n") {
                let longest = Bytes(LONGEST_DOCUMENT);
                return Err(self.refusal(&format!("the line is longer than {longest}")).into());
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let text = self.document(&line)?;
            if !text.is_empty() {
                return Ok(Some(text));
            }
        }
    }

    fn document(&self, line: &[u8]) -> Result<String, Refusal> {
        let mut json = serde_json::Deserializer::from_slice(line);
        let read = Document { field: &self.field }.deserialize(&mut json);
        let text = read.and_then(|text| json.end().map(|()| text)).map_err(|error| {
            let (said, at) = (error.to_string(), Count(error.column() as u64));
            let said = said.split(" at line ").next().unwrap_or_default();
            let refusal = self.refusal(&format!("{said}, at byte {at}"));
            refusal.hint("each line is to be a JSON value of its own")
        })?;
        text.map_err(|wrong| {
            let refusal = self.refusal(&wrong.message);
            wrong.hint.into_iter().fold(refusal, Refusal::hint)
        })
    }

    fn refusal(&self, message: &str) -> Refusal {
        Refusal::new(format!("{}:{}: {message}", self.path.display(), self.line))
    }
}

impl Iterator for JsonLines {
    type Item = anyhow::Result<Piece>;

    fn next(&mut self) -> Option<anyhow::Result<Piece>> {
        self.next_document().transpose().map(|document| document.map(Piece::Start))
    }
}
