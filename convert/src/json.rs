//! JSON files of a checkpoint, read by key, with errors that name file and key.

mod bounded;
mod typed;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

pub(crate) use self::{
    bounded::{bounded, bounded_object},
    typed::typed,
};
use crate::{Error, error::Result, weights::InputFile};

/// A file that holds one JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonFile {
    path: PathBuf,
    object: Map<String, Json>,
}

/// Size limit in bytes: tokenizer settings with thousands of added tokens have about one million.
const MAX_JSON: u64 = 16 << 20;

/// Limit in bytes of what its values take in memory: fifty thousand added tokens take as much.
const MAX_VALUES: usize = 64 << 20;

impl JsonFile {
    pub(crate) fn open(path: &Path) -> Result<JsonFile> {
        let bytes = InputFile::read_small(path, MAX_JSON)?;
        let json = |source| Error::Json { path: path.to_path_buf(), source };
        let object = bounded_object(&bytes, MAX_VALUES).map_err(json)?;
        Ok(JsonFile { path: path.to_path_buf(), object })
    }

    /// An empty object, for errors about what `origin` gave.
    pub(crate) fn none(origin: &str) -> JsonFile {
        JsonFile { path: PathBuf::from(origin), object: Map::new() }
    }

    /// `None` where there is no such file.
    pub(crate) fn open_optional(path: &Path) -> Result<Option<JsonFile>> {
        if path.exists() { Self::open(path).map(Some) } else { Ok(None) }
    }

    /// The object under `key` in place of the whole, where there is one.
    pub(crate) fn nested_under(mut self, key: &str) -> JsonFile {
        if let Some(Json::Object(inner)) = self.object.get_mut(key) {
            self.object = std::mem::take(inner);
        }
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&String, &Json)> {
        self.object.iter()
    }

    /// The value of `key`; `null` counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Json> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn count(&self, key: &str) -> Result<u32> {
        self.optional_count(key)?.ok_or_else(|| self.absent(key, COUNT))
    }

    pub(crate) fn optional_count(&self, key: &str) -> Result<Option<u32>> {
        let count = |value: &Json| value.as_u64().and_then(|count| u32::try_from(count).ok());
        self.optional(key, COUNT, count)
    }

    pub(crate) fn float(&self, key: &str) -> Result<f32> {
        self.optional_float(key)?.ok_or_else(|| self.absent(key, FLOAT))
    }

    pub(crate) fn optional_float(&self, key: &str) -> Result<Option<f32>> {
        let float = |value: &Json| value.as_f64().map(|float| float as f32);
        self.optional(key, FLOAT, |value| float(value).filter(|float| float.is_finite()))
    }

    pub(crate) fn optional_bool(&self, key: &str) -> Result<Option<bool>> {
        self.optional(key, "true or false", Json::as_bool)
    }

    pub(crate) fn optional_object(&self, key: &str) -> Result<Option<&Map<String, Json>>> {
        self.get(key)
            .map(|value| {
                let found = || self.error(key, "an object", value.to_string());
                value.as_object().ok_or_else(found)
            })
            .transpose()
    }

    /// The object under `key` as a file of its own.
    pub(crate) fn optional_part(&self, key: &str) -> Result<Option<JsonFile>> {
        let object = self.optional_object(key)?.cloned();
        Ok(object.map(|object| JsonFile { path: self.path.clone(), object }))
    }

    fn optional<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl Fn(&Json) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let parsed = parse(value).ok_or_else(|| self.error(key, expected, value.to_string()));
        parsed.map(Some)
    }

    fn absent(&self, key: &str, expected: &str) -> Error {
        self.error(key, expected, "absent".to_owned())
    }

    /// The error that `key` is not as `expected`.
    pub(crate) fn error(&self, key: &str, expected: &str, found: String) -> Error {
        const LONGEST: usize = 80;
        let found = match found.char_indices().nth(LONGEST) {
            Some((cut, _)) => format!("{}…", &found[..cut]),
            None => found,
        };
        let (path, key, expected) = (self.path.clone(), key.to_owned(), expected.to_owned());
        Error::Key { path, key, expected, found }
    }

    /// The error that the value of `key` asks for what llq does not do.
    pub(crate) fn unsupported(&self, key: &str, found: String, supported: &str) -> Error {
        let (path, key, supported) = (self.path.clone(), key.to_owned(), supported.to_owned());
        Error::Unsupported { path, key, found, supported }
    }
}

const COUNT: &str = "a whole number below 2^32";
const FLOAT: &str = "a number that f32 has room for";
