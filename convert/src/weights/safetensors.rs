//! One safetensors file: an eight-byte length, a JSON header, and tensor data without holes.
//!
//! The rules are those of the format's specification; the crate of that name accepts headers that
//! name a tensor twice, which two readers can understand in two ways.

use std::{collections::HashSet, fmt, ops::Range, path::Path};

use llq_gguf::TensorType;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{Dtype, InputFile, PublishedTensor, checked_product, is_lfs_pointer};
use crate::{Error, error::Result};

/// What can be wrong with a safetensors file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SafetensorsError {
    /// The file has no room for the length of its header.
    #[error("{bytes} bytes are too few for a safetensors file")]
    TooShort {
        /// Size of the file.
        bytes: u64,
    },
    /// Git LFS did not fetch the file.
    #[error("a Git LFS pointer, not the file itself: run `git lfs pull`")]
    LfsPointer,
    /// The header is said to be longer than the file or than any header may be.
    #[error(
        "a header of {header} bytes does not fit: the file has {file}, a header at most {limit}"
    )]
    HeaderLength {
        /// What the file says.
        header: u64,
        /// Size of the file.
        file: u64,
        /// What the specification allows.
        limit: u64,
    },
    /// The header does not start with an object.
    #[error("the header starts with byte {found:#04x}, expected {{")]
    NotAnObject {
        /// The first byte.
        found: u8,
    },
    /// The header is no JSON of the right form.
    #[error("header: {0}")]
    Header(serde_json::Error),
    /// A tensor has a number type that is not in the specification.
    #[error("tensor {tensor:?} has unknown dtype {dtype:?}")]
    UnknownDtype {
        /// The tensor.
        tensor: String,
        /// The type.
        dtype: String,
    },
    /// The bytes of a tensor are not those its shape needs.
    #[error(
        "tensor {tensor:?} of shape {shape:?} and dtype {dtype} does not take the bytes {begin}..{end}"
    )]
    Size {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its number type.
        dtype: String,
        /// First byte in the data section.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
    /// There is a hole or an overlap before a tensor.
    #[error("tensor {tensor:?} starts at byte {begin} of the data, expected {expected}")]
    Discontiguous {
        /// The tensor.
        tensor: String,
        /// Where it starts.
        begin: u64,
        /// Where the one before ends.
        expected: u64,
    },
    /// The tensors end before or after the file does.
    #[error(
        "tensor data is {found} bytes, the header says {expected}: the file is cut off or damaged"
    )]
    DataLength {
        /// End of the last tensor.
        expected: u64,
        /// Bytes after the header.
        found: u64,
    },
}

/// An open file with a checked header.
#[derive(Debug)]
pub(crate) struct SafetensorsFile {
    file: InputFile,
    tensors: Vec<PublishedTensor>,
    /// Where each tensor starts in the file.
    starts: Vec<u64>,
}

/// The longest header that the specification allows, in bytes.
const MAX_HEADER: u64 = 100_000_000;

impl SafetensorsFile {
    pub(crate) fn open(path: &Path) -> Result<SafetensorsFile> {
        let file = InputFile::open(path)?;
        let fail = |problem| Error::Safetensors { path: path.to_path_buf(), problem };
        if is_lfs_pointer(&file.start(64)?) {
            return Err(fail(SafetensorsError::LfsPointer));
        }
        let header = read_header(&file)?.map_err(fail)?;
        let data_start = 8 + header.len() as u64;
        let entries: Header =
            serde_json::from_slice(&header).map_err(|e| fail(SafetensorsError::Header(e)))?;
        let (tensors, starts) = entries.check(data_start, file.len()).map_err(fail)?;
        Ok(SafetensorsFile { file, tensors, starts })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn tensors(&self) -> &[PublishedTensor] {
        &self.tensors
    }

    pub(crate) fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let count = rows.end - rows.start;
        let row_bytes = (out.len() as u64).checked_div(count).unwrap_or(0);
        self.file.read_at(self.starts[tensor] + rows.start * row_bytes, out)
    }
}

/// The header's bytes, without the length before them.
fn read_header(file: &InputFile) -> Result<std::result::Result<Vec<u8>, SafetensorsError>> {
    if file.len() < 8 {
        return Ok(Err(SafetensorsError::TooShort { bytes: file.len() }));
    }
    let mut length = [0; 8];
    file.read_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER.min(file.len() - 8) {
        let limit = MAX_HEADER;
        return Ok(Err(SafetensorsError::HeaderLength { header: length, file: file.len(), limit }));
    }
    let header = file.read(8, length)?;
    match header.first() {
        Some(b'{') => Ok(Ok(header)),
        found => Ok(Err(SafetensorsError::NotAnObject { found: found.copied().unwrap_or(0) })),
    }
}

/// The entries of a header in the order in which they stand there.
struct Header(Vec<(String, Entry)>);

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// Extents, at most [`MAX_RANK`] of them: a header is long enough for millions.
struct Shape(Vec<u64>);

const MAX_RANK: usize = 8;

/// Tensors in a file: the largest checkpoints have some ten thousand, a header could name millions.
const MAX_TENSORS: usize = 1 << 16;

impl Header {
    /// Tensors and the places where they start, if they fill the file without holes.
    fn check(
        mut self,
        data_start: u64,
        file_bytes: u64,
    ) -> std::result::Result<(Vec<PublishedTensor>, Vec<u64>), SafetensorsError> {
        self.0.sort_by_key(|(_, entry)| entry.data_offsets);
        let mut expected = 0;
        let mut starts = Vec::with_capacity(self.0.len());
        let mut tensors = Vec::with_capacity(self.0.len());
        for (tensor, Entry { dtype, shape: Shape(shape), data_offsets: (begin, end) }) in self.0 {
            let Some(bits) = dtype_bits(&dtype) else {
                return Err(SafetensorsError::UnknownDtype { tensor, dtype });
            };
            let bits = checked_product(shape.iter().copied().chain([bits]));
            let bytes = bits.filter(|bits| bits % 8 == 0).map(|bits| bits / 8);
            if bytes.is_none() || end.checked_sub(begin) != bytes {
                return Err(SafetensorsError::Size { tensor, shape, dtype, begin, end });
            }
            if begin != expected {
                return Err(SafetensorsError::Discontiguous { tensor, begin, expected });
            }
            expected = end;
            starts.push(data_start + begin.min(file_bytes));
            tensors.push(PublishedTensor { name: tensor, shape, dtype: float_or_other(dtype) });
        }
        let found = file_bytes - data_start;
        if expected != found {
            return Err(SafetensorsError::DataLength { expected, found });
        }
        Ok((tensors, starts))
    }
}

/// Bits of one number of each type of the specification.
fn dtype_bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ"
        | "F8_E5M2FNUZ" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

fn float_or_other(dtype: String) -> Dtype {
    match dtype.as_str() {
        "F32" => Dtype::Float(TensorType::F32),
        "F16" => Dtype::Float(TensorType::F16),
        "BF16" => Dtype::Float(TensorType::BF16),
        _ => Dtype::Other(dtype),
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if entries.len() == MAX_TENSORS {
                return Err(A::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
            }
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("key {key:?} occurs twice")));
            }
            if key == "__metadata__" {
                map.next_value::<TextMap>()?;
            } else {
                entries.push((key, map.next_value()?));
            }
        }
        Ok(Header(entries))
    }
}

/// `__metadata__`: text to text, of no use to a conversion and not kept.
struct TextMap;

impl<'de> Deserialize<'de> for TextMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(TextMapVisitor)
    }
}

struct TextMapVisitor;

impl<'de> Visitor<'de> for TextMapVisitor {
    type Value = TextMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<TextMap, A::Error> {
        while map.next_entry::<String, String>()?.is_some() {}
        Ok(TextMap)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX_RANK} extents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Shape, A::Error> {
        let mut extents = Vec::new();
        while extents.len() < MAX_RANK {
            match seq.next_element()? {
                Some(extent) => extents.push(extent),
                None => return Ok(Shape(extents)),
            }
        }
        match seq.next_element::<IgnoredAny>()? {
            Some(_) => Err(A::Error::invalid_length(MAX_RANK + 1, &self)),
            None => Ok(Shape(extents)),
        }
    }
}
