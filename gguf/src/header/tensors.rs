//! Reading the tensor section, and checking that the data section keeps what it promises.

use std::collections::HashSet;

use crate::{
    TensorInfo, TensorType,
    error::{Error, Result},
    limits::{self, LONGEST_TENSOR_NAME, MOST_DIMENSIONS},
};

use super::cursor::{Cursor, Place};

/// Reads `count` tensor infos. Each tensor must start where the one before it ends, aligned: this
/// is llama.cpp's rule, and it leaves room neither for overlaps nor for holes.
pub(super) fn read(cursor: &mut Cursor<'_>, count: u64, alignment: u64) -> Result<Vec<TensorInfo>> {
    let least_bytes = least_info_bytes(cursor);
    cursor.at(Place::TensorInfos(count)).require(count, least_bytes)?;
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    let mut end = 0;
    for index in 0..count {
        let name = read_name(cursor, index)?;
        if !names.insert(name) {
            let (path, tensor) = (cursor.path().to_owned(), name.to_owned());
            return Err(Error::DuplicateTensor { first: path.clone(), path, tensor });
        }
        let (shape, tensor_type, bytes) = read_shape_and_type(cursor, name)?;
        let offset = read_offset(cursor, name, end)?;
        end = limits::padded_end(offset, bytes, alignment)
            .ok_or_else(|| data_beyond_file(cursor, name, offset, bytes))?;
        tensors.push(TensorInfo {
            name: name.to_owned(),
            shape,
            tensor_type,
            offset,
            bytes,
            shard: 0,
        });
    }
    Ok(tensors)
}

/// The smallest tensor info: a name of one byte, one dimension, a type, an offset.
fn least_info_bytes(cursor: &Cursor<'_>) -> u64 {
    cursor.length_bytes() + 1 + 4 + cursor.length_bytes() + 4 + 8
}

fn read_name<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<&'a str> {
    let start = cursor.position();
    let name = cursor.at(Place::TensorName(index)).string()?;
    limits::check_tensor_name(name, LONGEST_TENSOR_NAME).map_err(|found| {
        let expected = format!("1 to {LONGEST_TENSOR_NAME} bytes without nul");
        cursor.invalid(start, expected, found)
    })?;
    Ok(name)
}

fn read_shape_and_type<'a>(
    cursor: &mut Cursor<'a>,
    name: &'a str,
) -> Result<(Vec<u64>, TensorType, u64)> {
    let start = cursor.position();
    let dimensions = cursor.at(Place::TensorShape(name)).number::<u32>()?;
    if !(1..=MOST_DIMENSIONS as u32).contains(&dimensions) {
        let expected = format!("1 to {MOST_DIMENSIONS} dimensions");
        return Err(cursor.invalid(start, expected, dimensions.to_string()));
    }
    let shape = (0..dimensions).map(|_| cursor.length()).collect::<Result<Vec<u64>>>()?;
    let id = cursor.at(Place::TensorType(name)).number()?;
    let tensor_type = TensorType::from_id(id).map_err(|source| {
        let (path, tensor) = (cursor.path().to_owned(), name.to_owned());
        Error::TensorType { path, tensor, source }
    })?;
    let bytes = limits::tensor_bytes(&shape, tensor_type).map_err(|bad| {
        cursor.at(Place::TensorShape(name)).invalid(start, bad.expected, bad.found)
    })?;
    Ok((shape, tensor_type, bytes))
}

fn read_offset<'a>(cursor: &mut Cursor<'a>, name: &'a str, expected: u64) -> Result<u64> {
    let start = cursor.position();
    let offset = cursor.at(Place::TensorOffset(name)).number::<u64>()?;
    if offset != expected {
        let expected = match expected {
            0 => "0".to_owned(),
            end => format!("{end}, the aligned end of the tensor before it"),
        };
        return Err(cursor.invalid(start, expected, offset.to_string()));
    }
    Ok(offset)
}

/// Checks that all tensors lie inside the file and that nothing but padding follows the last;
/// gives the start of the data section.
pub(super) fn check_data(
    cursor: &Cursor<'_>,
    tensors: &[TensorInfo],
    alignment: u64,
) -> Result<u64> {
    let header_end = cursor.position() as u64;
    let data_start = header_end.next_multiple_of(alignment);
    let file_end = cursor.file_bytes();
    for tensor in tensors {
        let end = data_start.checked_add(tensor.offset).and_then(|s| s.checked_add(tensor.bytes));
        if end.is_none_or(|end| end > file_end) {
            let start = data_start.saturating_add(tensor.offset);
            return Err(data_beyond_file(cursor, &tensor.name, start, tensor.bytes));
        }
    }
    let model_end = match tensors.last() {
        None => data_start,
        Some(last) => (data_start + last.offset + last.bytes).next_multiple_of(alignment),
    };
    if file_end > model_end {
        return Err(trailing_data(cursor, model_end));
    }
    Ok(data_start)
}

fn data_beyond_file(cursor: &Cursor<'_>, name: &str, start: u64, bytes: u64) -> Error {
    Error::Truncated {
        path: cursor.path().to_owned(),
        what: Place::TensorData(name).to_string(),
        offset: start,
        needed: bytes,
        left: cursor.file_bytes().saturating_sub(start),
    }
}

fn trailing_data(cursor: &Cursor<'_>, model_end: u64) -> Error {
    /// The record at the end of every zip archive, its comment aside.
    const ZIP_END: (&[u8], usize) = (b"PK\x05\x06", 22);
    let trailing = cursor.from(model_end);
    let tail = &trailing[trailing.len().saturating_sub(ZIP_END.1 + usize::from(u16::MAX))..];
    Error::TrailingData {
        path: cursor.path().to_owned(),
        offset: model_end,
        bytes: cursor.file_bytes() - model_end,
        zip: tail.windows(ZIP_END.0.len()).any(|window| window == ZIP_END.0),
    }
}
