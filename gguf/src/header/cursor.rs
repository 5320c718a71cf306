//! A position in the bytes of a GGUF file, whose reads name the field they fail in.

use std::{borrow::Cow, fmt, path::Path};

use crate::{
    Endian,
    error::{Error, Quoted, Result},
    number::Number,
};

/// What is being read; named in errors.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Magic,
    Version,
    TensorCount,
    KeyCount,
    Keys(u64),
    Key(u64),
    Value(&'a str),
    TensorInfos(u64),
    TensorName(u64),
    TensorShape(&'a str),
    TensorType(&'a str),
    TensorOffset(&'a str),
    TensorData(&'a str),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Magic => f.write_str("magic"),
            Place::Version => f.write_str("gguf version"),
            Place::TensorCount => f.write_str("number of tensors"),
            Place::KeyCount => f.write_str("number of metadata keys"),
            Place::Keys(count) => write!(f, "section of {count} metadata keys"),
            Place::Key(index) => write!(f, "metadata key number {index}"),
            Place::Value(key) => write!(f, "value of metadata key {}", Quoted(key)),
            Place::TensorInfos(count) => write!(f, "section of {count} tensor infos"),
            Place::TensorName(index) => write!(f, "name of tensor number {index}"),
            Place::TensorShape(tensor) => write!(f, "shape of tensor {}", Quoted(tensor)),
            Place::TensorType(tensor) => write!(f, "type of tensor {}", Quoted(tensor)),
            Place::TensorOffset(tensor) => write!(f, "offset of tensor {}", Quoted(tensor)),
            Place::TensorData(tensor) => write!(f, "data of tensor {}", Quoted(tensor)),
        }
    }
}

/// A position in a GGUF file behind its version.
pub(super) struct Cursor<'a> {
    /// The file's first bytes; all of them but where only the header is at hand.
    bytes: &'a [u8],
    file_bytes: u64,
    position: usize,
    path: &'a Path,
    place: Place<'a>,
    version: u32,
    endian: Endian,
}

impl<'a> Cursor<'a> {
    /// Reads magic and version, which tell the byte order.
    pub(super) fn open(bytes: &'a [u8], file_bytes: u64, path: &'a Path) -> Result<Cursor<'a>> {
        let (place, endian) = (Place::Magic, Endian::Little);
        let mut cursor = Cursor { bytes, file_bytes, position: 0, path, place, version: 3, endian };
        cursor.read_magic()?;
        cursor.read_version()?;
        Ok(cursor)
    }

    fn read_magic(&mut self) -> Result<()> {
        let magic = self.take(4)?;
        if magic == b"GGUF" {
            return Ok(());
        }
        let kind = match magic {
            b"lmgg" | b"fmgg" | b"tjgg" | b"algg" => {
                " (a legacy ggml file: llq convert makes gguf of it)"
            }
            b"FUGG" => " (a gguf file with reversed magic)",
            b"vers" => " (a git-lfs pointer, whose file is not downloaded)",
            b"PK\x03\x04" => " (a zip archive)",
            _ => "",
        };
        let found = format!("\"{}\"{kind}", magic.escape_ascii());
        Err(Error::Magic { path: self.path.to_owned(), found })
    }

    fn read_version(&mut self) -> Result<()> {
        let little = self.at(Place::Version).number::<u32>()?;
        (self.version, self.endian) = match little {
            1..=3 => (little, Endian::Little),
            _ => (little.swap_bytes(), Endian::Big),
        };
        match self.version {
            1..=3 => Ok(()),
            _ => Err(Error::Version { path: self.path.to_owned(), found: little }),
        }
    }

    pub(super) fn version(&self) -> u32 {
        self.version
    }

    pub(super) fn endian(&self) -> Endian {
        self.endian
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// What is at hand of the file from `start` on.
    pub(super) fn from(&self, start: u64) -> &'a [u8] {
        self.bytes.get(start as usize..).unwrap_or_default()
    }

    /// Names what the next reads read.
    pub(super) fn at(&mut self, place: Place<'a>) -> &mut Self {
        self.place = place;
        self
    }

    /// A number in the file's byte order.
    pub(super) fn number<N: Number>(&mut self) -> Result<N> {
        let Some(number) = N::decode(self.rest(), self.endian) else {
            return Err(self.truncated(size_of::<N>() as u64));
        };
        self.position += size_of::<N>();
        Ok(number)
    }

    /// `count` numbers in the file's byte order.
    pub(super) fn numbers<N: Number>(&mut self, count: u64) -> Result<Vec<N>> {
        let bytes = self.take(count.saturating_mul(size_of::<N>() as u64))?;
        Ok(N::decode_all(bytes, self.endian))
    }

    /// A count or length: 32 bits in version 1, 64 bits since.
    pub(super) fn length(&mut self) -> Result<u64> {
        match self.version {
            1 => self.number::<u32>().map(u64::from),
            _ => self.number(),
        }
    }

    /// Bytes that [`length`](Self::length) reads.
    pub(super) fn length_bytes(&self) -> u64 {
        if self.version == 1 { 4 } else { 8 }
    }

    /// A string behind its length.
    pub(super) fn string(&mut self) -> Result<&'a str> {
        let length = self.length()?;
        let start = self.position;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let bad = start + error.valid_up_to();
            self.invalid(bad, "utf-8 text", format!("byte {:#04x}", self.bytes[bad]))
        })
    }

    /// A bool, which is stored as 0 or 1.
    pub(super) fn bool(&mut self) -> Result<bool> {
        let start = self.position;
        match self.number::<u8>()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.invalid(start, "bool 0 or 1", other.to_string())),
        }
    }

    /// The next `count` bytes.
    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        self.require(count, 1)?;
        let bytes = &self.rest()[..count as usize];
        self.position += bytes.len();
        Ok(bytes)
    }

    /// Checks that `count` items of at least `least_bytes` each can still follow, so that `count`
    /// may size an allocation.
    pub(super) fn require(&self, count: u64, least_bytes: u64) -> Result<()> {
        let needed = count.saturating_mul(least_bytes);
        if needed > self.rest().len() as u64 {
            return Err(self.truncated(needed));
        }
        Ok(())
    }

    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }

    fn truncated(&self, needed: u64) -> Error {
        Error::Truncated {
            path: self.path.to_owned(),
            what: self.place.to_string(),
            offset: self.position as u64,
            needed,
            left: self.file_bytes - self.position as u64,
        }
    }

    /// The error of a field at `offset` that holds what it may not.
    pub(super) fn invalid(
        &self,
        offset: usize,
        expected: impl Into<Cow<'static, str>>,
        found: String,
    ) -> Error {
        Error::Invalid {
            path: self.path.to_owned(),
            what: self.place.to_string(),
            offset: offset as u64,
            expected: expected.into(),
            found,
        }
    }
}
