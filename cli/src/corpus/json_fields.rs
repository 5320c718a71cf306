//! The text of a document that is a JSON value. Only that text is kept: of what a document has besides,
//! a few bytes of the file would become hundreds in memory.

use std::{collections::BTreeSet, fmt, marker::PhantomData};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What is wrong with a document, and what helps.
pub(super) struct Unusable {
    pub(super) message: String,
    pub(super) hint: Option<&'static str>,
}

const HINT: &str = "--field names the one that holds the text, of an object inside as a.b";

/// Reads a document for the text in `field` of an object, or the text that a document itself is. `a.b`
/// is the field of that name or, where there is none, field `b` of the object `a`.
#[derive(Clone, Copy)]
pub(super) struct Document<'f> {
    pub(super) field: &'f str,
}

/// What is at a place.
enum Found {
    Text(String),
    /// Something else, by what it is called.
    Other(&'static str),
    Nothing,
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = Result<String, Unusable>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(Kinds(self, PhantomData))
    }
}

impl OfKind for Document<'_> {
    type Value = Result<String, Unusable>;

    fn text(self, text: &str) -> Self::Value {
        Ok(text.to_owned())
    }

    fn other(self, kind: &'static str) -> Self::Value {
        let message = format!("{kind} is no document: an object or a text is");
        Err(Unusable { message, hint: None })
    }

    fn object<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut named, mut nested) = (Found::Nothing, Found::Nothing);
        let (first, rest) = self.field.split_once('.').unwrap_or((self.field, ""));
        let mut names = Names::default();
        while let Some(name) = map.next_key::<String>()? {
            if name == self.field {
                named = map.next_value_seed(At { path: None })?;
            } else if name == first {
                nested = map.next_value_seed(At { path: Some(rest) })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            names.add(name);
        }
        let found = if matches!(named, Found::Nothing) { nested } else { named };
        let field = self.field;
        let message = match found {
            Found::Text(text) => return Ok(Ok(text)),
            Found::Other(kind) => format!("field {field:?} is {kind}, expected a text"),
            Found::Nothing => format!("no field {field:?}; there is {names}"),
        };
        Ok(Err(Unusable { message, hint: Some(HINT) }))
    }
}

/// What is at a path of names with dots between; the value itself where there is none.
#[derive(Clone, Copy)]
struct At<'f> {
    path: Option<&'f str>,
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(Kinds(self, PhantomData))
    }
}

impl OfKind for At<'_> {
    type Value = Found;

    fn text(self, text: &str) -> Found {
        if self.path.is_none() { Found::Text(text.to_owned()) } else { Found::Nothing }
    }

    fn other(self, kind: &'static str) -> Found {
        if self.path.is_none() { Found::Other(kind) } else { Found::Nothing }
    }

    fn object<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let Some(path) = self.path else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Found::Other("an object"));
        };
        let (first, rest) = match path.split_once('.') {
            Some((first, rest)) => (first, Some(rest)),
            None => (path, None),
        };
        let mut found = Found::Nothing;
        while let Some(name) = map.next_key::<String>()? {
            if name == first {
                found = map.next_value_seed(At { path: rest })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// What becomes of a value of each kind.
trait OfKind {
    type Value;

    fn text(self, text: &str) -> Self::Value;
    fn other(self, kind: &'static str) -> Self::Value;
    fn object<'de, A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error>;
}

struct Kinds<T>(T, PhantomData<T>);

impl<'de, T: OfKind> Visitor<'de> for Kinds<T> {
    type Value = T::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<T::Value, E> {
        Ok(self.0.other("null"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<T::Value, E> {
        Ok(self.0.other("a truth value"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<T::Value, E> {
        Ok(self.0.other("a number"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<T::Value, E> {
        Ok(self.0.other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<T::Value, E> {
        Ok(self.0.other("a number"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T::Value, E> {
        Ok(self.0.text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<T::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.0.other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T::Value, A::Error> {
        self.0.object(map)
    }
}

/// The first names of an object's fields in the order of the alphabet.
#[derive(Default)]
struct Names {
    first: BTreeSet<String>,
    more: bool,
}

impl Names {
    fn add(&mut self, name: String) {
        const SHOWN: usize = 8;
        self.first.insert(name);
        if self.first.len() > SHOWN {
            self.first.pop_last();
            self.more = true;
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.first.iter().map(|name| format!("{name:?}")).collect();
        match (names.is_empty(), self.more) {
            (true, _) => f.write_str("none"),
            (false, false) => f.write_str(&names.join(", ")),
            (false, true) => write!(f, "{}, …", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn text(document: Json, field: &str) -> Result<String, String> {
        Document { field }.deserialize(document).unwrap().map_err(|wrong| wrong.message)
    }

    #[test]
    fn fields_are_found_by_name_or_path() {
        let document = json!({ "text": "plain", "a.b": "dotted", "a": { "b": "inside", "c": 1 } });
        let found = |field: &str| text(document.clone(), field);
        assert_eq!(found("text").as_deref(), Ok("plain"));
        assert_eq!(found("a.b").as_deref(), Ok("dotted"));
        assert_eq!(text(json!({ "a": { "b": "inside" } }), "a.b").as_deref(), Ok("inside"));
        assert_eq!(text(json!({ "a": { "b": { "c": "x" } } }), "a.b.c").as_deref(), Ok("x"));
        assert_eq!(found("a.c"), Err("field \"a.c\" is a number, expected a text".to_owned()));
        assert_eq!(found("a"), Err("field \"a\" is an object, expected a text".to_owned()));
        let missing = "no field \"b\"; there is \"a\", \"a.b\", \"text\"";
        assert_eq!(found("b"), Err(missing.to_owned()));
        assert!(found("text.b").unwrap_err().starts_with("no field \"text.b\""));
        let many: Json = (0..20).map(|i| (format!("{i:02}"), Json::Null)).collect();
        let said = text(many, "x").unwrap_err();
        assert!(said.ends_with(r#""06", "07", …"#), "{said}");
        assert_eq!(text(json!("itself"), "text").as_deref(), Ok("itself"));
        assert!(text(json!([]), "text").is_err());
        assert!(text(json!({}), "").is_err());
    }
}
