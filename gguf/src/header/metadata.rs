//! Reading the key-value section.

use crate::{
    Array, Metadata, Strings, Value,
    error::{Error, Result},
    limits,
    value::{ARRAY_ID, BOOL_ID, STRING_ID, for_each_number},
};

use super::cursor::{Cursor, Place};

/// Reads `count` keys with their values; gives them and the alignment of tensor data.
pub(super) fn read(cursor: &mut Cursor<'_>, count: u64) -> Result<(Metadata, u64)> {
    let least_bytes = least_entry_bytes(cursor);
    cursor.at(Place::Keys(count)).require(count, least_bytes)?;
    let mut metadata = Metadata::new();
    let mut alignment = limits::DEFAULT_ALIGNMENT;
    for index in 0..count {
        let key_start = cursor.position();
        let key = read_key(cursor, index)?;
        if metadata.contains(key) {
            let (path, key) = (cursor.path().to_owned(), key.to_owned());
            return Err(Error::DuplicateKey { path, key, offset: key_start as u64 });
        }
        let start = cursor.position();
        let value = read_value(cursor.at(Place::Value(key)), key)?;
        if key == limits::ALIGNMENT_KEY {
            alignment = limits::alignment(&value)
                .map_err(|found| cursor.invalid(start, limits::ALIGNMENT_RULE, found))?;
        }
        metadata.set(key, value);
    }
    Ok((metadata, alignment))
}

/// The smallest entry: a key of one byte, a type, a value of one byte.
fn least_entry_bytes(cursor: &Cursor<'_>) -> u64 {
    cursor.length_bytes() + 1 + 4 + 1
}

fn read_key<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<&'a str> {
    let start = cursor.position();
    let key = cursor.at(Place::Key(index)).string()?;
    limits::check_key(key).map_err(|found| cursor.invalid(start, limits::KEY_RULE, found))?;
    Ok(key)
}

macro_rules! value_readers {
    ($($variant:ident $number:ident $id:literal $name:literal;)*) => {
        fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value> {
            let start = cursor.position();
            Ok(match cursor.number::<u32>()? {
                $($id => Value::$variant(cursor.number()?),)*
                BOOL_ID => Value::Bool(cursor.bool()?),
                STRING_ID => Value::String(cursor.string()?.to_owned()),
                ARRAY_ID => Value::Array(read_array(cursor, key)?),
                other => return Err(unknown_type(cursor, start, other)),
            })
        }

        fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array> {
            let start = cursor.position();
            let element_type = cursor.number::<u32>()?;
            let count = cursor.length()?;
            Ok(match element_type {
                $($id => Array::$variant(cursor.numbers(count)?),)*
                BOOL_ID => Array::Bool(read_bools(cursor, count)?),
                STRING_ID => Array::String(read_strings(cursor, count)?),
                ARRAY_ID => {
                    let (path, key) = (cursor.path().to_owned(), key.to_owned());
                    return Err(Error::NestedArray { path, key, offset: start as u64 });
                }
                other => return Err(unknown_type(cursor, start, other)),
            })
        }
    };
}
for_each_number!(value_readers);

fn read_bools(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<bool>> {
    cursor.require(count, 1)?;
    (0..count).map(|_| cursor.bool()).collect()
}

fn read_strings(cursor: &mut Cursor<'_>, count: u64) -> Result<Strings> {
    cursor.require(count, cursor.length_bytes())?;
    let mut strings = Strings::with_capacity(count as usize, 0);
    for _ in 0..count {
        strings.push(cursor.string()?);
    }
    Ok(strings)
}

fn unknown_type(cursor: &Cursor<'_>, start: usize, found: u32) -> Error {
    cursor.invalid(start, "a value type from 0 to 12", found.to_string())
}
