//! The key-value section of a GGUF file.

use indexmap::IndexMap;

use crate::{
    Array, Strings, Value,
    error::{Error, Result},
};

/// Metadata in file order; keys are unique.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: IndexMap<String, Value>,
}

impl Metadata {
    /// No metadata.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether `key` is there.
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// Sets `key`: an existing key is removed and the new one appended, as ggml does.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let key = key.into();
        self.entries.shift_remove(&key);
        self.entries.insert(key, value.into());
    }

    /// Removes `key`; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.entries.shift_remove(key)
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A string; an error that names key, expected and found type where it is absent or another type.
    pub fn string(&self, key: &str) -> Result<&str> {
        match self.require(key)? {
            Value::String(string) => Ok(string),
            other => Err(unexpected_type(key, "a string", other)),
        }
    }

    /// An unsigned count from any integer type that holds one (u8…u64, non-negative i8…i64).
    pub fn count(&self, key: &str) -> Result<u64> {
        let value = self.require(key)?;
        let Some(integer) = value.integer() else {
            return Err(unexpected_type(key, "an integer", value));
        };
        u64::try_from(integer).map_err(|_| Error::KeyValue {
            key: key.to_owned(),
            expected: "an integer of at least 0",
            found: integer.to_string(),
        })
    }

    /// A float (f32 or f64).
    pub fn float(&self, key: &str) -> Result<f64> {
        match self.require(key)? {
            Value::F32(float) => Ok(f64::from(*float)),
            Value::F64(float) => Ok(*float),
            other => Err(unexpected_type(key, "a float", other)),
        }
    }

    /// A bool.
    pub fn bool(&self, key: &str) -> Result<bool> {
        match self.require(key)? {
            Value::Bool(value) => Ok(*value),
            other => Err(unexpected_type(key, "a bool", other)),
        }
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<&Strings> {
        match self.require(key)? {
            Value::Array(Array::String(strings)) => Ok(strings),
            other => Err(unexpected_type(key, "an array of strings", other)),
        }
    }

    /// An array of any element type.
    pub fn array(&self, key: &str) -> Result<&Array> {
        match self.require(key)? {
            Value::Array(array) => Ok(array),
            other => Err(unexpected_type(key, "an array", other)),
        }
    }

    fn require(&self, key: &str) -> Result<&Value> {
        self.get(key).ok_or_else(|| Error::MissingKey { key: key.to_owned() })
    }
}

fn unexpected_type(key: &str, expected: &'static str, found: &Value) -> Error {
    Error::KeyType { key: key.to_owned(), expected, found: found.type_name() }
}

/// Equal keys and values in equal order.
impl PartialEq for Metadata {
    fn eq(&self, other: &Metadata) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Metadata {
        let mut metadata = Metadata::new();
        for (key, value) in entries {
            metadata.set(key, value);
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_moves_an_existing_key_to_the_end() {
        let mut metadata: Metadata = [("a", 1u32), ("b", 2), ("c", 3)].into_iter().collect();
        metadata.set("a", "again");
        let keys: Vec<_> = metadata.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["b", "c", "a"]);
        assert_eq!(metadata.remove("b"), Some(Value::U32(2)));
        assert_eq!(metadata.len(), 2);
    }

    #[test]
    fn a_count_comes_from_any_integer_type() {
        for value in [Value::U8(7), Value::I8(7), Value::U16(7), Value::I16(7), Value::U32(7)] {
            assert_eq!(Metadata::from_iter([("n", value)]).count("n").unwrap(), 7);
        }
        let metadata = Metadata::from_iter([("n", -3i32)]);
        let message = metadata.count("n").unwrap_err().to_string();
        assert_eq!(message, "metadata key \"n\": expected an integer of at least 0, found -3");
    }

    #[test]
    fn errors_name_key_and_types() {
        let metadata = Metadata::from_iter([("general.name", 1u32)]);
        assert_eq!(
            metadata.string("general.name").unwrap_err().to_string(),
            "metadata key \"general.name\": expected a string, found u32"
        );
        assert_eq!(
            metadata.float("rope").unwrap_err().to_string(),
            "metadata key \"rope\" is missing"
        );
    }

    #[test]
    fn order_counts_for_equality() {
        let ab = Metadata::from_iter([("a", 1u32), ("b", 2)]);
        let ba = Metadata::from_iter([("b", 2u32), ("a", 1)]);
        assert_ne!(ab, ba);
    }
}
