//! Chat templates, from all the places where Hugging Face keeps them.

use std::path::Path;

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
        let bytes = InputFile::read_small(&path, MAX_TEMPLATE)?;
        let text = String::from_utf8(bytes).map_err(std::io::Error::other);
        return Ok(vec![(None, text.map_err(Error::io(&path))?)]);
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

/// Names become parts of metadata keys: what is no letter or digit is an underscore there.
fn named_template(entry: &Json) -> Option<(Option<String>, String)> {
    let template = entry.get("template")?.as_str()?.to_owned();
    match entry.get("name")?.as_str()? {
        "" => None,
        "default" => Some((None, template)),
        name => {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
            Some((Some(name.chars().map(plain).collect()), template))
        }
    }
}
