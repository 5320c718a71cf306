//! JSON values as metadata values of a given type.

use llq_gguf::{Array, Strings, Value};
use serde_json::Value as Json;

/// `json` as the type that [`Value::type_name`] calls `type_name`. `None` where it is none of that
/// type, or there is no such type.
pub(crate) fn typed(json: &Json, type_name: &str) -> Option<Value> {
    if let Some(of) = type_name.strip_prefix("array of ") {
        return array(json.as_array()?, of).map(Value::Array);
    }
    Some(match type_name {
        "u8" => Value::U8(integer(json)?),
        "i8" => Value::I8(integer(json)?),
        "u16" => Value::U16(integer(json)?),
        "i16" => Value::I16(integer(json)?),
        "u32" => Value::U32(integer(json)?),
        "i32" => Value::I32(integer(json)?),
        "u64" => Value::U64(integer(json)?),
        "i64" => Value::I64(integer(json)?),
        "f32" => Value::F32(float(json)?),
        "f64" => Value::F64(json.as_f64()?),
        "bool" => Value::Bool(json.as_bool()?),
        "string" => Value::String(json.as_str()?.to_owned()),
        _ => return None,
    })
}

fn array(items: &[Json], of: &str) -> Option<Array> {
    Some(match of {
        "u8" => Array::U8(all(items, integer)?),
        "i8" => Array::I8(all(items, integer)?),
        "u16" => Array::U16(all(items, integer)?),
        "i16" => Array::I16(all(items, integer)?),
        "u32" => Array::U32(all(items, integer)?),
        "i32" => Array::I32(all(items, integer)?),
        "u64" => Array::U64(all(items, integer)?),
        "i64" => Array::I64(all(items, integer)?),
        "f32" => Array::F32(all(items, float)?),
        "f64" => Array::F64(all(items, Json::as_f64)?),
        "bool" => Array::Bool(all(items, Json::as_bool)?),
        "string" => Array::String(Strings::from_iter(all(items, Json::as_str)?)),
        _ => return None,
    })
}

fn all<'j, T>(items: &'j [Json], one: impl Fn(&'j Json) -> Option<T>) -> Option<Vec<T>> {
    items.iter().map(one).collect()
}

fn integer<T: TryFrom<i128>>(json: &Json) -> Option<T> {
    let number = json.as_i64().map(i128::from).or(json.as_u64().map(i128::from))?;
    T::try_from(number).ok()
}

/// A number that f32 has room for.
fn float(json: &Json) -> Option<f32> {
    let float = json.as_f64()? as f32;
    float.is_finite().then_some(float)
}
