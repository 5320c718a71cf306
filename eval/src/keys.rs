//! Metadata keys that may be absent, and values that have to lie in a range.

use std::fmt::Display;

use llq_gguf::Metadata;

use crate::{Error, error::Result};

/// The value of `key` as `read` gives it; `None` where the key is absent, an error where it has
/// another type.
pub(crate) fn optional<'m, T>(
    metadata: &'m Metadata,
    key: &str,
    read: fn(&'m Metadata, &str) -> std::result::Result<T, llq_gguf::Error>,
) -> Result<Option<T>> {
    match metadata.get(key) {
        Some(_) => Ok(Some(read(metadata, key)?)),
        None => Ok(None),
    }
}

/// The error of a key whose value can't be used.
pub(crate) fn unusable(key: &str, expected: impl Display, found: impl Display) -> Error {
    Error::Key { key: key.to_owned(), expected: expected.to_string(), found: found.to_string() }
}
