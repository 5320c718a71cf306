//! Text to measure on, from the forms in which corpora are published.
//!
//! A corpus is a sequence of documents: a text file is one, and so is each entry of a JSON file.
//! Their text is joined by a blank line, the files of a folder in the order of their names.

mod compressed;
mod folder;
mod json_array;
mod json_fields;
mod json_lines;
mod plain_text;

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    vec,
};

use anyhow::Context;

use self::{json_array::json_array, json_lines::JsonLines, plain_text::PlainText};
use crate::{failure::Refusal, figures::Bytes, output::Output};

/// The most text that is taken: cutting it into tokens needs up to a hundred times its size in
/// memory.
const MOST_TEXT: usize = 256 << 20;

/// Size limit of a document in JSON, in bytes: it is parsed as a whole.
const LONGEST_DOCUMENT: u64 = 64 << 20;

/// Stands between two documents.
pub(crate) const BLANK_LINE: &str = "\n\n";

/// A corpus, read as far as it was asked for.
pub(crate) struct Text {
    path: PathBuf,
    field: String,
    files: vec::IntoIter<PathBuf>,
    pieces: Option<Pieces>,
    text: String,
}

/// A part of a document, as long as is handy.
enum Piece {
    /// A document starts.
    Start(String),
    /// It goes on.
    More(String),
}

/// The text of one file.
type Pieces = Box<dyn Iterator<Item = anyhow::Result<Piece>>>;

impl Text {
    /// Opens a file, or a folder of files. `field` is the one that holds the text in JSON.
    pub(crate) fn open(path: &Path, field: &str, output: &Output) -> anyhow::Result<Text> {
        let files =
            if path.is_dir() { folder::files(path, output)? } else { vec![path.to_owned()] };
        Ok(Text {
            path: path.to_owned(),
            field: field.to_owned(),
            files: files.into_iter(),
            pieces: None,
            text: String::new(),
        })
    }

    /// Reads on until there are `bytes` of text, or all. What is read ends with a line, or with a
    /// document.
    pub(crate) fn read_to(&mut self, bytes: usize) -> anyhow::Result<()> {
        while self.text.len() < bytes {
            let Some(piece) = self.next_piece()? else { return Ok(()) };
            let (joint, piece) = match &piece {
                Piece::Start(piece) if !self.text.is_empty() => (BLANK_LINE, piece),
                Piece::Start(piece) | Piece::More(piece) => ("", piece),
            };
            if self.text.len() + joint.len() + piece.len() > MOST_TEXT {
                return Err(self.too_long());
            }
            self.text.push_str(joint);
            self.text.push_str(piece);
        }
        Ok(())
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether there is no more to read.
    pub(crate) fn is_whole(&self) -> bool {
        self.pieces.is_none() && self.files.as_slice().is_empty()
    }

    fn next_piece(&mut self) -> anyhow::Result<Option<Piece>> {
        loop {
            if let Some(pieces) = &mut self.pieces {
                match pieces.next() {
                    Some(piece) => return piece.map(Some),
                    None => self.pieces = None,
                }
            }
            match self.files.next() {
                Some(file) => self.pieces = Some(open(&file, &self.field)?),
                None => return Ok(None),
            }
        }
    }

    fn too_long(&self) -> anyhow::Error {
        let most = Bytes(MOST_TEXT as u64);
        let refusal = Refusal::new(format!("{} has more than {most} of text", self.path.display()));
        refusal.hint("--chunks N reads no more than N windows take").into()
    }
}

/// The form of a file, by its name without the ending of a compression.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    PlainText,
    JsonLines,
    /// An array, or lines under another name.
    Json,
    Parquet,
}

impl Form {
    /// `None` where the name has none of the known endings.
    fn of_name(path: &Path) -> Option<Form> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let endings = [".gz", ".zst", ".zstd"];
        let name = endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "txt" => Some(Form::PlainText),
            "jsonl" | "ndjson" => Some(Form::JsonLines),
            "json" => Some(Form::Json),
            "parquet" => Some(Form::Parquet),
            _ => None,
        }
    }
}

fn open(path: &Path, field: &str) -> anyhow::Result<Pieces> {
    let mut reader = compressed::open(path).with_context(|| cannot_read(path))?;
    let form = Form::of_name(path).unwrap_or(Form::PlainText);
    let skipped = skip_byte_order_mark(&mut *reader).with_context(|| cannot_read(path))?;
    Ok(match form {
        Form::PlainText => Box::new(PlainText::new(reader, path, skipped)),
        Form::JsonLines => Box::new(JsonLines::new(reader, path, field)),
        Form::Json if starts_array(&mut *reader).with_context(|| cannot_read(path))? => {
            let documents = json_array(reader, path, field)?;
            Box::new(documents.into_iter().map(|document| Ok(Piece::Start(document))))
        }
        Form::Json => Box::new(JsonLines::new(reader, path, field)),
        Form::Parquet => return Err(parquet(path).into()),
    })
}

fn starts_array(reader: &mut dyn BufRead) -> std::io::Result<bool> {
    let start = reader.fill_buf()?;
    Ok(start.trim_ascii_start().starts_with(b"["))
}

/// Windows programs write one, and it is no part of the text. Returns how many bytes it took.
fn skip_byte_order_mark(reader: &mut dyn BufRead) -> std::io::Result<usize> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    if !reader.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
        return Ok(0);
    }
    reader.consume(BYTE_ORDER_MARK.len());
    Ok(BYTE_ORDER_MARK.len())
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read the corpus {}", path.display())
}

fn parquet(path: &Path) -> Refusal {
    Refusal::new(format!("{}: Parquet is not read; JSON lines are", path.display())).hint(
        "python -c \"import pandas; pandas.read_parquet('X.parquet')\
         .to_json('X.jsonl', orient='records', lines=True)\"",
    )
}
