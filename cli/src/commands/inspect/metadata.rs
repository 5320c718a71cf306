//! The key-value section, for people and for programs.

use std::fmt;

use llq_gguf::{Array, Metadata, Value};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    escape::Escaped,
    figures::Count,
    table::{Column, Columns},
};

/// Characters of a string, and elements of an array, that a line shows.
const SHOWN_CHARS: usize = 60;
const SHOWN_ELEMENTS: usize = 6;

/// All keys and values: shortened as text, complete as JSON.
pub(in crate::commands) struct MetadataList<'a>(pub(in crate::commands) &'a Metadata);

impl fmt::Display for MetadataList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|(key, value)| {
                vec![Escaped(key).to_string(), value.type_name().to_owned(), shortened(value)]
            })
            .collect();
        let columns = [Column::left("key"), Column::left("type"), Column::left("value")];
        f.write_str(&Columns::new(columns).table(&rows))
    }
}

impl Serialize for MetadataList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.iter().len()))?;
        for (key, value) in self.0.iter() {
            map.serialize_entry(key, &JsonValue(value))?;
        }
        map.end()
    }
}

/// A value with all its elements.
pub(in crate::commands) struct JsonValue<'a>(pub(in crate::commands) &'a Value);

impl Serialize for JsonValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::U8(n) => n.serialize(serializer),
            Value::I8(n) => n.serialize(serializer),
            Value::U16(n) => n.serialize(serializer),
            Value::I16(n) => n.serialize(serializer),
            Value::U32(n) => n.serialize(serializer),
            Value::I32(n) => n.serialize(serializer),
            Value::F32(n) => n.serialize(serializer),
            Value::Bool(truth) => truth.serialize(serializer),
            Value::String(text) => text.serialize(serializer),
            Value::Array(array) => serialize_array(array, serializer),
            Value::U64(n) => n.serialize(serializer),
            Value::I64(n) => n.serialize(serializer),
            Value::F64(n) => n.serialize(serializer),
        }
    }
}

/// Calls the expression with the elements of an array of any type but strings.
macro_rules! with_elements {
    ($array:expr, strings $strings:ident => $of_strings:expr, others $elements:ident => $of_others:expr) => {
        match $array {
            Array::String($strings) => $of_strings,
            Array::U8($elements) => $of_others,
            Array::I8($elements) => $of_others,
            Array::U16($elements) => $of_others,
            Array::I16($elements) => $of_others,
            Array::U32($elements) => $of_others,
            Array::I32($elements) => $of_others,
            Array::F32($elements) => $of_others,
            Array::Bool($elements) => $of_others,
            Array::U64($elements) => $of_others,
            Array::I64($elements) => $of_others,
            Array::F64($elements) => $of_others,
        }
    };
}

fn serialize_array<S: Serializer>(array: &Array, serializer: S) -> Result<S::Ok, S::Error> {
    with_elements!(array,
        strings strings => serializer.collect_seq(strings.iter()),
        others numbers => numbers.serialize(serializer))
}

/// The value in a line; long ones by their beginning.
pub(in crate::commands) fn shortened(value: &Value) -> String {
    match value {
        Value::U8(n) => n.to_string(),
        Value::I8(n) => n.to_string(),
        Value::U16(n) => n.to_string(),
        Value::I16(n) => n.to_string(),
        Value::U32(n) => n.to_string(),
        Value::I32(n) => n.to_string(),
        Value::F32(n) => format!("{n:?}"),
        Value::Bool(truth) => truth.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(array) => shortened_array(array),
        Value::U64(n) => n.to_string(),
        Value::I64(n) => n.to_string(),
        Value::F64(n) => format!("{n:?}"),
    }
}

fn shortened_array(array: &Array) -> String {
    let mut shown: Vec<String> = with_elements!(array,
        strings strings => strings.iter().take(SHOWN_ELEMENTS).map(quoted).collect(),
        others numbers => numbers.iter().take(SHOWN_ELEMENTS).map(|n| format!("{n:?}")).collect());
    let total = array.len();
    if total > shown.len() {
        shown.push(format!("… {} in all", Count(total as u64)));
    }
    format!("[{}]", shown.join(", "))
}

fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    let length = text.chars().count();
    if length <= SHOWN_CHARS {
        return format!("\"{}\"", Escaped(&shown));
    }
    shown.push('…');
    format!("\"{}\" {} characters", Escaped(&shown), Count(length as u64))
}
