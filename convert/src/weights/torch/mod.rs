//! One PyTorch file: a ZIP archive of stored entries whose `data.pkl` describes the tensors.

mod pickle;
mod stream;

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
};

use llq_gguf::{
    TensorType,
    zip::{Archive as Zip, Stored},
};

pub use llq_gguf::zip::ZipError;
pub use pickle::PickleError;

use self::pickle::{Storage, TensorView};
use super::{Dtype, InputFile, PublishedTensor, Weights, checked_product, is_lfs_pointer};
use crate::{Error, error::Result};

/// What can be wrong with a PyTorch file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TorchError {
    /// The archive around the tensors is not what PyTorch writes.
    #[error(transparent)]
    Zip(#[from] ZipError),
    /// The description of the tensors is not one of weights.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// The file is of another form.
    #[error("{0}")]
    Form(&'static str),
    /// A tensor does not lie in its storage.
    #[error("tensor {tensor:?}: {problem}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
}

/// An open file with a checked description of its tensors.
#[derive(Debug)]
pub(crate) struct TorchFile {
    file: InputFile,
    tensors: Vec<PublishedTensor>,
    places: Vec<Place>,
}

/// Where the rows of a tensor are.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// First byte of the first row in the file.
    start: u64,
    /// Bytes from one row to the next.
    row_stride: u64,
    row_bytes: u64,
    /// Of the whole tensor.
    bytes: u64,
}

/// Tensors may share a storage, as an embedding does that is the output matrix too. That every byte
/// is so many tensors' is beyond any model, and would make a small file a large output.
const MOST_SHARED: u64 = 4;

const SHARED: &str = "an archive whose tensors share more than four times its bytes";

/// Size limit of `data.pkl` in bytes: the largest LLaMA has two hundred thousand, and each byte can
/// stand for a value of a hundred.
const MAX_PICKLE: u64 = 1 << 20;

impl TorchFile {
    pub(crate) fn open(path: &Path) -> Result<TorchFile> {
        let file = InputFile::open(path)?;
        let fail = |problem| Error::Torch { path: path.to_path_buf(), problem };
        if let Some(other) = other_form(&file.start(512)?) {
            return Err(fail(TorchError::Form(other)));
        }
        let zip = Zip::read(&file)?.map_err(|e| fail(e.into()))?;
        let entries = zip.locate_all(&file)?.map_err(|e| fail(e.into()))?;
        let archive = Archive::of(&entries).map_err(|form| fail(TorchError::Form(form)))?;
        archive.check_byte_order(&file)?.map_err(|form| fail(TorchError::Form(form)))?;

        let pickle = file.read(archive.pickle.start, archive.pickle.bytes)?;
        let views = pickle::named_tensors(&pickle).map_err(|e| fail(e.into()))?;
        let mut tensors = Vec::with_capacity(views.len());
        let mut places = Vec::with_capacity(views.len());
        let mut claimed = 0u64;
        for (name, view) in views {
            let (dtype, place) = archive
                .place(&view)
                .map_err(|problem| fail(TorchError::Tensor { tensor: name.to_owned(), problem }))?;
            claimed = claimed.saturating_add(place.bytes);
            if claimed / MOST_SHARED > file.len() {
                return Err(fail(TorchError::Form(SHARED)));
            }
            tensors.push(PublishedTensor { name: name.to_owned(), shape: view.shape, dtype });
            places.push(place);
        }
        Ok(TorchFile { file, tensors, places })
    }
}

impl Weights for TorchFile {
    fn tensors(&self) -> &[PublishedTensor] {
        &self.tensors
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.path().to_path_buf()]
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let Place { start, row_stride, row_bytes, .. } = self.places[tensor];
        if row_stride == row_bytes {
            return self.file.read_at(start + rows.start * row_stride, out);
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes as usize)) {
            self.file.read_at(start + row * row_stride, out)?;
        }
        Ok(())
    }
}

impl TorchFile {
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Reads part of the first row, which has numbers of `out.len() / columns` bytes.
    pub(crate) fn read_columns(
        &self,
        tensor: usize,
        columns: Range<u64>,
        out: &mut [u8],
    ) -> Result<()> {
        let number_bytes = out.len() as u64 / (columns.end - columns.start).max(1);
        self.file.read_at(self.places[tensor].start + columns.start * number_bytes, out)
    }
}

/// What a file is that is no ZIP archive, if that can be told.
fn other_form(start: &[u8]) -> Option<&'static str> {
    // A pickle of the integer 0x1950a86a20f9469cfc6c.
    const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    if start.starts_with(LEGACY) {
        Some("written by PyTorch before 1.6; load and save it with a newer one")
    } else if start.get(257..262) == Some(b"ustar") {
        Some("a tar archive as PyTorch wrote before 0.2; load and save it with a newer one")
    } else if is_lfs_pointer(start) {
        Some("a Git LFS pointer, not the file itself: run `git lfs pull`")
    } else if !start.starts_with(b"PK\x03\x04") {
        Some("neither a ZIP archive nor any other form of PyTorch file")
    } else {
        None
    }
}

/// The entries that PyTorch gives a meaning.
struct Archive<'a> {
    pickle: &'a Stored,
    byte_order: Option<&'a Stored>,
    /// Entries of `data/` by the rest of their name.
    storages: HashMap<&'a str, &'a Stored>,
}

impl<'a> Archive<'a> {
    fn of(entries: &'a [Stored]) -> std::result::Result<Self, &'static str> {
        let folder = entries.first().and_then(|entry| entry.name.split_once('/'));
        let (folder, _) = folder.ok_or("an archive without the folder PyTorch puts all in")?;
        let mut pickle = None;
        let mut byte_order = None;
        let mut storages = HashMap::new();
        for entry in entries {
            let inside = entry.name.strip_prefix(folder).and_then(|name| name.strip_prefix('/'));
            match inside.ok_or("an archive of more than one folder")? {
                "data.pkl" => pickle = Some(entry),
                "byteorder" => byte_order = Some(entry),
                name => {
                    if let Some(key) = name.strip_prefix("data/") {
                        storages.insert(key, entry);
                    }
                }
            }
        }
        let pickle = pickle.ok_or("an archive without data.pkl")?;
        if pickle.bytes > MAX_PICKLE {
            return Err("an archive whose data.pkl is larger than 1 MiB");
        }
        Ok(Archive { pickle, byte_order, storages })
    }

    fn check_byte_order(&self, file: &InputFile) -> Result<std::result::Result<(), &'static str>> {
        let Some(entry) = self.byte_order else { return Ok(Ok(())) };
        let is_little = entry.bytes == 6 && file.read(entry.start, 6)? == b"little";
        Ok(if is_little { Ok(()) } else { Err("weights in big-endian byte order") })
    }

    /// Number type and place of a tensor that lies in its storage as rows without gaps.
    fn place(&self, view: &TensorView<'_>) -> std::result::Result<(Dtype, Place), String> {
        let TensorView { storage, offset, shape, stride } = view;
        let (dtype, width) = dtype(storage);
        let entry = self.storages.get(storage.key);
        let entry = entry.ok_or_else(|| format!("its storage {:?} is not there", storage.key))?;
        if storage.elements.checked_mul(width) != Some(entry.bytes) {
            return Err(format!(
                "storage {:?} has {} bytes, expected {} elements of {width}",
                storage.key, entry.bytes, storage.elements
            ));
        }
        if shape.contains(&0) {
            return Err(format!("shape {shape:?} holds no weights"));
        }
        let row_stride = row_stride(shape, stride)
            .ok_or_else(|| format!("strides {stride:?} of shape {shape:?} are not rows"))?;
        let end = elements_spanned(shape, row_stride).and_then(|span| span.checked_add(*offset));
        if end.is_none_or(|end| end > storage.elements) {
            let have = storage.elements;
            return Err(format!("shape {shape:?} at {offset} is beyond its storage of {have}"));
        }
        let columns = shape.last().copied().unwrap_or(1);
        // No more than the storage has, as no elements overlap.
        let bytes = shape.iter().product::<u64>() * width;
        let start = entry.start + offset * width;
        let (row_stride, row_bytes) = (row_stride * width, columns * width);
        let place = Place { start, row_stride, row_bytes, bytes };
        Ok((dtype, place))
    }
}

fn dtype(storage: &Storage<'_>) -> (Dtype, u64) {
    match storage.storage_type.0 {
        "Float" => (Dtype::Float(TensorType::F32), 4),
        "Half" => (Dtype::Float(TensorType::F16), 2),
        "BFloat16" => (Dtype::Float(TensorType::BF16), 2),
        other => {
            let width = match other {
                "Double" | "Long" | "ComplexFloat" => 8,
                "Int" => 4,
                "Short" => 2,
                _ => 1,
            };
            (Dtype::Other(other.to_owned()), width)
        }
    }
}

/// Elements from one row to the next, where each row is contiguous and rows are evenly spaced.
/// Rows that overlap are none: a small file could claim to hold any number of them.
fn row_stride(shape: &[u64], stride: &[u64]) -> Option<u64> {
    let Some((&columns, outer)) = shape.split_last() else { return Some(1) };
    if columns > 1 && stride.last() != Some(&1) {
        return None;
    }
    let Some((&rows, outermost)) = outer.split_last() else { return Some(columns) };
    let row_stride = if rows > 1 { stride[outer.len() - 1] } else { columns };
    if row_stride < columns {
        return None;
    }
    let mut expected = row_stride.checked_mul(rows)?;
    for (&extent, &stride) in outermost.iter().zip(stride).rev() {
        if extent > 1 && stride != expected {
            return None;
        }
        expected = expected.checked_mul(extent)?;
    }
    Some(row_stride)
}

/// Elements from the first to the last of a tensor.
fn elements_spanned(shape: &[u64], row_stride: u64) -> Option<u64> {
    let Some((&columns, outer)) = shape.split_last() else { return Some(1) };
    let rows = checked_product(outer.iter().copied())?;
    rows.checked_sub(1)?.checked_mul(row_stride)?.checked_add(columns)
}
