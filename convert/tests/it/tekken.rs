//! Mistral's tekken.json.

use std::{fs, path::Path};

use llq_convert::{Error, Request, TokenizerError};
use llq_gguf::{Array, Metadata, Value};
use serde_json::{Value as Json, json};

use crate::support::{
    converted_model, failure, meta,
    tiny::{EMBEDDING, Tensor, Tiny},
};

const PATTERN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const SPECIAL: u64 = 24;
/// Single bytes, and what is merged of them.
const RANKS: u64 = 256 + 3;

/// A file of all bytes and of "ab", "bc" and "abc"; it has one rank more than are used.
fn tekken() -> Json {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |value: u16| char::from(DIGITS[usize::from(value)]);
    let bytes = (0..256).map(|b| format!("{}{}==", digit(b >> 2), digit((b & 3) << 4)));
    let merged = ["YWI=", "YmM=", "YWJj", "bm90IHVzZWQ="].map(str::to_owned);
    let entry = |(rank, token): (usize, String)| json!({ "rank": rank, "token_bytes": token, "token_str": null });
    let vocab: Vec<Json> = bytes.chain(merged).enumerate().map(entry).collect();
    json!({ "vocab": vocab, "config": { "pattern": PATTERN, "num_vocab_tokens": vocab.len(),
        "default_vocab_size": SPECIAL + RANKS, "default_num_special_tokens": SPECIAL,
        "version": "v3" } })
}

fn tiny() -> Tiny {
    let mut tiny = Tiny::new();
    let rows = SPECIAL + RANKS;
    tiny.config["vocab_size"] = json!(rows);
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        tiny.tensors.insert(name.to_owned(), Tensor::new(5, &[rows, EMBEDDING]));
    }
    tiny
}

fn write(folder: &Path, tekken: &Json) {
    meta::write_consolidated(&tiny(), folder);
    fs::write(folder.join("tekken.json"), tekken.to_string()).unwrap();
}

fn strings(metadata: &Metadata, key: &str) -> Vec<String> {
    metadata.strings(key).unwrap().iter().map(str::to_owned).collect()
}

#[test]
fn special_tokens_have_the_first_ids_and_merges_follow_from_ranks() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &tekken());
    let model = converted_model(folder.path(), &Request::default());
    let metadata = model.metadata();
    assert_eq!(metadata.string("tokenizer.ggml.model").unwrap(), "gpt2");
    assert_eq!(metadata.string("tokenizer.ggml.pre").unwrap(), "tekken");
    let tokens = strings(metadata, "tokenizer.ggml.tokens");
    assert_eq!(tokens.len() as u64, SPECIAL + RANKS);
    assert_eq!(tokens[..4], ["<unk>", "<s>", "</s>", "[INST]"]);
    assert_eq!(
        tokens[19..24],
        ["[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_21>", "<SPECIAL_22>", "<SPECIAL_23>"]
    );
    assert_eq!(tokens[24 + 97], "a");
    assert_eq!(tokens[24 + 32], "Ġ");
    assert_eq!(tokens[24 + 256..], ["ab", "bc", "abc"]);
    assert_eq!(strings(metadata, "tokenizer.ggml.merges"), ["a b", "b c", "a bc", "ab c"]);
    let Some(Value::Array(Array::I32(kinds))) = metadata.get("tokenizer.ggml.token_type") else {
        panic!("token types")
    };
    assert_eq!((kinds[23], kinds[24]), (3, 1));
    let ids = [("bos", 1), ("eos", 2), ("unknown", 0), ("padding", 11)];
    for (key, id) in ids {
        let key = format!("tokenizer.ggml.{key}_token_id");
        assert_eq!(metadata.get(&key), Some(&Value::U32(id)), "{key}");
    }
    assert_eq!(metadata.get("tokenizer.ggml.add_bos_token"), Some(&Value::Bool(true)));
}

#[test]
fn listed_special_tokens_have_the_names_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut json = tekken();
    json["special_tokens"] = json!([
        { "rank": 0, "token_str": "<unk>", "is_control": true },
        { "rank": 2, "token_str": "<s>", "is_control": true },
        { "rank": 5, "token_str": "[THINK]", "is_control": true },
    ]);
    write(folder.path(), &json);
    let model = converted_model(folder.path(), &Request::default());
    let tokens = strings(model.metadata(), "tokenizer.ggml.tokens");
    assert_eq!(
        tokens[..6],
        ["<unk>", "<SPECIAL_1>", "<s>", "<SPECIAL_3>", "<SPECIAL_4>", "[THINK]"]
    );
    assert_eq!(model.metadata().get("tokenizer.ggml.bos_token_id"), Some(&Value::U32(2)));
    assert_eq!(model.metadata().get("tokenizer.ggml.eos_token_id"), None);
}

#[test]
fn a_hugging_face_folder_may_have_no_other_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    tiny().write(folder.path());
    fs::remove_file(folder.path().join("tokenizer.model")).unwrap();
    fs::write(folder.path().join("tekken.json"), tekken().to_string()).unwrap();
    fs::write(folder.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    let model = converted_model(folder.path(), &Request::default());
    assert_eq!(model.metadata().string("tokenizer.ggml.pre").unwrap(), "tekken");
    assert_eq!(model.metadata().string("tokenizer.chat_template").unwrap(), "{{ messages }}");
}

#[test]
fn damaged_files_are_named() {
    let problem_with = |change: &dyn Fn(&mut Json)| {
        let folder = tempfile::tempdir().unwrap();
        let mut json = tekken();
        change(&mut json);
        write(folder.path(), &json);
        match failure(folder.path(), &Request::default()) {
            Error::Tokenizer { path, problem } => {
                assert!(path.ends_with("tekken.json"));
                problem
            }
            other => panic!("{other}"),
        }
    };
    let entries: [&dyn Fn(&mut Json); 8] = [
        &|json| json["vocab"][7]["rank"] = json!(8),
        &|json| json["vocab"][7]["token_bytes"] = json!(""),
        &|json| json["vocab"][7]["token_bytes"] = json!("A"),
        &|json| json["config"]["default_vocab_size"] = json!(23),
        &|json| json["config"]["default_vocab_size"] = json!(1000),
        &|json| json["config"]["default_num_special_tokens"] = json!(u64::MAX),
        &|json| json["config"]["default_num_special_tokens"] = json!(19),
        &|json| json["special_tokens"] = json!([{ "rank": 24, "token_str": "x" }]),
    ];
    for (case, change) in entries.iter().enumerate() {
        let problem = problem_with(change);
        assert!(matches!(problem, TokenizerError::Tekken { .. }), "{case}: {problem}");
    }
    let problem = problem_with(&|json| json["vocab"][7]["token_bytes"] = json!("CA=="));
    assert_eq!(problem, TokenizerError::RepeatedBytes { first: 7, second: 8 });
    let problem = problem_with(&|json| json["vocab"][7]["token_bytes"] = json!("A".repeat(400)));
    assert!(matches!(problem, TokenizerError::LongToken { rank: 7, bytes: 300, .. }), "{problem}");
    let problem = problem_with(&|json| json["config"]["pattern"] = json!(r"\S+"));
    assert!(matches!(problem, TokenizerError::PreTokenizer { .. }), "{problem}");
}
