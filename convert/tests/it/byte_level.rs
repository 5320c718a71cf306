//! Byte-level BPE vocabularies of `tokenizer.json`.

use std::{fs, path::Path};

use llq_convert::{Error, OpenOptions, PreName, Request, TokenizerError, open, open_with};
use llq_gguf::{Array, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::support::{
    assert_says, converted, converted_model, failure,
    tiny::{EMBEDDING, Tensor, Tiny},
};

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Eight tokens of the model, a hole, and three added ones.
fn tokenizer_json() -> Json {
    let split = json!({ "type": "Split", "pattern": { "Regex": LLAMA_3 },
        "behavior": "Isolated", "invert": false });
    let spell = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
    json!({
        "added_tokens": [
            { "id": 9, "content": "<bos>", "special": true },
            { "id": 10, "content": "<|im_end|>", "special": false },
            { "id": 11, "content": "word", "special": false },
        ],
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, spell] },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<bos>" } }, { "Sequence": { "id": "A" } }],
            "pair": [],
        },
        "model": {
            "type": "BPE",
            "ignore_merges": true,
            "vocab": { "a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "Ġ": 5, "Ġa": 6, "bc": 7 },
            "merges": ["a b", "ab c", "Ġ a", "b c"],
        },
    })
}

/// Writes the small model with that tokenizer.
fn write_model(folder: &Path, tokenizer: &str) {
    let mut tiny = Tiny::new();
    tiny.config["bos_token_id"] = json!(0);
    let settings = json!({ "bos_token": "<bos>", "chat_template": "{{ messages }}" });
    tiny.others.insert("tokenizer_config.json", settings);
    tiny.write(folder);
    fs::remove_file(folder.join("tokenizer.model")).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
}

fn failure_with(tokenizer: &str) -> Error {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), tokenizer);
    failure(folder.path(), &Request::default())
}

/// What is wrong after a change.
fn problem_with(change: impl Fn(&mut Json)) -> TokenizerError {
    let mut json = tokenizer_json();
    change(&mut json);
    match failure_with(&json.to_string()) {
        Error::Tokenizer { path, problem } => {
            assert!(path.ends_with("tokenizer.json"));
            problem
        }
        other => panic!("{other}"),
    }
}

#[test]
fn the_vocabulary_is_written() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &tokenizer_json().to_string());
    let source = open(folder.path()).unwrap();
    let metadata = source.metadata();
    assert_eq!(metadata.string("tokenizer.ggml.model").unwrap(), "gpt2");
    assert_eq!(metadata.string("tokenizer.ggml.pre").unwrap(), "llama-bpe");
    assert_eq!(metadata.string("tokenizer.chat_template").unwrap(), "{{ messages }}");
    assert!(metadata.get("tokenizer.ggml.scores").is_none());
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap();
    let Some(Value::Array(Array::I32(kinds))) = metadata.get("tokenizer.ggml.token_type") else {
        panic!("no types")
    };
    let expected = [
        (4, "abc", 1),
        (8, "[PAD8]", 5),
        (9, "<bos>", 3),
        (10, "<|im_end|>", 3),
        (11, "word", 4),
        (15, "[PAD15]", 5),
    ];
    for (id, text, kind) in expected {
        assert_eq!((tokens.get(id), kinds[id]), (Some(text), kind));
    }
    let merges = metadata.strings("tokenizer.ggml.merges").unwrap();
    assert_eq!(merges.iter().collect::<Vec<_>>(), ["a b", "ab c", "Ġ a", "b c"]);
    // tokenizer_config.json goes before config.json.
    assert_eq!(metadata.count("tokenizer.ggml.bos_token_id").unwrap(), 9);
    assert_eq!(metadata.get("tokenizer.ggml.add_bos_token"), Some(&Value::Bool(true)));
    assert_eq!(metadata.get("tokenizer.ggml.add_eos_token"), Some(&Value::Bool(false)));
}

#[test]
fn merges_have_two_forms() {
    let folder = tempfile::tempdir().unwrap();
    let mut json = tokenizer_json();
    write_model(folder.path(), &json.to_string());
    let strings = converted(folder.path(), &Request::default());
    json["model"]["merges"] = json!([["a", "b"], ["ab", "c"], ["Ġ", "a"], ["b", "c"]]);
    write_model(folder.path(), &json.to_string());
    assert!(converted(folder.path(), &Request::default()) == strings);
}

#[test]
fn an_unknown_pre_tokenizer_is_shown_and_can_be_named() {
    let mut json = tokenizer_json();
    json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("\\p{Han}+");
    let error = failure_with(&json.to_string());
    assert_says(&error, &["tokenizer.json", "p{Han}+", "ignore_merges", "--pre NAME"]);

    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &json.to_string());
    let options = OpenOptions { pre: PreName::parse("tekken").ok(), ..OpenOptions::default() };
    let source = open_with(folder.path(), &options).unwrap();
    assert_eq!(source.metadata().string("tokenizer.ggml.pre").unwrap(), "tekken");
}

#[test]
fn merges_must_join_tokens_to_tokens() {
    let cases = [
        (json!("a x"), "a part is no token"),
        (json!("a c"), "what it makes is no token"),
        (json!("ab"), "not two parts"),
        (json!("a b c"), "not two parts"),
        (json!(["", "a"]), "not two parts"),
    ];
    for (merge, expected) in cases {
        let problem = problem_with(|json| json["model"]["merges"][1] = merge.clone());
        let TokenizerError::Merge { index: 1, problem, .. } = problem else { panic!("{problem}") };
        assert!(problem.contains(expected), "{merge}: {problem}");
    }
}

#[test]
fn ids_must_be_of_one_token_each() {
    let problem = problem_with(|json| json["model"]["vocab"]["d"] = json!(3));
    assert!(matches!(problem, TokenizerError::RepeatedId { id: 3, .. }), "{problem}");
    let problem = problem_with(|json| json["added_tokens"][2]["content"] = json!("ab"));
    assert!(matches!(problem, TokenizerError::Repeated { first: 3, second: 11, .. }), "{problem}");
    for change in [
        (|json: &mut Json| json["model"]["vocab"]["d"] = json!(1u64 << 31)) as fn(&mut Json),
        |json| json["added_tokens"][0]["id"] = json!(u64::MAX),
    ] {
        assert!(matches!(problem_with(change), TokenizerError::TokenId { .. }));
    }
    let negative = tokenizer_json().to_string().replace("\"bc\":7", "\"bc\":-7");
    assert!(matches!(failure_with(&negative), Error::Json { .. }));
    let doubled = tokenizer_json().to_string().replace("\"bc\":7", "\"bc\":7,\"bc\":12");
    let error = failure_with(&doubled);
    let Error::Tokenizer { problem: TokenizerError::Repeated { .. }, .. } = error else {
        panic!("{error}")
    };
}

#[test]
fn ids_beyond_the_embedding_cost_nothing() {
    let mut json = tokenizer_json();
    json["model"]["vocab"]["d"] = json!(i32::MAX);
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &json.to_string());
    let source = open(folder.path()).unwrap();
    assert_eq!(source.metadata().strings("tokenizer.ggml.tokens").unwrap().len(), 16);
    assert!(source.notes()[0].0.contains("2147483648 tokens"), "{:?}", source.notes());
}

#[test]
fn other_models_are_refused() {
    let cases = [
        ("type", json!("Unigram"), "type"),
        ("end_of_word_suffix", json!("</w>"), "end_of_word_suffix"),
    ];
    for (key, value, expected) in cases {
        let problem = problem_with(|json| json["model"][key] = value.clone());
        let TokenizerError::BpeModel { key, .. } = problem else { panic!("{problem}") };
        assert_eq!(key, expected);
    }
    for text in ["", "{}", "[]", "{\"model\":{\"vocab\":[],\"merges\":[]}}"] {
        assert!(matches!(failure_with(text), Error::Json { .. }), "{text}");
    }
}

#[test]
fn what_would_fill_the_memory_is_refused() {
    let few = tokenizer_json().to_string();
    let merges = format!("\"merges\":[{}\"a b\"", "\"\",".repeat(1 << 21));
    let many = few.replace("\"merges\":[\"a b\"", &merges);
    assert!(many.len() > few.len());
    assert_says(&failure_with(&many), &["tokenizer.json", "more than 2097152 entries"]);
    let step = format!("\"normalizer\":[{}0],\"model\":", "0,".repeat(1 << 20));
    let long = few.replace("\"model\":", &step);
    assert_says(&failure_with(&long), &["tokenizer.json", "a step of 2097155 bytes"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damage_never_panics(at in 0usize..1500, byte in any::<u8>()) {
        let mut text = tokenizer_json().to_string().into_bytes();
        let at = at % text.len();
        text[at] = byte;
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), "");
        fs::write(folder.path().join("tokenizer.json"), text).unwrap();
        drop(open(folder.path()));
    }
}

/// SmolLM: GPT-2's words with digits apart, tied embeddings, few key-value heads, and 49152 tokens,
/// by which llama.cpp's converter knows that no text begins with a token of its own.
#[test]
fn a_model_as_smollm_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut json = tokenizer_json();
    let digits = json!({ "type": "Digits", "individual_digits": true });
    let gpt2 = json!({ "type": "ByteLevel", "add_prefix_space": false });
    json["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": [digits, gpt2] });
    json["post_processor"] = json!(null);
    json["model"]["ignore_merges"] = json!(false);
    write_model(folder.path(), &json.to_string());
    let mut tiny = Tiny::new();
    tiny.tensors.remove("lm_head.weight");
    tiny.config["tie_word_embeddings"] = json!(true);
    tiny.config["num_key_value_heads"] = json!(1);
    for name in ["k_proj", "v_proj"] {
        for block in 0..2 {
            let name = format!("model.layers.{block}.self_attn.{name}.weight");
            tiny.tensors.insert(name, Tensor::new(block, &[8, EMBEDDING]));
        }
    }
    let embedding = Tensor::new(3, &[49152, EMBEDDING]);
    tiny.tensors.insert("model.embed_tokens.weight".to_owned(), embedding);
    tiny.config["vocab_size"] = json!(49152);
    let key = tiny.tensors["model.layers.1.self_attn.k_proj.weight"].bf16();
    tiny.write(folder.path());
    fs::remove_file(folder.path().join("tokenizer.model")).unwrap();

    let model = converted_model(folder.path(), &Request::default());
    assert_eq!(model.metadata().string("tokenizer.ggml.pre").unwrap(), "starcoder");
    assert!(!model.metadata().bool("tokenizer.ggml.add_bos_token").unwrap());
    assert_eq!(model.metadata().count("llama.attention.head_count_kv").unwrap(), 1);
    assert!(model.tensor("output.weight").is_none());
    // One head of eight rows: each row of the first half, and then its partner of the second.
    let row = |bytes: &[u8], row: usize| bytes[row * 64..][..64].to_vec();
    let found = model.data(model.tensor("blk.1.attn_k.weight").unwrap());
    for (written, published) in [0, 4, 1, 5, 2, 6, 3, 7].into_iter().enumerate() {
        assert!(row(found, written) == row(&key, published), "{written}");
    }
}
