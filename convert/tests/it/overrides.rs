//! `--metadata` and `--name`: what the user knows better than the files.

use std::fs;

use llq_convert::{Error, OpenOptions, Overrides, open_with};
use llq_fixtures::fixture;
use llq_gguf::{Array, Metadata, Value};
use serde_json::{Value as Json, json};

use crate::support::{assert_says, converted, tiny::Tiny};

/// The metadata of the small model under the overrides, as a checkpoint or as a GGUF file of it.
fn overridden(json: &Json, name: Option<&str>) -> Result<[Metadata; 2], Error> {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("Tiny-20K-v2");
    fs::create_dir(&checkpoint).unwrap();
    Tiny::new().write(&checkpoint);
    let model = folder.path().join("model.gguf");
    fs::write(&model, converted(&checkpoint, &Default::default())).unwrap();
    let file = folder.path().join("metadata.json");
    fs::write(&file, json.to_string()).unwrap();
    let overrides = Overrides::read(&file)?.with_name(name.map(str::to_owned));
    let options = OpenOptions { overrides, ..OpenOptions::default() };
    let open = |path| Ok::<_, Error>(open_with(path, &options)?.metadata().clone());
    Ok([open(&checkpoint)?, open(&model)?])
}

#[test]
fn keys_are_replaced_added_and_removed() {
    let json = json!({
        "general.version": "v3",
        "general.author": "Someone",
        "license": "mit",
        "tags": ["a", "b"],
        "general.size_label": null,
        "general.base_models": ["owner/Base-v1", { "name": "Other", "url": "https://x" }],
        "sampling.top_k": 7,
        "llama.rope.freq_base": 500000,
        "tokenizer.ggml.eot_token_id": 2,
        "custom.text": "t",
        "custom.flag": true,
        "custom.fraction": 0.5,
        "custom.texts": ["x"],
        "custom.count": { "u64": 7 },
        "custom.counts": { "array of i32": [1, 2] },
    });
    for metadata in overridden(&json, Some("By hand")).unwrap() {
        let general: Vec<_> = metadata.iter().map(|(key, _)| key).take(16).collect();
        assert_eq!(
            general,
            [
                "general.architecture",
                "general.type",
                "general.sampling.top_k",
                "general.name",
                "general.author",
                "general.version",
                "general.basename",
                "general.license",
                "general.base_model.count",
                "general.base_model.0.name",
                "general.base_model.0.version",
                "general.base_model.0.organization",
                "general.base_model.0.repo_url",
                "general.base_model.1.name",
                "general.base_model.1.url",
                "general.tags",
            ]
        );
        let expected = [
            ("general.name", Value::from("By hand")),
            ("general.version", Value::from("v3")),
            ("general.tags", Value::from(vec!["a", "b"])),
            ("general.base_model.count", Value::U32(2)),
            ("general.base_model.0.repo_url", Value::from("https://huggingface.co/owner/Base-v1")),
            ("general.sampling.top_k", Value::I32(7)),
            ("llama.rope.freq_base", Value::F32(500_000.0)),
            ("tokenizer.ggml.eot_token_id", Value::U32(2)),
            ("custom.text", Value::from("t")),
            ("custom.flag", Value::Bool(true)),
            ("custom.fraction", Value::F32(0.5)),
            ("custom.texts", Value::from(vec!["x"])),
            ("custom.count", Value::U64(7)),
            ("custom.counts", Value::Array(Array::I32(vec![1, 2]))),
        ];
        for (key, value) in expected {
            assert_eq!(metadata.get(key), Some(&value), "{key}");
        }
        assert_eq!(metadata.get("general.size_label"), None);
    }
}

#[test]
fn values_of_a_wrong_or_unknown_type_are_refused() {
    let bad = [
        (json!({ "general.name": 7 }), "\"general.name\" is 7, expected of type string"),
        (json!({ "name": ["a"] }), "expected of type string"),
        (json!({ "tags": ["a", 1] }), "expected of type array of string"),
        (json!({ "llama.block_count": -1 }), "\"llama.block_count\" is -1, expected of type u32"),
        (json!({ "llama.block_count": 4_294_967_296_u64 }), "expected of type u32"),
        (json!({ "general.sampling.temp": 1e300 }), "expected of type f32"),
        (json!({ "tokenizer.ggml.bos_token_id": "1" }), "expected of type u32"),
        (json!({ "custom.count": 7 }), "{\"u32\": 7}"),
        (json!({ "custom.counts": [1, 2] }), "an object that says the type"),
        (json!({ "licence": "mit" }), "\"licence\" is not known, expected one of general.*"),
        (json!({ "custom.none": [] }), "an object that says the type"),
        (json!({ "custom.x": { "u33": 7 } }), "an object that says the type"),
        (json!({ "custom.x": { "u8": 256 } }), "an object that says the type"),
        (json!({ "custom.x": [[1.5]] }), "an object that says the type"),
        (json!({ "base_models": "owner/name" }), "a list of ids"),
        (json!({ "base_models": [{ "nmae": "x" }] }), "a list of ids"),
        (json!({ "general.architecture": "falcon" }), "as llq decides it"),
        (json!({ "file_type": null }), "as llq decides it"),
        (json!({ "split.count": 2 }), "as llq decides it"),
        (json!({ "llama.block_count": null }), "as no loader does without"),
        (json!({ "llama.attention.head_count": null }), "as no loader does without"),
        (json!({ "tokenizer.ggml.model": null }), "as no loader does without"),
    ];
    for (json, expected) in bad {
        let error = overridden(&json, None).unwrap_err();
        assert!(matches!(error, Error::Key { .. }), "{json}: {error}");
        assert_says(&error, &["metadata.json", expected]);
    }
    assert!(matches!(overridden(&json!([1]), None), Err(Error::Json { .. })));
    let absent = Overrides::read(&fixture("absent.json")).unwrap_err();
    assert!(matches!(absent, Error::Io { .. }), "{absent}");
}
