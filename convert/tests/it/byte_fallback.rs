//! SentencePiece vocabularies that come as `tokenizer.json` only.

use std::{collections::HashMap, fs, path::Path};

use llq_convert::{Error, Request, Source, TokenizerError, open};
use llq_fixtures::{fixture, shared};
use llq_gguf::{Array, Metadata, Value};
use serde_json::{Value as Json, json};

use crate::support::{
    assert_says, failure,
    tiny::{EMBEDDING, Tensor, Tiny, tokenizer},
};

fn tokens(metadata: &Metadata) -> Vec<&str> {
    metadata.strings("tokenizer.ggml.tokens").unwrap().iter().collect()
}

fn scores(metadata: &Metadata) -> &[f32] {
    let Some(Value::Array(Array::F32(scores))) = metadata.get("tokenizer.ggml.scores") else {
        panic!("no scores")
    };
    scores
}

fn kinds(metadata: &Metadata) -> &[i32] {
    let Some(Value::Array(Array::I32(kinds))) = metadata.get("tokenizer.ggml.token_type") else {
        panic!("no types")
    };
    kinds
}

/// The small model with an embedding of `size` rows.
fn model(size: u64) -> Tiny {
    let mut tiny = Tiny::new();
    tiny.config["vocab_size"] = json!(size);
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let weights = vec![0.5; (size * EMBEDDING) as usize];
        tiny.tensors.insert(name.to_owned(), Tensor { shape: vec![size, EMBEDDING], weights });
    }
    tiny
}

fn open_with_json(tiny: &Tiny, folder: &Path, tokenizer: &Json) -> Box<dyn Source> {
    write_with_json(tiny, folder, tokenizer);
    open(folder).unwrap()
}

fn write_with_json(tiny: &Tiny, folder: &Path, tokenizer: &Json) {
    tiny.write(folder);
    fs::remove_file(folder.join("tokenizer.model")).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// As Hugging Face converts a SentencePiece model: every pair of tokens whose union is one, by the
/// score of that.
fn as_json(metadata: &Metadata) -> Json {
    let (tokens, scores, kinds) = (tokens(metadata), scores(metadata), kinds(metadata));
    let is_normal: HashMap<&str, bool> =
        tokens.iter().zip(kinds).map(|(&token, &kind)| (token, kind == 1)).collect();
    let normal = |part: &str| is_normal.get(part).copied().unwrap_or(false);
    let mut made: Vec<usize> = (0..tokens.len()).filter(|&id| kinds[id] == 1).collect();
    made.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut merges = Vec::new();
    for id in made {
        for (cut, _) in tokens[id].char_indices().skip(1) {
            let (left, right) = tokens[id].split_at(cut);
            if normal(left) && normal(right) {
                merges.push(json!([left, right]));
            }
        }
    }
    let vocab: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, &t)| (t, id)).collect();
    let added = ["<unk>", "<s>", "</s>"]
        .map(|text| json!({ "id": vocab[text], "content": text, "special": true }));
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    json!({
        "added_tokens": added,
        "normalizer": { "type": "Sequence",
            "normalizers": [{ "type": "Prepend", "prepend": "▁" }, replace] },
        "pre_tokenizer": null,
        "model": { "type": "BPE", "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>",
            "vocab": vocab, "merges": merges },
    })
}

/// The vocabulary is the same whichever file it comes from.
#[track_caller]
fn assert_same_from_either_file(tokenizer_model: Vec<u8>, size: u64) {
    let (with_model, with_json) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut tiny = model(size);
    tiny.tokenizer = tokenizer_model;
    tiny.write(with_model.path());
    let expected = open(with_model.path()).unwrap();
    let expected = expected.metadata();
    let source = open_with_json(&tiny, with_json.path(), &as_json(expected));
    assert_eq!(tokens(source.metadata()), tokens(expected));
    let (found, wanted) = (scores(source.metadata()), scores(expected));
    assert!(in_order(found, wanted, &tokens(expected)));
    if wanted.iter().all(|&score| score > -1e6) {
        assert!(found == wanted);
    }
    assert_eq!(kinds(source.metadata()), kinds(expected));
    for key in ["model", "pre", "bos_token_id", "eos_token_id", "add_space_prefix"] {
        let key = format!("tokenizer.ggml.{key}");
        assert_eq!(source.metadata().get(&key), expected.get(&key), "{key}");
    }
    let note = &source.notes()[0].0;
    assert!(note.ends_with("the order of the merges in tokenizer.json"), "{note}");
}

/// Whether tokens that are made come in the order of `wanted`, which may leave some open: the runs
/// of spaces of Llama 2 all have the score -1e9.
fn in_order(found: &[f32], wanted: &[f32], tokens: &[&str]) -> bool {
    let mut made: Vec<usize> =
        (0..tokens.len()).filter(|&id| tokens[id].chars().nth(1).is_some()).collect();
    made.retain(|&id| !tokens[id].starts_with('<'));
    made.sort_by(|&a, &b| found[b].total_cmp(&found[a]));
    made.windows(2).all(|pair| wanted[pair[0]] >= wanted[pair[1]])
}

#[test]
fn scores_are_those_of_the_tokenizer_model() {
    let bytes = fs::read(fixture("tiny-llama-2/hf/tokenizer.model")).unwrap();
    assert_same_from_either_file(bytes, 4096);
}

#[test]
fn scores_are_those_of_llama_2() {
    let Some(path) = shared("vocab/llama-2-tokenizer.model") else { return };
    assert_same_from_either_file(fs::read(path).unwrap(), 32000);
}

/// Letters, the tokens that `merges` make of them, and one that no merge makes.
fn small(merges: &Json) -> Json {
    json!({
        "added_tokens": [
            { "id": 0, "content": "<unk>", "special": true },
            { "id": 9, "content": "[PAD]", "special": true },
        ],
        "normalizer": null,
        "pre_tokenizer": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "never",
            "split": false },
        "model": { "type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "merges": merges,
            "vocab": { "<unk>": 0, "<0x0A>": 1, "a": 2, "b": 3, "ab": 4, "aba": 5, "▁": 6,
                "ba": 7 } },
    })
}

#[test]
fn tokens_get_their_kinds_and_places() {
    let folder = tempfile::tempdir().unwrap();
    let merges = json!(["a b", "b a", "ab a", "a ba"]);
    let source = open_with_json(&Tiny::new(), folder.path(), &small(&merges));
    let metadata = source.metadata();
    assert_eq!(
        tokens(metadata)[..11],
        ["<unk>", "<0x0A>", "a", "b", "ab", "aba", "▁", "ba", "[PAD8]", "[PAD]", "[PAD10]"]
    );
    assert_eq!(kinds(metadata)[..11], [2, 6, 1, 1, 1, 1, 1, 1, 5, 3, 5]);
    // Made first: ab, ba, aba; made by no merge, in order of the ids: a, b, the space.
    let expected = [0.0, 0.0, -3.0, -4.0, 0.0, -2.0, -5.0, -1.0, -10000.0, -1000.0, -10000.0];
    assert_eq!(scores(metadata)[..11], expected);
    assert!(!metadata.bool("tokenizer.ggml.add_space_prefix").unwrap());
    let notes: Vec<&str> = source.notes().iter().map(|note| note.0.as_str()).collect();
    assert!(notes[0].ends_with("merges in tokenizer.json"), "{notes:?}");
    assert!(notes[1].contains("the tokenizer 10 tokens: 6 rows"), "{notes:?}");
}

#[test]
fn merges_that_scores_can_not_express_are_counted() {
    for merges in [
        // "ab" is made again after another; "a ba" is no merge.
        json!(["a b", "b a", "ab a"]),
        json!(["ab a", "a b", "b a", "a ba"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = open_with_json(&Tiny::new(), folder.path(), &small(&merges));
        let note = &source.notes()[0].0;
        assert!(note.contains("can not express for 1 tokens"), "{note}");
    }
}

#[test]
fn what_sentencepiece_does_not_do_is_refused() {
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "split": true });
    let cases = [
        ("pre_tokenizer", metaspace, "Metaspace"),
        ("pre_tokenizer", Json::Null, "no step that makes"),
        ("normalizer", json!({ "type": "NFC" }), "NFC"),
        ("pre_tokenizer", json!({ "type": "Whitespace" }), "Whitespace"),
    ];
    for (key, value, part) in cases {
        let mut tokenizer = small(&json!([]));
        tokenizer[key] = value;
        let folder = tempfile::tempdir().unwrap();
        write_with_json(&Tiny::new(), folder.path(), &tokenizer);
        let error = failure(folder.path(), &Request::default());
        assert!(
            matches!(&error, Error::Tokenizer { problem: TokenizerError::ByteFallback { .. }, .. }),
            "{error}"
        );
        assert_says(&error, &["tokenizer.json", part, "tokenizer.model"]);
    }
    for (merge, problem) in [
        (json!("ab"), "not two parts"),
        (json!("a zz"), "a part is no token"),
        (json!(["b", "b"]), "what it makes is no token"),
        (json!(["", "b"]), "not two parts"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_with_json(&Tiny::new(), folder.path(), &small(&json!([merge])));
        assert_says(&failure(folder.path(), &Request::default()), &["merge 0", problem]);
    }
}

#[test]
fn a_tokenizer_model_is_preferred() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.tokenizer = tokenizer(16);
    write_with_json(&tiny, folder.path(), &small(&json!([])));
    fs::write(folder.path().join("tokenizer.model"), &tiny.tokenizer).unwrap();
    let source = open(folder.path()).unwrap();
    assert_eq!(tokens(source.metadata())[3], "a");
}
