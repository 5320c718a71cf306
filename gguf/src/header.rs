//! The part of a GGUF file before the tensor data.

mod cursor;
mod metadata;
mod tensors;

use std::path::Path;

use crate::{
    Metadata, TensorType,
    error::{Error, Result},
};
use cursor::{Cursor, Place};

/// Byte order of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Endian {
    /// Least significant byte first: nearly every file.
    #[default]
    Little,
    /// Most significant byte first: files for s390x and the like.
    Big,
}

/// Everything before the tensor data.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Header {
    /// 1, 2 or 3.
    pub version: u32,
    /// Byte order of the file.
    pub endian: Endian,
    /// Alignment of tensor data in bytes, `general.alignment` or 32.
    pub alignment: u64,
    /// The key-value section.
    pub metadata: Metadata,
    /// The tensors in file order, checked: unique names, sizes and offsets inside the data section.
    pub tensors: Vec<TensorInfo>,
    /// Where tensor data starts, in bytes from the start of the file.
    pub data_start: u64,
}

/// Name, shape, type and place of one tensor. Made by [`Header::parse`] or
/// [`Layout::plan`](crate::Layout::plan), which check that no size of it overflows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Extent per dimension, the fastest (a row's columns) first; one to four of them, none 0.
    pub shape: Vec<u64>,
    /// How the weights are stored.
    pub tensor_type: TensorType,
    /// Bytes from the start of the data section.
    pub offset: u64,
    /// Bytes of the whole tensor.
    pub bytes: u64,
    /// Which file of a split model holds it; 0 in a single file.
    pub shard: usize,
}

impl TensorInfo {
    /// Weights in a row: the first extent.
    pub fn cols(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Rows: the product of all other extents.
    pub fn rows(&self) -> u64 {
        self.shape.iter().skip(1).product()
    }

    /// Number of weights.
    pub fn weights(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> u64 {
        self.bytes / self.rows()
    }
}

impl Header {
    /// Parses and checks the header of the GGUF file `bytes`; `path` is only named in errors.
    ///
    /// `bytes` is the whole file: a header is only good when the data section holds what it
    /// promises, tensor behind tensor, and nothing follows.
    ///
    /// # Errors
    ///
    /// Names the field, key or tensor, its place in the file, what was expected and what was found.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Header> {
        Header::read(Cursor::open(bytes, bytes.len() as u64, path)?)
    }

    /// Parses and checks the header of a file of `file_bytes` bytes, of which only the first are at
    /// hand; `None` where it takes more of them. What does not lie in them is not read: only its
    /// place is checked.
    ///
    /// ```
    /// # use llq_gguf::{Header, Metadata, TensorSpec, TensorType, to_bytes};
    /// # let norm = TensorSpec::new("output_norm.weight", [2], TensorType::F32);
    /// # let file = to_bytes(&Metadata::new(), [(norm, [0; 8])])?;
    /// let (path, length) = ("https://example.com/model.gguf".as_ref(), file.len() as u64);
    /// assert!(Header::parse_front(&file[..40], length, path)?.is_none());
    /// let header = Header::parse_front(&file[..length as usize - 8], length, path)?.unwrap();
    /// assert_eq!(header.tensors[0].name, "output_norm.weight");
    /// # Ok::<(), llq_gguf::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`parse`](Self::parse).
    pub fn parse_front(front: &[u8], file_bytes: u64, path: &Path) -> Result<Option<Header>> {
        let file_bytes = file_bytes.max(front.len() as u64);
        match Cursor::open(front, file_bytes, path).and_then(Header::read) {
            Err(Error::Truncated { needed, left, .. }) if needed <= left => Ok(None),
            other => other.map(Some),
        }
    }

    fn read(mut cursor: Cursor<'_>) -> Result<Header> {
        let tensor_count = cursor.at(Place::TensorCount).length()?;
        let key_count = cursor.at(Place::KeyCount).length()?;
        let (metadata, alignment) = metadata::read(&mut cursor, key_count)?;
        let tensors = tensors::read(&mut cursor, tensor_count, alignment)?;
        let data_start = tensors::check_data(&cursor, &tensors, alignment)?;
        Ok(Header {
            version: cursor.version(),
            endian: cursor.endian(),
            alignment,
            metadata,
            tensors,
            data_start,
        })
    }
}
