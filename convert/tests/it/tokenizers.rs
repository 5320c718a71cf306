//! SentencePiece vocabularies and what Hugging Face puts around them.

use std::fs;

use llq_convert::{Error, Request, TokenizerError};
use llq_gguf::{Array, Model, Value};
use proptest::prelude::*;
use serde_json::json;

use crate::support::{
    assert_says, converted_model, failure,
    tiny::{Tiny, tokenizer},
};

/// Converts the small model after a change to it.
fn model_with(change: impl Fn(&mut Tiny)) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    change(&mut tiny);
    tiny.write(folder.path());
    converted_model(folder.path(), &Request::default())
}

fn token(model: &Model, id: usize) -> (String, f32, i32) {
    let metadata = model.metadata();
    let Some(Value::Array(Array::F32(scores))) = metadata.get("tokenizer.ggml.scores") else {
        panic!("no scores")
    };
    let Some(Value::Array(Array::I32(kinds))) = metadata.get("tokenizer.ggml.token_type") else {
        panic!("no types")
    };
    let text = metadata.strings("tokenizer.ggml.tokens").unwrap().get(id).unwrap().to_owned();
    (text, scores[id], kinds[id])
}

#[test]
fn rows_without_a_token_are_padded_and_noted() {
    let model = model_with(|tiny| tiny.tokenizer = tokenizer(14));
    assert_eq!(token(&model, 13), ("k".to_owned(), -13.0, 1));
    assert_eq!(token(&model, 15), ("[PAD15]".to_owned(), -10000.0, 5));

    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.tokenizer = tokenizer(14);
    tiny.write(folder.path());
    let source = llq_convert::open(folder.path()).unwrap();
    assert!(source.notes()[0].0.contains("2 rows get the name"), "{:?}", source.notes());
}

#[test]
fn tokens_without_a_row_are_left_out_and_noted() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.tokenizer = tokenizer(20);
    tiny.write(folder.path());
    let source = llq_convert::open(folder.path()).unwrap();
    assert_eq!(source.metadata().strings("tokenizer.ggml.tokens").unwrap().len(), 16);
    assert!(source.notes()[0].0.contains("last 4 tokens are left out"), "{:?}", source.notes());
}

#[test]
fn added_tokens_take_their_places() {
    let model = model_with(|tiny| {
        tiny.tokenizer = tokenizer(13);
        tiny.others.insert("added_tokens.json", json!({ "[EXTRA]": 13 }));
        let decoder = json!({
            "1": { "content": "<s>", "special": true },
            "14": { "content": "<|im_end|>", "special": false },
            "15": { "content": "\u{2581}word" },
        });
        tiny.others.insert("tokenizer_config.json", json!({ "added_tokens_decoder": decoder }));
    });
    assert_eq!(token(&model, 0), ("<unk>".to_owned(), -0.0, 2));
    assert_eq!(token(&model, 1), ("<s>".to_owned(), -1000.0, 3));
    assert_eq!(token(&model, 13), ("[EXTRA]".to_owned(), -1000.0, 4));
    assert_eq!(token(&model, 14), ("<|im_end|>".to_owned(), -1000.0, 3));
    assert_eq!(token(&model, 15), (" word".to_owned(), -1000.0, 4));
}

#[test]
fn ids_that_are_none_are_refused() {
    for id in ["-1", "x", "4294967296"] {
        let folder = tempfile::tempdir().unwrap();
        let mut tiny = Tiny::new();
        let decoder = json!({ id: { "content": "a" } });
        tiny.others.insert("tokenizer_config.json", json!({ "added_tokens_decoder": decoder }));
        tiny.write(folder.path());
        let error = failure(folder.path(), &Request::default());
        assert!(matches!(error, Error::Tokenizer { problem: TokenizerError::AddedId { .. }, .. }));
    }
}

#[test]
fn special_tokens_flags_and_templates_are_written() {
    let model = model_with(|tiny| {
        tiny.config["eos_token_id"] = json!([5, 6]);
        tiny.config["pad_token_id"] = json!(-1);
        tiny.config.as_object_mut().unwrap().remove("bos_token_id");
        let settings = json!({
            "bos_token": { "content": "b" },
            "add_bos_token": true,
            "add_prefix_space": false,
            "chat_template": [
                { "name": "default", "template": "{{ messages }}" },
                { "name": "tool_use", "template": "{{ tools }}" },
            ],
        });
        tiny.others.insert("tokenizer_config.json", settings);
    });
    let metadata = model.metadata();
    assert_eq!(metadata.count("tokenizer.ggml.bos_token_id").unwrap(), 4);
    assert_eq!(metadata.count("tokenizer.ggml.eos_token_id").unwrap(), 5);
    assert!(metadata.get("tokenizer.ggml.padding_token_id").is_none());
    assert!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap());
    assert!(!metadata.bool("tokenizer.ggml.add_space_prefix").unwrap());
    assert!(metadata.get("tokenizer.ggml.add_eos_token").is_none());
    assert_eq!(metadata.string("tokenizer.chat_template").unwrap(), "{{ messages }}");
    assert_eq!(metadata.string("tokenizer.chat_template.tool_use").unwrap(), "{{ tools }}");
}

#[test]
fn special_tokens_are_looked_up_where_the_tokenizer_lists_them() {
    let model = model_with(|tiny| {
        let listed = json!([{ "id": 0, "content": "<unk>" }, { "id": 7, "content": "e" }]);
        tiny.others.insert("tokenizer.json", json!({ "added_tokens": listed, "model": {} }));
        let settings = json!({ "unk_token": "<unk>", "eos_token": { "content": "e" } });
        tiny.others.insert("tokenizer_config.json", settings);
    });
    let metadata = model.metadata();
    assert_eq!(metadata.count("tokenizer.ggml.unknown_token_id").unwrap(), 0);
    // config.json says 2.
    assert_eq!(metadata.count("tokenizer.ggml.eos_token_id").unwrap(), 7);
    assert_eq!(metadata.count("tokenizer.ggml.bos_token_id").unwrap(), 1);
}

#[test]
fn a_text_is_one_token() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.others.insert("added_tokens.json", json!({ "a": 15 }));
    tiny.write(folder.path());
    let error = failure(folder.path(), &Request::default());
    assert_says(&error, &["tokenizer.model", "tokens 3 and 15 are both \"a\""]);
}

#[test]
fn a_model_without_a_space_in_front_says_so() {
    let key = "tokenizer.ggml.add_space_prefix";
    let prefix = |value: u8| {
        // normalizer_spec.add_dummy_prefix
        model_with(|tiny| tiny.tokenizer.extend([0x1a, 2, 0x18, value]))
            .metadata()
            .get(key)
            .cloned()
    };
    assert_eq!(prefix(0), Some(Value::Bool(false)));
    assert_eq!(prefix(1), None);
}

#[test]
fn templates_have_files_of_their_own() {
    let model = model_with(|tiny| {
        let list = json!([{ "name": "tool use", "template": "{{ tools }}" }]);
        tiny.others.insert("chat_template.json", json!({ "chat_template": list }));
    });
    let key = "tokenizer.chat_template.tool_use";
    assert_eq!(model.metadata().string(key).unwrap(), "{{ tools }}");
}

#[test]
fn other_tokenizers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let path = folder.path().join("tokenizer.model");
    fs::write(&path, "IQ== 0\nIg== 1\n").unwrap();
    assert_says(&failure(folder.path(), &Request::default()), &["tiktoken", "tokenizer.json"]);
    fs::remove_file(&path).unwrap();
    let error = failure(folder.path(), &Request::default());
    assert_says(&error, &["tokenizer.model", "tokenizer.json"]);
}

#[test]
fn damaged_models_are_refused() {
    let sound = tokenizer(16);
    let piece =
        |piece: &[u8]| [&[0x0a, piece.len() as u8], piece, &[0x12, 2, 0x18, 2][..]].concat();
    let not_a_number = [&[0x15][..], &f32::NAN.to_le_bytes()[..]].concat();
    let damaged = [
        Vec::new(),
        sound[..sound.len() - 1].to_vec(),
        sound[..7].to_vec(),
        // No trainer_spec: the schema's default is no BPE.
        sound[..sound.len() - 4].to_vec(),
        piece(&[0x0a, 2, 0xff, 0xfe]),
        piece(&not_a_number),
        piece(&[0x18, 9]),
        piece(&[0x0b]),
    ];
    for bytes in damaged {
        let folder = tempfile::tempdir().unwrap();
        let mut tiny = Tiny::new();
        tiny.tokenizer = bytes.clone();
        tiny.write(folder.path());
        let error = failure(folder.path(), &Request::default());
        assert!(matches!(error, Error::Tokenizer { .. }), "{bytes:?}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_damage_makes_it_panic(at in 0..200usize, value: u8) {
        let folder = tempfile::tempdir().unwrap();
        let mut tiny = Tiny::new();
        tiny.tokenizer[at] = value;
        tiny.write(folder.path());
        drop(llq_convert::open(folder.path()));
    }
}

/// As Alpaca and its like: one row and one token more than LLaMA.
#[test]
fn a_token_added_behind_the_vocabulary_takes_the_last_row() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.tokenizer = tokenizer(15);
    tiny.others.insert("added_tokens.json", json!({ "[PAD]": 15 }));
    tiny.config["pad_token_id"] = json!(15);
    tiny.write(folder.path());
    let source = llq_convert::open(folder.path()).unwrap();
    assert_eq!(source.notes(), []);
    assert_eq!(source.metadata().count("tokenizer.ggml.padding_token_id").unwrap(), 15);
    let model = converted_model(folder.path(), &Request::default());
    assert_eq!(token(&model, 15), ("[PAD]".to_owned(), -1000.0, 4));
}

/// As merges that kept LLaMA's embedding and the fine-tune's tokenizer.
#[test]
fn a_token_added_beyond_the_embedding_is_left_out_and_noted() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.others.insert("added_tokens.json", json!({ "[PAD]": 16 }));
    tiny.config["pad_token_id"] = json!(16);
    tiny.write(folder.path());
    let source = llq_convert::open(folder.path()).unwrap();
    let notes: Vec<&str> = source.notes().iter().map(|note| note.0.as_str()).collect();
    assert_eq!(
        notes,
        [
            "added token \"[PAD]\" has id 16, the embedding 16 rows: it is left out",
            "pad_token_id is 16, beyond the vocabulary of 16: left out",
        ]
    );
    assert!(source.metadata().get("tokenizer.ggml.padding_token_id").is_none());
}

/// As the first conversions of LLaMA 1 to the Hugging Face form.
#[test]
fn ids_that_the_tokenizer_has_for_other_tokens_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.config["bos_token_id"] = json!(0);
    tiny.config["eos_token_id"] = json!(1);
    tiny.write(folder.path());
    let source = llq_convert::open(folder.path()).unwrap();
    let id = |key: &str| source.metadata().count(&format!("tokenizer.ggml.{key}")).unwrap();
    assert_eq!((id("bos_token_id"), id("eos_token_id")), (1, 2));
    let notes: Vec<&str> = source.notes().iter().map(|note| note.0.as_str()).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].starts_with("config.json says bos_token_id 0, which"), "{notes:?}");
    assert!(notes[1].ends_with("its own 2 is taken"), "{notes:?}");
}
