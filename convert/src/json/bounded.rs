//! JSON values in no more memory than a file of settings has a use for: an empty list takes three
//! bytes of a file, and a small object six hundred bytes of memory.

use std::cell::Cell;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value as Json};

/// The value that `bytes` spell, which takes at most about `most` bytes of memory.
pub(crate) fn bounded(bytes: &[u8], most: usize) -> serde_json::Result<Json> {
    let left = Cell::new(most);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Bounded { left: &left }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// The same of an object; anything else is an error.
pub(crate) fn bounded_object(bytes: &[u8], most: usize) -> serde_json::Result<Map<String, Json>> {
    let left = Cell::new(most);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let object = deserializer.deserialize_map(Object(Bounded { left: &left }))?;
    deserializer.end()?;
    Ok(object)
}

/// A value whose memory is taken from what is left.
#[derive(Clone, Copy)]
struct Bounded<'b> {
    left: &'b Cell<usize>,
}

/// A place in a list; lists grow by doubling.
const ITEM: usize = 2 * size_of::<Json>();

/// The node of a tree for an object's first entries, and for each few more of them.
const NODE: usize = 640;

/// Entries that surely fill more than one node where there is more than one.
const NODE_ENTRIES: usize = 5;

/// What the system adds to each text.
const TEXT: usize = 32;

impl Bounded<'_> {
    fn spend<E: Error>(&self, bytes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(bytes);
        self.left.set(left.ok_or_else(|| E::custom("more values than settings have"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        self.spend(TEXT + text.len())?;
        Ok(Json::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self)? {
            self.spend(ITEM)?;
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Json, A::Error> {
        Object(self).visit_map(map).map(Json::Object)
    }
}

/// An object whose memory is taken from what is left.
struct Object<'b>(Bounded<'b>);

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Map<String, Json>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let node = if entries.len().is_multiple_of(NODE_ENTRIES) { NODE } else { 0 };
            self.0.spend(node + TEXT + key.len())?;
            let value = map.next_value_seed(self.0)?;
            entries.insert(key, value);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_parser() {
        let text = r#"{"a": [1, -2, 1.5, true, null, "x", {}], "b": {"c": "\u001b"}, "b": 1e300}"#;
        let expected: Json = serde_json::from_str(text).unwrap();
        assert_eq!(bounded(text.as_bytes(), 1 << 20).unwrap(), expected);
        for text in ["", "{", "[1,]", "1 1", "NaN", "1e999"] {
            let expected = serde_json::from_str::<Json>(text).unwrap_err().to_string();
            assert_eq!(bounded(text.as_bytes(), 1 << 20).unwrap_err().to_string(), expected);
        }
        for text in ["{\"a\": {}}", "[]", "null", "{} {}"] {
            let expected = serde_json::from_str::<Map<String, Json>>(text);
            let found = bounded_object(text.as_bytes(), 1 << 20);
            assert_eq!(found.map_err(|e| e.to_string()), expected.map_err(|e| e.to_string()));
        }
    }

    #[test]
    fn what_takes_too_much_is_refused_where_it_does() {
        let most = 1 << 20;
        for unit in ["0,", "[],", "\"\",", "{\"\":0},", "{\"\":{\"\":0}},"] {
            let of = |count: usize| format!("[{}0]", unit.repeat(count));
            bounded(of(100).as_bytes(), most).unwrap();
            let error = bounded(of(100_000).as_bytes(), most).unwrap_err();
            assert!(error.to_string().contains("more values than settings have"), "{error}");
            assert!(error.column() > 100 && error.column() < 100_000, "{unit}: {error}");
        }
    }
}
