//! What GGUF allows, for reader and writer alike.
//!
//! Source: the GGUF specification (ggml, `docs/gguf.md`) and, where that leaves room, what
//! llama.cpp's loader accepts.

use crate::{TensorType, Value};

/// Alignment of tensor data in a file that does not state one, in bytes.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;

/// The key that states another.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// Beyond a huge page no alignment serves anything but filling disks.
const LARGEST_ALIGNMENT: u32 = 2 << 20;

/// What [`alignment`] demands.
pub(crate) const ALIGNMENT_RULE: &str = "a power of two from 8 to 2097152 as u32";

/// What [`check_key`] demands.
pub(crate) const KEY_RULE: &str = "1 to 65535 bytes without nul";

/// Longest tensor name that a file may hold, in bytes.
pub(crate) const LONGEST_TENSOR_NAME: usize = 64;

/// Most dimensions of a tensor.
pub(crate) const MOST_DIMENSIONS: usize = 4;

/// The alignment that a value of [`ALIGNMENT_KEY`] states, or what is wrong with it.
pub(crate) fn alignment(value: &Value) -> Result<u64, String> {
    match *value {
        Value::U32(n) if n.is_power_of_two() && (8..=LARGEST_ALIGNMENT).contains(&n) => {
            Ok(u64::from(n))
        }
        Value::U32(n) => Err(n.to_string()),
        _ => Err(value.type_name().to_owned()),
    }
}

/// Checks a metadata key, or says what is wrong with it.
pub(crate) fn check_key(key: &str) -> Result<(), String> {
    match key.len() {
        0 => Err("an empty key".to_owned()),
        1..=65535 if key.contains('\0') => Err("a nul".to_owned()),
        1..=65535 => Ok(()),
        length => Err(format!("{length} bytes")),
    }
}

/// Checks a tensor's name, or says what is wrong with it. A nul would make two names one for
/// loaders written in C.
pub(crate) fn check_tensor_name(name: &str, longest: usize) -> Result<(), String> {
    match name.len() {
        0 => Err("an empty name".to_owned()),
        length if length > longest => Err(format!("{length} bytes")),
        _ if name.contains('\0') => Err("a nul".to_owned()),
        _ => Ok(()),
    }
}

/// Why a tensor of some shape and type cannot be.
pub(crate) struct BadShape {
    pub(crate) expected: String,
    pub(crate) found: String,
}

/// Bytes of a tensor: one to four extents, none of them 0, rows of whole blocks, and neither
/// weights nor bytes beyond `i64::MAX`.
pub(crate) fn tensor_bytes(shape: &[u64], tensor_type: TensorType) -> Result<u64, BadShape> {
    if !(1..=MOST_DIMENSIONS).contains(&shape.len()) {
        return Err(BadShape {
            expected: format!("1 to {MOST_DIMENSIONS} dimensions"),
            found: shape.len().to_string(),
        });
    }
    if shape.contains(&0) {
        let expected = "extents of at least 1".to_owned();
        return Err(BadShape { expected, found: format!("{shape:?}") });
    }
    let too_large = || BadShape {
        expected: format!("at most {} weights and bytes", i64::MAX),
        found: format!("{shape:?}"),
    };
    let fits = |n: &u64| i64::try_from(*n).is_ok();
    product(shape).filter(fits).ok_or_else(too_large)?;
    let cols = shape[0];
    if !cols.is_multiple_of(tensor_type.block_weights() as u64) {
        return Err(BadShape {
            expected: format!(
                "rows of whole {tensor_type} blocks of {}",
                tensor_type.block_weights()
            ),
            found: format!("{cols} columns"),
        });
    }
    let row_bytes = tensor_type.row_bytes(cols).ok_or_else(too_large)?;
    let rows = product(&shape[1..]).ok_or_else(too_large)?;
    row_bytes.checked_mul(rows).filter(fits).ok_or_else(too_large)
}

fn product(extents: &[u64]) -> Option<u64> {
    extents.iter().try_fold(1u64, |product, &extent| product.checked_mul(extent))
}

/// Where a tensor of `bytes` at `offset` ends with its padding, and the next one starts.
pub(crate) fn padded_end(offset: u64, bytes: u64, alignment: u64) -> Option<u64> {
    offset.checked_add(bytes)?.checked_next_multiple_of(alignment)
}
