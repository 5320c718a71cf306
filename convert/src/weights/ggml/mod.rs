//! One legacy GGML file of 2023: numbers of the model, vocabulary, then one tensor behind the other.
//!
//! Source: llama.cpp's `convert-pth-to-ggml.py` and loaders from March to August 2023.

mod blocks;
mod cursor;
mod error;

use std::{
    collections::HashSet,
    ops::Range,
    path::{Path, PathBuf},
};

use llq_gguf::TensorType;

pub(crate) use blocks::{Cost, OldLayout};
pub use error::GgmlError;

use self::cursor::Cursor;
use super::{Dtype, InputFile, PublishedTensor, Weights, checked_product};
use crate::{Error, error::Result};

/// What becomes of tensors whose block layout was withdrawn after 2023.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Withdrawn {
    /// They get today's layout of the same type, or of the nearest where that type is gone.
    #[default]
    Keep,
    /// They are decoded exactly, to F32: for an output in another type.
    Decode,
}

/// Magic and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Container {
    /// Without version, March 2023.
    Ggml,
    /// With scores of tokens.
    Ggmf1,
    /// With aligned tensors, since April 2023.
    Ggjt1,
    /// With 4-bit codes in halves, May 2023.
    Ggjt2,
    /// With today's layouts, until August 2023.
    Ggjt3,
}

impl Container {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Container::Ggml => "ggml without version",
            Container::Ggmf1 => "ggmf version 1",
            Container::Ggjt1 => "ggjt version 1",
            Container::Ggjt2 => "ggjt version 2",
            Container::Ggjt3 => "ggjt version 3",
        }
    }

    fn old_layouts(self) -> &'static [(u32, OldLayout)] {
        match self {
            Container::Ggml | Container::Ggmf1 | Container::Ggjt1 => blocks::IN_PAIRS,
            Container::Ggjt2 => blocks::IN_HALVES,
            Container::Ggjt3 => &[],
        }
    }
}

/// The numbers at the start of a file, but for those that nothing depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) container: Container,
    pub(crate) vocabulary: u32,
    pub(crate) embedding: u32,
    pub(crate) heads: u32,
    pub(crate) layers: u32,
    pub(crate) file_type: u32,
}

/// A token's bytes and score.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) bytes: Vec<u8>,
    /// Absent in files without version.
    pub(crate) score: Option<f32>,
}

/// An open file with a checked description of its tensors.
#[derive(Debug)]
pub(crate) struct GgmlFile {
    file: InputFile,
    header: Header,
    vocabulary: Vec<Piece>,
    tensors: Vec<PublishedTensor>,
    places: Vec<Place>,
    withdrawn: Withdrawn,
}

/// Where and how a tensor is stored.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u64,
    row_bytes: u64,
    layout: Layout,
}

/// How the weights of a tensor are stored.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Today(TensorType),
    Old(OldLayout),
}

/// Whether a file that starts like this is a legacy GGML file of any kind.
pub(crate) fn is_ggml(start: &[u8]) -> bool {
    [b"lmgg", b"fmgg", b"tjgg", b"algg"].iter().any(|magic| start.starts_with(*magic))
}

impl GgmlFile {
    pub(crate) fn open(path: &Path, withdrawn: Withdrawn) -> Result<GgmlFile> {
        let file = InputFile::open(path)?;
        let mut cursor = Cursor::new(&file);
        let header = read_header(&mut cursor)?;
        let vocabulary = read_vocabulary(&mut cursor, &header)?;
        let (tensors, places) = read_tensors(&mut cursor, &header, withdrawn)?;
        Ok(GgmlFile { file, header, vocabulary, tensors, places, withdrawn })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn vocabulary(&self) -> &[Piece] {
        &self.vocabulary
    }

    /// The withdrawn layout of a tensor, where it has one.
    pub(crate) fn old_layout(&self, tensor: usize) -> Option<&OldLayout> {
        match &self.places[tensor].layout {
            Layout::Old(old) => Some(old),
            Layout::Today(_) => None,
        }
    }

    fn to_today(&self, tensor: usize, first_row: u64, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let Layout::Old(old) = self.places[tensor].layout else { return Ok(()) };
        let name = &self.tensors[tensor].name;
        if self.header.container == Container::Ggml
            && let Some(block) = old.first_negative_range(stored)
        {
            let problem = format!(
                "block {block} from row {first_row} on has a negative scale, as if this were Q4_1 \
                 of before 17 March 2023, which is not supported"
            );
            let problem = GgmlError::Tensor { tensor: name.clone(), problem };
            return Err(Error::Ggml { path: self.path().to_path_buf(), problem });
        }
        let fail = |source| Error::Row { tensor: name.clone(), row: first_row, source };
        match self.withdrawn {
            Withdrawn::Decode => old.decode(stored, out),
            Withdrawn::Keep => {
                let columns = self.tensors[tensor].columns() as usize;
                old.write_nearest(columns, stored, out).map_err(fail)?;
            }
        }
        Ok(())
    }
}

impl Weights for GgmlFile {
    fn tensors(&self) -> &[PublishedTensor] {
        &self.tensors
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.file.path().to_path_buf()]
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let Place { start, row_bytes, layout } = self.places[tensor];
        let start = start + rows.start * row_bytes;
        if let Layout::Today(_) = layout {
            return self.file.read_at(start, out);
        }
        let stored = self.file.read(start, (rows.end - rows.start) * row_bytes)?;
        self.to_today(tensor, rows.start, &stored, out)
    }
}

fn read_header(cursor: &mut Cursor<'_>) -> Result<Header> {
    let container = read_container(cursor)?;
    let mut number = || cursor.u32("header");
    let (vocabulary, embedding) = (number()?, number()?);
    let _multiple_of = number()?;
    let (heads, layers) = (number()?, number()?);
    let _rotated = number()?;
    let file_type = number()?;
    Ok(Header { container, vocabulary, embedding, heads, layers, file_type })
}

fn read_container(cursor: &mut Cursor<'_>) -> Result<Container> {
    let magic = cursor.u32("magic")?.to_be_bytes();
    let (magic, expected) = match &magic {
        b"ggml" => return Ok(Container::Ggml),
        b"ggmf" => ("ggmf", "1"),
        b"ggjt" => ("ggjt", "1, 2 or 3"),
        _ => return cursor.fail(GgmlError::Adapter),
    };
    match (magic, cursor.u32("version")?) {
        ("ggmf", 1) => Ok(Container::Ggmf1),
        ("ggjt", 1) => Ok(Container::Ggjt1),
        ("ggjt", 2) => Ok(Container::Ggjt2),
        ("ggjt", 3) => Ok(Container::Ggjt3),
        (_, found) => cursor.fail(GgmlError::Version { magic, found, expected }),
    }
}

fn read_vocabulary(cursor: &mut Cursor<'_>, header: &Header) -> Result<Vec<Piece>> {
    /// The largest vocabulary of a LLaMA has a quarter million.
    const MAX_TOKENS: u32 = 1 << 20;
    const MAX_BYTES: u32 = 4096;
    let count = header.vocabulary;
    if !(3..=MAX_TOKENS).contains(&count) {
        return cursor.fail(GgmlError::Vocabulary { found: count, limit: MAX_TOKENS });
    }
    let mut pieces = Vec::new();
    for id in 0..count {
        if id + 1 == count && header.container == Container::Ggml && is_at_tensor(cursor)? {
            break;
        }
        let bytes = cursor.u32("token")?;
        if bytes > MAX_BYTES {
            return cursor.fail(GgmlError::LongToken { id, bytes, limit: MAX_BYTES });
        }
        let bytes = cursor.take(bytes.into(), "token")?.to_vec();
        let has_score = header.container > Container::Ggml;
        let score = has_score.then(|| cursor.f32("score of a token")).transpose()?;
        pieces.push(Piece { bytes, score });
    }
    Ok(pieces)
}

/// Whether the first tensor's record is next. The first GPT4All counts a token that it lacks.
fn is_at_tensor(cursor: &mut Cursor<'_>) -> Result<bool> {
    /// Dimensions, length of the name, type, two extents, and the name that comes first.
    const RECORD: u64 = 20 + 21;
    if cursor.left() < RECORD {
        return Ok(false);
    }
    let start = cursor.position();
    let found = cursor.take(RECORD, "tensor")?[20..] == *b"tok_embeddings.weight";
    cursor.seek_back_to(start);
    Ok(found)
}

/// The largest LLaMA has a thousand.
const MAX_TENSORS: usize = 1 << 14;
const MAX_NAME: u32 = 128;
const ALIGNMENT: u64 = 32;

fn read_tensors(
    cursor: &mut Cursor<'_>,
    header: &Header,
    withdrawn: Withdrawn,
) -> Result<(Vec<PublishedTensor>, Vec<Place>)> {
    let mut names = HashSet::new();
    let (mut tensors, mut places) = (Vec::new(), Vec::new());
    while cursor.left() > 0 {
        if tensors.len() == MAX_TENSORS {
            return cursor.fail(GgmlError::TooManyTensors { limit: MAX_TENSORS });
        }
        let (tensor, place) = read_tensor(cursor, header, withdrawn, tensors.len())?;
        if !names.insert(tensor.name.clone()) {
            let problem = "occurs twice".to_owned();
            return cursor.fail(GgmlError::Tensor { tensor: tensor.name, problem });
        }
        tensors.push(tensor);
        places.push(place);
    }
    Ok((tensors, places))
}

fn read_tensor(
    cursor: &mut Cursor<'_>,
    header: &Header,
    withdrawn: Withdrawn,
    number: usize,
) -> Result<(PublishedTensor, Place)> {
    let offset = cursor.position();
    let dimensions = cursor.u32("tensor")?;
    let name_bytes = cursor.u32("tensor")?;
    let id = cursor.u32("tensor")?;
    let bad_name = |problem| GgmlError::Name { number, offset, problem };
    if !(1..=MAX_NAME).contains(&name_bytes) {
        let problem = format!("has {name_bytes} bytes, expected 1 to {MAX_NAME}");
        return cursor.fail(bad_name(problem));
    }
    if !(1..=2).contains(&dimensions) {
        let problem = format!("follows {dimensions} dimensions, expected 1 or 2");
        return cursor.fail(bad_name(problem));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.insert(0, u64::from(cursor.u32("shape of a tensor")?));
    }
    let name = cursor.take(name_bytes.into(), "name of a tensor")?.to_vec();
    let Ok(name) = String::from_utf8(name) else {
        return cursor.fail(bad_name("is not UTF-8".to_owned()));
    };
    let Some(layout) = layout(header, id) else {
        let container = header.container.name();
        return cursor.fail(GgmlError::TensorType { tensor: name, id, container });
    };
    let columns = shape[shape.len() - 1];
    if shape.contains(&0) {
        let problem = format!("an extent of {shape:?} is 0");
        return cursor.fail(GgmlError::Tensor { tensor: name, problem });
    }
    let Some(row_bytes) = layout.row_bytes(columns) else {
        let problem = format!("rows of {columns} weights are no whole blocks of {}", layout.name());
        return cursor.fail(GgmlError::Tensor { tensor: name, problem });
    };
    if header.container >= Container::Ggjt1 {
        cursor.align(ALIGNMENT)?;
    }
    let start = cursor.position();
    let rows = checked_product(shape.iter().rev().skip(1).copied());
    let bytes = rows.and_then(|rows| rows.checked_mul(row_bytes));
    cursor.skip(bytes.unwrap_or(u64::MAX), &format!("data of tensor {name:?}"))?;
    let tensor_type = match (layout, withdrawn) {
        (Layout::Today(tensor_type), _) => tensor_type,
        (Layout::Old(old), Withdrawn::Keep) => old.nearest(),
        (Layout::Old(_), Withdrawn::Decode) => TensorType::F32,
    };
    if tensor_type.row_bytes(columns).is_none() {
        let problem = format!("rows of {columns} weights are no whole blocks of {tensor_type}");
        return cursor.fail(GgmlError::Tensor { tensor: name, problem });
    }
    let tensor = PublishedTensor { name, shape, dtype: Dtype::Float(tensor_type) };
    Ok((tensor, Place { start, row_bytes, layout }))
}

/// What the type number `id` means in a file.
fn layout(header: &Header, id: u32) -> Option<Layout> {
    /// Numbers that ggjt 3 has; today's are the same.
    const LAST_K: u32 = 14;
    /// The file type of Q8_0, which had the number of Q5_0 for a day before there was that.
    const MOSTLY_Q8_0: u32 = 7;
    let Header { container, file_type, .. } = *header;
    let id =
        if container == Container::Ggjt1 && (file_type, id) == (MOSTLY_Q8_0, 6) { 8 } else { id };
    if let Some(&(_, old)) = container.old_layouts().iter().find(|&&(old, _)| old == id) {
        return Some(Layout::Old(old));
    }
    let last = if container == Container::Ggjt3 { LAST_K } else { 8 };
    let today = TensorType::from_id(id).ok().filter(|_| id <= last);
    today.filter(|&today| today != TensorType::Q8_1).map(Layout::Today)
}

impl Layout {
    fn row_bytes(&self, columns: u64) -> Option<u64> {
        match self {
            Layout::Today(tensor_type) => tensor_type.row_bytes(columns),
            Layout::Old(old) => old.row_bytes(columns),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Layout::Today(tensor_type) => tensor_type.name(),
            Layout::Old(old) => old.name,
        }
    }
}
