//! The tokenizer against the field's own fixtures, and against hostile vocabularies.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    fs,
    path::{Path, PathBuf},
};

use llq_eval::{Error, Tokenizer};
use llq_fixtures::shared;
use llq_gguf::{Array, Metadata, Model, Strings, Value};

fn assert_matches_fixture(path: &Path) {
    let model = Model::open(path).unwrap();
    let tokenizer = Tokenizer::from_metadata(model.metadata()).unwrap();
    let fixture = |extension: &str| {
        fs::read_to_string(path.with_extension(format!("gguf.{extension}"))).unwrap()
    };
    let (texts, ids) = (fixture("inp"), fixture("out"));
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let expected: Vec<Vec<u32>> = ids
        .lines()
        .map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect())
        .collect();
    // The last separator is followed by nothing.
    assert_eq!((expected.len(), texts.len()), (46, 47));
    for (text, expected) in texts.iter().zip(&expected) {
        assert_eq!(&tokenizer.encode(text), expected, "{}: {text:?}", path.display());
    }
}

/// Each vocabulary that comes with texts and tokens, so that none is left out.
#[test]
fn every_vocabulary_gives_the_fixture_tokens() {
    let Some(folder) = shared("vocab") else { return };
    let mut vocabularies: Vec<PathBuf> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    vocabularies.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    assert!(vocabularies.len() >= 5, "{vocabularies:?}");
    for vocabulary in vocabularies {
        assert_matches_fixture(&vocabulary);
    }
}

#[test]
fn a_long_line_without_spaces_is_no_slower_than_prose() {
    let tokenizer = Tokenizer::from_metadata(&small()).unwrap();
    let tokens = tokenizer.encode(&"ab".repeat(1 << 19));
    // The space that was put in front, then a million characters, as four-letter tokens.
    assert_eq!(tokens.len(), 1 + (1 << 18));
    assert!(tokens[1..].iter().all(|&token| token == ABAB));
}

const ABAB: u32 = 263;

/// `<unk>`, BOS, EOS, the bytes, and a few pieces.
fn small() -> Metadata {
    let pieces = ["\u{2581}", "a", "b", "ab", "abab", "<mark>", "ba"];
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let all = ["<unk>", "<s>", "</s>"].into_iter().chain(bytes.iter().map(String::as_str));
    let tokens: Strings = all.chain(pieces).collect();
    let mut types = vec![2, 3, 3];
    types.extend([6; 256]);
    types.extend([1, 1, 1, 1, 1, 4, 1]);
    let mut scores = vec![0.0; 259];
    scores.extend([-1.0, -2.0, -3.0, -4.0, -5.0, 0.0, -6.0]);
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", Value::String("llama".into()));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    metadata
}

#[test]
fn merges_the_best_score_first_and_falls_back_to_bytes() {
    let tokenizer = Tokenizer::from_metadata(&small()).unwrap();
    assert_eq!(tokenizer.encode(""), [0u32; 0]);
    // "ba" scores below "ab", so it is left over only where no "ab" takes its letters.
    assert_eq!(tokenizer.encode("bab"), [259, 261, 262]);
    assert_eq!(tokenizer.encode("é"), [259, 3 + 0xC3, 3 + 0xA9]);
    assert_eq!(tokenizer.encode("<s>"), [259, 3 + 0x3C, 3 + 0x73, 3 + 0x3E]);
}

#[test]
fn user_defined_tokens_are_found_and_the_text_after_starts_anew() {
    let tokenizer = Tokenizer::from_metadata(&small()).unwrap();
    assert_eq!(tokenizer.encode("a<mark>b<mark>"), [259, 260, 264, 259, 261, 264]);
    let mut metadata = small();
    metadata.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    assert_eq!(tokenizer.encode("a<mark>b<mark>"), [260, 264, 261, 264]);
}

#[test]
fn bos_and_eos_follow_the_flags() {
    let mut metadata = small();
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    assert_eq!((tokenizer.text_start(), tokenizer.text_end()), (Some(1), None));
    metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    metadata.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(261));
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    assert_eq!((tokenizer.text_start(), tokenizer.text_end()), (None, Some(261)));
}

#[test]
fn malformed_vocabularies_are_refused_by_key() {
    let strings = |strings: &[&str]| Value::Array(Array::String(strings.iter().collect()));
    let cases: [(&str, Value, &str); 9] = [
        ("tokenizer.ggml.model", Value::String("bert".into()), "bert"),
        ("tokenizer.ggml.bos_token_id", Value::U32(266), "below 266, found 266"),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1; 3])), "266 entries, found 3"),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![9; 266])), "found 9"),
        ("tokenizer.ggml.token_type", Value::Array(Array::F32(vec![1.0; 266])), "array of i32"),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![6; 266])), "byte token"),
        ("tokenizer.ggml.scores", Value::Array(Array::F32(vec![f32::NAN; 266])), "NaN"),
        ("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 265])), "found 265"),
        ("tokenizer.ggml.tokens", strings(&["a", "b", "a"]), "entries"),
    ];
    for (key, value, message) in cases {
        let mut metadata = small();
        metadata.set(key, value);
        let error = Tokenizer::from_metadata(&metadata).unwrap_err().to_string();
        assert!(error.contains(message), "{key}: {error}");
    }
}

#[test]
fn repeated_tokens_and_missing_fallbacks_are_refused() {
    let with_tokens = |tokens: &[&str]| {
        let mut metadata = small();
        let len = tokens.len();
        let tokens = tokens.iter().collect();
        metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
        metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; len])));
        metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1; len])));
        Tokenizer::from_metadata(&metadata).unwrap_err()
    };
    let repeated = with_tokens(&["a", "b", "a"]);
    assert_eq!(repeated.to_string(), "tokenizer.ggml.tokens: tokens 0 and 2 are both \"a\"");
    assert!(matches!(with_tokens(&["a", "b"]), Error::Vocabulary { .. }));
}
