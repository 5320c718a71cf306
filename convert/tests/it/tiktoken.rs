//! The tokenizer of LLaMA 3's Meta form.

use std::{fs, path::Path};

use llq_convert::{Error, Request, TokenizerError, open};
use llq_gguf::{Array, Metadata, Value};
use serde_json::json;

use crate::support::{
    failure,
    meta::{self, EmbeddingCut},
    tiny::Tiny,
};

/// Base64 of each single byte.
fn single_bytes() -> Vec<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |value: u16| char::from(DIGITS[usize::from(value)]);
    (0..256).map(|byte| format!("{}{}==", digit(byte >> 2), digit((byte & 3) << 4))).collect()
}

/// The file of tokens in Base64, with their ranks.
fn file(tokens: &[String]) -> String {
    tokens.iter().enumerate().map(|(rank, token)| format!("{token} {rank}\n")).collect()
}

/// The small model with a tokenizer of those bytes and further parameters.
fn write_model(folder: &Path, tokenizer: &str, params: &[(&str, serde_json::Value)]) {
    meta::write(&Tiny::new(), folder, 1, EmbeddingCut::Rows);
    fs::write(folder.join("tokenizer.model"), tokenizer).unwrap();
    let path = folder.join("params.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in params {
        json[*key] = value.clone();
    }
    fs::write(path, json.to_string()).unwrap();
}

fn problem_with(tokenizer: &str) -> TokenizerError {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), tokenizer, &[]);
    match failure(folder.path(), &Request::default()) {
        Error::Tokenizer { path, problem } => {
            assert!(path.ends_with("tokenizer.model"));
            problem
        }
        other => panic!("{other}"),
    }
}

#[test]
fn damaged_lines_are_named() {
    let good = single_bytes();
    let with_line_3 = |line: &str| {
        let mut lines: Vec<String> = file(&good).lines().map(str::to_owned).collect();
        lines[2] = line.to_owned();
        lines.join("\n")
    };
    let malformed =
        ["", "Ag== ", "Ag==2", "Ag= 2", "Ah== 2", "A*== 2", " 2", "Ag==  2", "Ag== +2", "Ag== 2 2"];
    for line in malformed {
        let problem = problem_with(&with_line_3(line));
        assert_eq!(problem, TokenizerError::TiktokenLine { line: 3 }, "{line}");
    }
    for (line, found) in [("Ag== 1", 1), ("Ag== 3", 3), ("Ag== 4294967298", 1 << 32 | 2)] {
        let problem = problem_with(&with_line_3(line));
        assert_eq!(problem, TokenizerError::Rank { line: 3, expected: 2, found }, "{line}");
    }
}

#[test]
fn tokens_must_differ_and_spell_every_byte() {
    let mut tokens = single_bytes();
    tokens[7] = tokens[9].clone();
    assert_eq!(problem_with(&file(&tokens)), TokenizerError::RepeatedBytes { first: 7, second: 9 });
    tokens.truncate(7);
    assert_eq!(problem_with(&file(&tokens)), TokenizerError::MissingByte { byte: 7 });
    tokens[6] = "A".repeat(400);
    let long = TokenizerError::LongToken { rank: 6, bytes: 300, limit: 256 };
    assert_eq!(problem_with(&file(&tokens)), long);
}

#[test]
fn merges_are_all_pairs_by_rank() {
    let mut tokens = single_bytes();
    // "ab", "bc", "abc", "abcd": the third from a+bc and ab+c, the last from abc+d only.
    tokens.extend(["YWI=", "YmM=", "YWJj", "YWJjZA=="].map(str::to_owned));
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &file(&tokens), &[]);
    let source = open(folder.path()).unwrap();
    let merges = source.metadata().strings("tokenizer.ggml.merges").unwrap();
    assert_eq!(merges.iter().collect::<Vec<_>>(), ["a b", "b c", "a bc", "ab c", "abc d"]);
}

#[test]
fn scaled_positions_mean_llama_3_1() {
    let tokens = file(&single_bytes());
    let folder = tempfile::tempdir().unwrap();
    let context = |metadata: &Metadata| metadata.count("llama.context_length").unwrap();
    write_model(folder.path(), &tokens, &[("rope_theta", json!(5e5))]);
    let llama_3 = open(folder.path()).unwrap();
    assert_eq!(context(llama_3.metadata()), 8192);
    assert!(llama_3.tensors().iter().all(|tensor| tensor.name != "rope_freqs.weight"));
    assert!(llama_3.notes().iter().any(|note| note.0.contains("names of Llama 3,")));

    let scaled = [("rope_theta", json!(5e5)), ("use_scaled_rope", json!(true))];
    write_model(folder.path(), &tokens, &scaled);
    let llama_3_2 = open(folder.path()).unwrap();
    assert_eq!(context(llama_3_2.metadata()), 131_072);
    let rope = llama_3_2.tensors().iter().position(|t| t.name == "rope_freqs.weight").unwrap();
    assert_eq!(llama_3_2.tensors()[rope].shape, [4]);
    let mut divisors = [0; 16];
    llama_3_2.read_rows(rope, 0..1, &mut divisors).unwrap();
    assert_eq!(divisors[..4], 1f32.to_le_bytes());
    assert_eq!(divisors[12..], 32f32.to_le_bytes());
}

#[test]
fn an_output_equal_to_the_embedding_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    let embedding = tiny.tensors["model.embed_tokens.weight"].clone();
    tiny.tensors.insert("lm_head.weight".to_owned(), embedding);
    meta::write(&tiny, folder.path(), 2, EmbeddingCut::Rows);
    let source = open(folder.path()).unwrap();
    assert!(source.tensors().iter().all(|tensor| tensor.name != "output.weight"));

    // The last weight of the last row differs.
    *tiny.tensors.get_mut("lm_head.weight").unwrap().weights.last_mut().unwrap() += 1.0;
    meta::write(&tiny, folder.path(), 2, EmbeddingCut::Rows);
    let source = open(folder.path()).unwrap();
    assert!(source.tensors().iter().any(|tensor| tensor.name == "output.weight"));
}

#[test]
fn special_tokens_follow_those_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let tensor = tiny.tensors.get_mut(name).unwrap();
        tensor.shape[0] = 520;
        tensor.weights.resize(520 * 32, 0.5);
    }
    meta::write(&tiny, folder.path(), 1, EmbeddingCut::Rows);
    fs::write(folder.path().join("tokenizer.model"), file(&single_bytes())).unwrap();
    let source = open(folder.path()).unwrap();
    let metadata = source.metadata();
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap();
    let Some(Value::Array(Array::I32(kinds))) = metadata.get("tokenizer.ggml.token_type") else {
        panic!("no types")
    };
    for (id, text, kind) in [
        (0, "Ā", 1),
        (255, "ÿ", 1),
        (256, "<|begin_of_text|>", 3),
        (265, "<|eot_id|>", 3),
        (511, "<|reserved_special_token_250|>", 3),
        (512, "[PAD512]", 5),
    ] {
        assert_eq!((tokens.get(id), kinds[id]), (Some(text), kind));
    }
    assert_eq!(metadata.count("tokenizer.ggml.bos_token_id").unwrap(), 256);
    assert_eq!(metadata.count("tokenizer.ggml.eos_token_id").unwrap(), 257);
    assert!(source.notes().iter().any(|note| note.0.contains("8 rows get the name")));
}
