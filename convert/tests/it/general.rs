//! `general.*`: from the model card, the configuration and the names of folders.

use std::{fs, path::Path};

use llq_gguf::{Array, Metadata, Value};
use serde_json::json;

use crate::support::tiny::Tiny;

const CARD: &str = "\
---
language:
- en
- no
languages: pt
license: [llama2, apache-2.0]
license_name: \"Llama 2: Community\"
license_link: https://example.org/LICENSE
tags:
- text-generation
- llama
pipeline_tag: text2text
model_creator: Someone
model_version: 2.0
url: https://example.org/model
doi: 10.5/abc
base_model:
- meta-llama/Llama-2-7b-hf
- https://huggingface.co/owner/Other-v3
- https://example.org/third
- name: Fourth
  organization: Its maker
  unknown: left out
datasets: togethercomputer/RedPajama-Data-1T
model-index:
- name: results
  results: []
---
# Tiny
base_model: not here
";

/// What gguf-py 0.19 writes of that card in a folder of that name.
const EXPECTED: &[(&str, &str)] = &[
    ("architecture", "llama"),
    ("type", "model"),
    ("sampling.sequence", "top_k;temp"),
    ("sampling.top_k", "40"),
    ("sampling.top_p", "0.9"),
    ("sampling.min_p", "0.05"),
    ("sampling.temp", "0.6"),
    ("sampling.penalty_last_n", "64"),
    ("sampling.penalty_repeat", "1.1"),
    ("name", "Tiny 20K Chat v1.5"),
    ("author", "Someone"),
    ("version", "2.0"),
    ("organization", "Some Owner"),
    ("finetune", "Chat"),
    ("basename", "Tiny"),
    ("size_label", "20K"),
    ("license", "llama2,apache-2.0"),
    ("license.name", "Llama 2: Community"),
    ("license.link", "https://example.org/LICENSE"),
    ("source.url", "https://example.org/model"),
    ("source.doi", "10.5/abc"),
    ("base_model.count", "4"),
    ("base_model.0.name", "Llama 2 7b Hf"),
    ("base_model.0.version", ""),
    ("base_model.0.organization", "Meta Llama"),
    ("base_model.0.repo_url", "https://huggingface.co/meta-llama/Llama-2-7b-hf"),
    ("base_model.1.name", "Other v3"),
    ("base_model.1.version", "v3"),
    ("base_model.1.organization", "Owner"),
    ("base_model.1.repo_url", "https://huggingface.co/owner/Other-v3"),
    ("base_model.2.repo_url", "https://example.org/third"),
    ("base_model.3.name", "Fourth"),
    ("base_model.3.organization", "Its maker"),
    ("dataset.count", "1"),
    ("dataset.0.name", "RedPajama Data 1T"),
    ("dataset.0.organization", "Togethercomputer"),
    ("dataset.0.repo_url", "https://huggingface.co/togethercomputer/RedPajama-Data-1T"),
    ("tags", "text-generation llama text2text"),
    ("languages", "pt en no"),
    ("file_type", "32"),
    ("quantization_version", "2"),
];

/// The keys of `general.*` of the small model in a folder of that name, in order, and the notes.
fn described(
    folder: &str,
    tiny: &Tiny,
    card: &[u8],
) -> (Metadata, Vec<(String, String)>, Vec<String>) {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join(folder);
    fs::create_dir_all(&folder).unwrap();
    tiny.write(&folder);
    if !card.is_empty() {
        fs::write(folder.join("README.md"), card).unwrap();
    }
    let source = llq_convert::open(&folder).unwrap();
    let metadata = source.metadata().clone();
    let general = metadata
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("general.")?.to_owned(), shown(value))));
    let notes = source.notes().iter().map(|note| note.0.clone()).collect();
    (metadata.clone(), general.collect(), notes)
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::U32(number) => number.to_string(),
        Value::I32(number) => number.to_string(),
        Value::F32(number) => number.to_string(),
        Value::Array(Array::String(texts)) => texts.iter().collect::<Vec<_>>().join(" "),
        other => panic!("nothing general is {other:?}"),
    }
}

fn get<'a>(general: &'a [(String, String)], key: &str) -> Option<&'a str> {
    general.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

#[test]
fn a_model_card_gives_the_keys_that_the_field_writes() {
    let mut tiny = Tiny::new();
    tiny.config["_name_or_path"] = json!("some-owner/Tiny-20K-Chat-v1.5");
    let sampling = json!({
        "temperature": 0.6, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "penalty_repeat": 1.1,
        "penalty_last_n": 64, "sequence": "top_k;temp", "mirostat": "of another type",
    });
    tiny.others.insert("generation_config.json", sampling);
    let (metadata, found, notes) = described("Tiny-20K-Chat-v1.5", &tiny, CARD.as_bytes());
    let written = EXPECTED.iter().filter(|(_, value)| !value.is_empty());
    let expected: Vec<_> = written.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    assert_eq!(found, expected);
    assert_eq!(notes, [""; 0]);
    for (key, type_name) in [
        ("sampling.top_k", "i32"),
        ("sampling.temp", "f32"),
        ("base_model.count", "u32"),
        ("tags", "array of string"),
    ] {
        assert_eq!(metadata.get(&format!("general.{key}")).unwrap().type_name(), type_name);
    }
}

#[test]
fn without_a_card_names_tell() {
    let names = |folder: &str, named: &str| {
        let mut tiny = Tiny::new();
        tiny.config["_name_or_path"] = json!(named);
        let (_, general, notes) = described(folder, &tiny, b"");
        assert_eq!(notes, [""; 0]);
        ["name", "organization", "basename", "finetune", "version", "size_label"]
            .map(|key| get(&general, key).unwrap_or_default().to_owned())
    };
    let tiny = ["Tiny 20k v2", "", "Tiny", "", "v2", "20K"];
    assert_eq!(names("Tiny-20k-v2", ""), tiny);
    // A path on the machine of its author is no name.
    assert_eq!(names("Tiny-20k-v2", "/home/someone/llama"), tiny);
    assert_eq!(names("x", "owner/Tiny-20k-v2"), ["Tiny 20k v2", "Owner", "Tiny", "", "v2", "20K"]);
    // A folder that only says the form is named by the one above, as it is.
    assert_eq!(names("tiny-llama-2/hf", ""), ["tiny-llama-2", "", "", "", "", "20K"]);
    // In the hub's cache the folder is named by a commit.
    let cached = "models--owner--Tiny-20k-v2/snapshots/0123456789abcdef";
    assert_eq!(names(cached, ""), ["Tiny 20k v2", "Owner", "Tiny", "", "v2", "20K"]);
    // A size that is far from the model's is a context length.
    assert_eq!(names("Tiny-32K", ""), ["Tiny 32K", "", "Tiny", "", "", "32K"]);
    assert_eq!(names("Tiny-32M", ""), ["Tiny 32M", "", "Tiny", "32m", "", "20K"]);
}

#[test]
fn a_card_that_cannot_be_used_is_a_note() {
    let unusable: [&[u8]; 7] = [
        b"---\na: [\n---\n",
        b"---\nlicense: mit\n",
        b"---\n- a\n- b\n---\n",
        b"---\na: \xff\n---\n",
        b"---\na: &a [b]\nc: *a\n---\n",
        &[b"---\n", [b'['; 5000].as_slice(), b"\n---\n"].concat(),
        &[b"---\n", vec![b'#'; 2 << 20].as_slice(), b"\n---\n"].concat(),
    ];
    for card in unusable {
        let (_, general, notes) = described("Tiny", &Tiny::new(), card);
        assert!(notes[0].starts_with("README.md is not used for the metadata: "), "{notes:?}");
        assert_eq!(get(&general, "name"), Some("Tiny"));
    }
    for nothing in ["# Tiny\n", "---\n---\n", "---\n# only a comment\n---\n"] {
        let (_, _, notes) = described("Tiny", &Tiny::new(), nothing.as_bytes());
        assert_eq!(notes, [""; 0], "{nothing:?}");
    }
}

#[test]
fn values_of_a_card_that_are_no_text_are_left_out() {
    let card = "---\nname: [a, {b: c}]\nauthor: {a: b}\nlicense: ~\ntags: {a: b}\n\
                description: \"a\\0\\e[31mb\\nc\"\nbase_model: [[a], ~, {x: y}]\n---\n";
    let (_, general, notes) = described("Tiny", &Tiny::new(), card.as_bytes());
    assert_eq!(notes, [""; 0]);
    assert_eq!(get(&general, "name"), Some("a"));
    assert_eq!(get(&general, "description"), Some("a[31mb\nc"));
    for absent in ["author", "license", "tags", "base_model.count"] {
        assert_eq!(get(&general, absent), None, "{absent}");
    }
}

#[test]
fn a_folder_of_metas_form_has_a_card_too() {
    let folder = tempfile::tempdir().unwrap();
    copy(&llq_fixtures::fixture("tiny-llama-2/meta"), folder.path());
    fs::write(folder.path().join("README.md"), "---\nlicense: llama2\n---\n").unwrap();
    let source = llq_convert::open(folder.path()).unwrap();
    assert_eq!(source.metadata().string("general.license").unwrap(), "llama2");
}

#[test]
fn templates_in_files_of_their_own_are_copied() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let additional = folder.path().join("additional_chat_templates");
    fs::create_dir(&additional).unwrap();
    fs::write(folder.path().join("chat_template.jinja"), "{{ 1 / 0 }}").unwrap();
    fs::write(additional.join("tool-use.jinja"), "{{ tools }}").unwrap();
    fs::write(additional.join("rag.jinja"), "{{ rag }}").unwrap();
    fs::write(additional.join("README"), "no template").unwrap();
    let source = llq_convert::open(folder.path()).unwrap();
    let metadata = source.metadata();
    let names: Vec<&str> = metadata.strings("tokenizer.chat_templates").unwrap().iter().collect();
    assert_eq!(names, ["rag", "tool_use"]);
    for (key, template) in
        [("", "{{ 1 / 0 }}"), (".rag", "{{ rag }}"), (".tool_use", "{{ tools }}")]
    {
        let key = format!("tokenizer.chat_template{key}");
        assert_eq!(metadata.string(&key).unwrap(), template);
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
