//! Metadata that the user sets, in place of what a source has or beside it.

use std::path::Path;

use llq_gguf::{Metadata, Value};
use serde_json::{Map, Value as Json};

use crate::{
    error::Result,
    json::{JsonFile, typed},
    readers::general::{
        SAMPLING,
        authorship::{PARENT_TEXTS, Parent, TEXTS, parent_keys, parent_of_id, plain},
    },
};

/// Keys and values that replace a source's, from a JSON object, single changes and a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    file: Option<JsonFile>,
    changes: Vec<Change>,
    name: Option<String>,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// A text, or JSON where the key's type is another.
    Set {
        key: String,
        value: String,
    },
    Remove {
        key: String,
    },
    Rename {
        from: String,
        to: String,
    },
}

/// What llq decides, or cannot change without changing what the weights mean.
const DECIDED: &[&str] = &[
    "general.architecture",
    "general.type",
    "general.file_type",
    "general.quantization_version",
    "general.alignment",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
];

/// Known keys outside `general.*` and their types.
const TOKENIZER: &[(&str, &str)] = &[
    ("tokenizer.ggml.model", "string"),
    ("tokenizer.ggml.pre", "string"),
    ("tokenizer.ggml.add_bos_token", "bool"),
    ("tokenizer.ggml.add_eos_token", "bool"),
    ("tokenizer.ggml.add_sep_token", "bool"),
    ("tokenizer.ggml.add_space_prefix", "bool"),
    ("tokenizer.chat_template", "string"),
];

const BASE_MODELS: &str = "general.base_models";
const DATASETS: &str = "general.datasets";

impl Overrides {
    /// Reads a JSON object. Its keys are GGUF's, or those of `general.*` without that; `null`
    /// removes a key; `general.base_models` and `general.datasets` are lists of ids or objects.
    ///
    /// A value gets the type that its key is known to have or has in the source. Of other keys,
    /// texts, truth values and fractions (f32) are taken as they are; whole numbers say their type:
    /// `{"u32": 7}`.
    pub fn read(path: &Path) -> Result<Overrides> {
        Ok(Overrides { file: Some(JsonFile::open(path)?), ..Overrides::default() })
    }

    /// Sets one key after those of the file: to the text itself where the key is known to be one or is
    /// one in the source, otherwise to what it means as JSON, and to the text where that is nothing.
    /// A type may stand before: `u32:7`.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.changes.push(Change::Set { key: key.into(), value: value.into() });
    }

    /// Removes a key that the source has.
    pub fn remove(&mut self, key: impl Into<String>) {
        self.changes.push(Change::Remove { key: key.into() });
    }

    /// Gives a value that the source has another key.
    pub fn rename(&mut self, from: impl Into<String>, to: impl Into<String>) {
        self.changes.push(Change::Rename { from: from.into(), to: to.into() });
    }

    /// Sets the model's name, whatever the file says.
    pub fn with_name(self, name: Option<String>) -> Overrides {
        Overrides { name, ..self }
    }

    /// Whether nothing is overridden.
    pub(crate) fn is_empty(&self) -> bool {
        self.file.is_none() && self.changes.is_empty() && self.name.is_none()
    }

    /// `metadata` with the changes. A replaced key keeps its place; a new one of `general.*` gets
    /// the place that it has in files of llama.cpp's converter, others the end.
    pub(crate) fn apply(&self, metadata: &Metadata) -> Result<Metadata> {
        let copy = metadata.iter().map(|(key, value)| (key.to_owned(), value.clone()));
        let mut entries: Vec<(String, Value)> = copy.collect();
        if let Some(file) = &self.file {
            for (key, json) in file.entries() {
                change(&mut entries, file, key, json)?;
            }
        }
        for single in &self.changes {
            single.apply(&mut entries)?;
        }
        if let Some(name) = &self.name {
            set(&mut entries, "general.name".to_owned(), Value::from(name.as_str()));
        }
        Ok(entries.into_iter().collect())
    }
}

impl Change {
    fn apply(&self, entries: &mut Vec<(String, Value)>) -> Result<()> {
        match self {
            Change::Set { key, value } => {
                let known = type_of(entries, &full_key(key));
                change(entries, &JsonFile::none("--set"), key, &json_of(value, known))
            }
            Change::Remove { key } => {
                let origin = JsonFile::none("--delete");
                require(entries, &origin, key)?;
                change(entries, &origin, key, &Json::Null)
            }
            Change::Rename { from, to } => {
                let origin = JsonFile::none("--rename");
                let place = require(entries, &origin, from)?;
                for key in [from, to] {
                    refuse_decided(&origin, key)?;
                }
                if is_needed(from) {
                    return Err(origin.error(from, NEEDED, format!("it as {to:?}")));
                }
                if entries.iter().any(|(present, _)| present == to) {
                    return Err(origin.error(to, "a key that is not there", "there".to_owned()));
                }
                entries[place].0.clone_from(to);
                Ok(())
            }
        }
    }
}

/// The place of a key that must be there.
fn require(entries: &[(String, Value)], origin: &JsonFile, key: &str) -> Result<usize> {
    let full = full_key(key);
    let place = entries.iter().position(|(present, _)| *present == full);
    place.ok_or_else(|| origin.error(key, "a key of the model", "absent".to_owned()))
}

/// What a value given as text is in JSON, for a key of this type.
fn json_of(value: &str, known: Option<&str>) -> Json {
    if known == Some("string") {
        return Json::from(value);
    }
    let tagged = value.split_once(':').filter(|(tag, _)| is_type_name(tag));
    let (tag, value) = tagged.map_or((None, value), |(tag, value)| (Some(tag), value));
    let json = match tag {
        Some("string") => Json::from(value),
        _ => serde_json::from_str(value).unwrap_or_else(|_| Json::from(value)),
    };
    match (tag, known) {
        (Some(tag), None) => Json::Object(Map::from_iter([(tag.to_owned(), json)])),
        _ => json,
    }
}

fn is_type_name(name: &str) -> bool {
    const NAMES: &[&str] =
        &["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bool", "string"];
    NAMES.contains(&name)
}

fn refuse_decided(file: &JsonFile, given: &str) -> Result<()> {
    let key = full_key(given);
    if DECIDED.contains(&key.as_str()) || key.starts_with("split.") {
        return Err(file.error(given, "absent, as llq decides it", "here".to_owned()));
    }
    Ok(())
}

/// The type that a key is known to have or has.
fn type_of(entries: &[(String, Value)], key: &str) -> Option<&'static str> {
    let present = entries.iter().find(|(present, _)| present == key);
    known_type(key).or(present.map(|(_, value)| value.type_name()))
}

fn change(
    entries: &mut Vec<(String, Value)>,
    file: &JsonFile,
    given: &str,
    json: &Json,
) -> Result<()> {
    let key = full_key(given);
    refuse_decided(file, given)?;
    if !key.contains('.') {
        let expected = "one of general.*, or a whole key, such as llama.context_length";
        return Err(file.error(given, expected, "not known".to_owned()));
    }
    let parents = [(BASE_MODELS, "base_model"), (DATASETS, "dataset")];
    if let Some((_, kind)) = parents.into_iter().find(|(list, _)| *list == key) {
        let parents = parents_of(json).ok_or_else(|| {
            let expected = "a list of ids owner/name, or of objects with texts";
            file.error(given, expected, json.to_string())
        })?;
        let start = format!("general.{kind}.");
        entries.retain(|(key, _)| !key.starts_with(&start));
        parent_keys(kind, &parents).into_iter().for_each(|(key, value)| set(entries, key, value));
    } else if json.is_null() && is_needed(&key) {
        return Err(file.error(given, NEEDED, json.to_string()));
    } else if json.is_null() {
        entries.retain(|(present, _)| *present != key);
    } else {
        let value = match type_of(entries, &key) {
            Some(known) => typed(json, known)
                .ok_or_else(|| file.error(given, &format!("of type {known}"), json.to_string())),
            None => inferred(json).ok_or_else(|| {
                let expected = "a text, a truth value, a fraction, a list of one of these, or an \
                                object that says the type, such as {\"u32\": 7}";
                file.error(given, expected, json.to_string())
            }),
        }?;
        set(entries, key, value);
    }
    Ok(())
}

const NEEDED: &str = "a value, as no loader does without";

/// Whether llama.cpp refuses a model without this key.
fn is_needed(key: &str) -> bool {
    const NEEDED: &[&str] = &[
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ];
    let hyperparameter = key.split_once('.').map_or("", |(_, name)| name);
    key == "tokenizer.ggml.model" || NEEDED.contains(&hyperparameter)
}

/// `name` stands for `general.name`; what has no such meaning is a key as it is.
fn full_key(key: &str) -> String {
    let general = format!("general.{key}");
    let is_list = [BASE_MODELS, DATASETS].contains(&general.as_str());
    let is_known = is_list || DECIDED.contains(&general.as_str()) || known_type(&general).is_some();
    if is_known { general } else { key.to_owned() }
}

fn known_type(key: &str) -> Option<&'static str> {
    let Some(general) = key.strip_prefix("general.") else {
        let known = TOKENIZER.iter().find(|(known, _)| *known == key);
        let is_id = key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id");
        return known.map(|&(_, type_name)| type_name).or(is_id.then_some("u32"));
    };
    if TEXTS.contains(&general) {
        return Some("string");
    }
    if let Some(sampling) = general.strip_prefix("sampling.") {
        let known = SAMPLING.iter().find(|(_, key, _)| *key == sampling);
        return known.map(|&(_, _, type_name)| type_name);
    }
    if ["tags", "languages"].contains(&general) {
        return Some("array of string");
    }
    let parent = general.strip_prefix("base_model.").or(general.strip_prefix("dataset."))?;
    match parent.split_once('.') {
        None => (parent == "count").then_some("u32"),
        Some((index, text)) => {
            let is_known = index.parse::<u32>().is_ok() && PARENT_TEXTS.contains(&text);
            is_known.then_some("string")
        }
    }
}

/// The value of a key that nothing is known of, where there is no doubt of its type.
fn inferred(json: &Json) -> Option<Value> {
    match json {
        Json::Array(items) if items.is_empty() => None,
        Json::Array(items) if items.iter().all(is_whole) => None,
        Json::Array(_) => ["array of string", "array of bool", "array of f32"]
            .iter()
            .find_map(|type_name| typed(json, type_name)),
        Json::Object(object) => {
            let mut entries = object.iter();
            let (type_name, value) = entries.next()?;
            if entries.next().is_some() { None } else { typed(value, type_name) }
        }
        whole if is_whole(whole) => None,
        json => ["string", "bool", "f32"].iter().find_map(|type_name| typed(json, type_name)),
    }
}

fn is_whole(json: &Json) -> bool {
    json.is_i64() || json.is_u64()
}

/// Base models or data sets; `null` for none.
fn parents_of(json: &Json) -> Option<Vec<Parent>> {
    match json {
        Json::Null => Some(Vec::new()),
        Json::Array(items) => items.iter().map(parent_of).collect(),
        _ => None,
    }
}

fn parent_of(json: &Json) -> Option<Parent> {
    match json {
        Json::String(id) => Some(parent_of_id(id, 0.0)).filter(|parent| !parent.is_empty()),
        Json::Object(object) => parent_of_object(object),
        _ => None,
    }
}

fn parent_of_object(object: &Map<String, Json>) -> Option<Parent> {
    let text = |(key, value): (&String, &Json)| {
        let key = PARENT_TEXTS.iter().find(|known| *known == key)?;
        Some((*key, plain(value.as_str()?)?))
    };
    object.iter().map(text).collect()
}

fn set(entries: &mut Vec<(String, Value)>, key: String, value: Value) {
    if let Some((_, present)) = entries.iter_mut().find(|(present, _)| *present == key) {
        *present = value;
        return;
    }
    let place = place(&key).and_then(|own| {
        entries.iter().position(|(other, _)| place(other).is_none_or(|other| other > own))
    });
    entries.insert(place.unwrap_or(entries.len()), (key, value));
}

/// The place of a key among those of `general.*` that stand first in a file.
fn place(key: &str) -> Option<(usize, usize)> {
    let general = key.strip_prefix("general.")?;
    let order = |keys: &[&str]| keys.iter().position(|known| *known == general);
    if let Some(first) = order(&["architecture", "type"]) {
        return Some((0, first));
    }
    if let Some(sampling) = general.strip_prefix("sampling.") {
        return SAMPLING.iter().position(|(_, key, _)| *key == sampling).map(|at| (1, at));
    }
    if let Some(text) = order(TEXTS) {
        return Some((2, text));
    }
    let parents = [("base_model.", 3), ("dataset.", 4)];
    if let Some((_, rank)) = parents.into_iter().find(|(start, _)| general.starts_with(start)) {
        return Some((rank, 0));
    }
    order(&["tags", "languages"]).map(|at| (5, at))
}
