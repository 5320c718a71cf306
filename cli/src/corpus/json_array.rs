//! A JSON array: a document in each element.

use std::{
    cell::Cell,
    fmt,
    io::{self, BufRead, Read},
    path::Path,
};

use serde::{
    Deserializer,
    de::{Error, SeqAccess, Visitor},
};

use super::{LONGEST_DOCUMENT, MOST_TEXT, json_fields::Document};
use crate::{failure::Refusal, figures::Bytes};

/// The texts of all elements that have any. Unlike lines, an array is read as a whole.
pub(super) fn json_array(
    reader: Box<dyn BufRead>,
    path: &Path,
    field: &str,
) -> Result<Vec<String>, Refusal> {
    const MOST_JSON: u64 = 2 * MOST_TEXT as u64;
    let left = Cell::new(LONGEST_DOCUMENT);
    let mut limited = Metered { reader, left: &left }.take(MOST_JSON);
    let mut hint = None;
    let texts = Texts { field, left: &left, hint: &mut hint };
    let mut json = serde_json::Deserializer::from_reader(&mut limited);
    // What follows the array is no text: lines of arrays, say.
    let read = json.deserialize_seq(texts).and_then(|texts| json.end().map(|()| texts));
    read.map_err(|error| {
        let path = path.display();
        if limited.limit() == 0 {
            let most = Bytes(MOST_JSON);
            return Refusal::new(format!("{path}: an array of more than {most}"))
                .hint("of JSON lines no more is read than is needed");
        }
        if left.get() == 0 {
            let longest = Bytes(LONGEST_DOCUMENT);
            return Refusal::new(format!("{path}: an element is longer than {longest}"));
        }
        hint.into_iter().fold(Refusal::new(format!("{path}: {error}")), Refusal::hint)
    })
}

/// Ends where nothing is `left`.
struct Metered<'a> {
    reader: Box<dyn BufRead>,
    left: &'a Cell<u64>,
}

impl Read for Metered<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = (&mut self.reader).take(self.left.get()).read(out)?;
        self.left.set(self.left.get() - read as u64);
        Ok(read)
    }
}

struct Texts<'a> {
    field: &'a str,
    /// What may still be read of an element.
    left: &'a Cell<u64>,
    /// Set where something is wrong that this helps with.
    hint: &'a mut Option<&'static str>,
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of documents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<String>, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = elements.next_element_seed(Document { field: self.field })? {
            self.left.set(LONGEST_DOCUMENT);
            let text = text.map_err(|wrong| {
                *self.hint = wrong.hint;
                A::Error::custom(format_args!("element {}: {}", texts.len() + 1, wrong.message))
            })?;
            if !text.is_empty() {
                texts.push(text);
            }
        }
        Ok(texts)
    }
}
