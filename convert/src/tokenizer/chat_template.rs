//! Chat templates, from all the places where Hugging Face keeps them.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::{Error, error::Result, json::JsonFile, weights::InputFile};

/// Size limit of a template in a file of its own, in bytes.
const MAX_TEMPLATE: u64 = 1 << 20;

/// Templates are copied, never rendered: they are programs.
pub(super) fn chat_templates(
    folder: &Path,
    settings: Option<&JsonFile>,
) -> Result<Vec<(Option<String>, String)>> {
    const KEY: &str = "chat_template";
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        let mut templates = additional_templates(&folder.join("additional_chat_templates"))?;
        templates.push((None, read_template(&path)?));
        return Ok(templates);
    }
    let own_file = JsonFile::open_optional(&folder.join("chat_template.json"))?;
    let files = settings.into_iter().chain(&own_file);
    let mut found = files.filter_map(|file| Some((file, file.get(KEY)?)));
    match found.next() {
        None => Ok(Vec::new()),
        Some((_, Json::String(template))) => Ok(vec![(None, template.clone())]),
        Some((_, Json::Array(list))) => Ok(list.iter().filter_map(named_template).collect()),
        Some((file, other)) => Err(file.error(KEY, "a string or a list", other.to_string())),
    }
}

/// The templates beside the one of a file of its own, by the names of their files.
fn additional_templates(folder: &Path) -> Result<Vec<(Option<String>, String)>> {
    let Ok(entries) = folder.read_dir() else { return Ok(Vec::new()) };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_template = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "jinja");
    let mut paths: Vec<PathBuf> = paths.filter(is_template).collect();
    paths.sort();
    let named = paths.iter().filter_map(|path| Some((path, path.file_stem()?)));
    named
        .map(|(path, name)| Ok((Some(key(&name.to_string_lossy())), read_template(path)?)))
        .collect()
}

fn read_template(path: &Path) -> Result<String> {
    let bytes = InputFile::read_small(path, MAX_TEMPLATE)?;
    String::from_utf8(bytes).map_err(std::io::Error::other).map_err(Error::io(path))
}

fn named_template(entry: &Json) -> Option<(Option<String>, String)> {
    let template = entry.get("template")?.as_str()?.to_owned();
    match entry.get("name")?.as_str()? {
        "" => None,
        "default" => Some((None, template)),
        name => Some((Some(key(name)), template)),
    }
}

/// Names become parts of metadata keys: what is no letter or digit is an underscore there.
fn key(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
