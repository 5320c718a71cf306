//! What Meta's folders leave open, and how it is decided.

use std::{fs, path::Path};

use llq_convert::{OpenOptions, Source, open, open_with};
use llq_gguf::{Model, Value};
use llq_quant::mix::Mix;
use serde_json::{Value as Json, json};

use crate::support::{
    converted,
    meta::{self, EmbeddingCut},
    request,
    tiny::{EMBEDDING, Tensor, Tiny, named_tokenizer},
};

fn write(folder: &Path) {
    fs::create_dir(folder).unwrap();
    meta::write(&Tiny::new(), folder, 1, EmbeddingCut::Columns);
}

/// Replaces a value of `params.json`.
fn set(folder: &Path, key: &str, value: Json) {
    let path = folder.join("params.json");
    let mut params: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    params[key] = value;
    fs::write(path, params.to_string()).unwrap();
}

fn notes(source: &dyn Source) -> Vec<&str> {
    source.notes().iter().map(|note| note.0.as_str()).collect()
}

fn context(source: &dyn Source) -> u64 {
    source.metadata().count("llama.context_length").unwrap()
}

#[test]
fn the_context_length_follows_from_the_generation_and_is_noted() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("7B");
    write(&folder);
    let cases = [
        ("norm_eps", json!(1e-5), 4096, "that of Llama 2, as norm_eps is 1e-05"),
        ("norm_eps", json!(1e-6), 2048, "that of LLaMA 1, as norm_eps"),
        ("rope_theta", json!(1e6), 16384, "that of Code Llama, as rope_theta is 1000000"),
        ("rope_theta", json!(5e5), 8192, "that of Llama 3, as rope_theta is 500000"),
        ("use_scaled_rope", json!(true), 131_072, "as use_scaled_rope is true"),
    ];
    for (key, value, length, why) in cases {
        set(&folder, key, value);
        let source = open(&folder).unwrap();
        assert_eq!(context(&*source), length);
        let note = notes(&*source)[0];
        assert!(note.contains(&format!("{length}, ")) && note.contains(why), "{note}");
    }
}

#[test]
fn a_context_length_that_is_given_is_not_guessed() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("7B");
    write(&folder);
    let options = OpenOptions { context_length: Some(100), ..OpenOptions::default() };
    let source = open_with(&folder, &options).unwrap();
    assert_eq!(context(&*source), 100);
    assert_eq!(notes(&*source), [""; 0]);
}

#[test]
fn the_tokenizer_may_be_one_folder_up() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("7B");
    write(&folder);
    fs::rename(folder.join("tokenizer.model"), above.path().join("tokenizer.model")).unwrap();
    let source = open(&folder).unwrap();
    assert!(notes(&*source).contains(&"tokenizer.model is taken from the folder above"));
    fs::remove_file(above.path().join("tokenizer.model")).unwrap();
    let error = open(&folder).unwrap_err().to_string();
    assert!(error.contains("no tokenizer.model, nor in the folder above"), "{error}");
}

/// The small model with Code Llama's tokens around a gap, in both forms.
#[test]
fn tokens_around_a_gap_are_written_in_both_forms() {
    let names = ["<unk>", "<s>", "</s>", "\u{2581}<PRE>", "\u{2581}<SUF>", "\u{2581}<MID>"];
    for (last, expected) in [("\u{2581}<EOT>", Some([3, 4, 5, 6])), ("x", None)] {
        let above = tempfile::tempdir().unwrap();
        let (meta, hf) = (above.path().join("meta"), above.path().join("hf"));
        write(&meta);
        fs::create_dir(&hf).unwrap();
        let names = [&names[..], &[last]].concat();
        let mut tiny = Tiny::new();
        tiny.tokenizer = named_tokenizer(&names);
        tiny.write(&hf);
        fs::write(meta.join("tokenizer.model"), &tiny.tokenizer).unwrap();
        for folder in [meta, hf] {
            let source = open(&folder).unwrap();
            let id = |key: &str| {
                let key = format!("tokenizer.ggml.{key}_token_id");
                source.metadata().get(&key).map(|_| source.metadata().count(&key).unwrap())
            };
            let found = ["prefix", "suffix", "middle", "eot"].map(id);
            assert_eq!(found, expected.map_or([None; 4], |ids| ids.map(Some)), "{folder:?}");
        }
    }
}

#[test]
fn the_end_of_a_llama_3_model_follows_from_its_name() {
    // 256 bytes as tokens, then 256 special ones.
    const SIZE: u64 = 512;
    let mut tiny = Tiny::new();
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let weights = vec![0.5; (SIZE * EMBEDDING) as usize];
        tiny.tensors.insert(name.to_owned(), Tensor { shape: vec![SIZE, EMBEDDING], weights });
    }
    for (name, eos, why) in [
        ("Meta-Llama-3-8B", 257, "EOS is <|end_of_text|>"),
        ("Meta-Llama-3-8B-Instruct", 265, "EOS is <|eot_id|>"),
        ("Meta-Llama-3-8B-Instruct/original", 265, "EOS is <|eot_id|>"),
    ] {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        meta::write(&tiny, &folder, 1, EmbeddingCut::Rows);
        set(&folder, "rope_theta", json!(5e5));
        fs::write(folder.join("tokenizer.model"), bytes_as_tiktoken()).unwrap();
        let source = open(&folder).unwrap();
        assert_eq!(source.metadata().count("tokenizer.ggml.eos_token_id").unwrap(), eos);
        assert!(notes(&*source).iter().any(|note| note.starts_with(why)), "{:?}", source.notes());
    }
}

/// One line a byte: its Base64, and its rank.
fn bytes_as_tiktoken() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |value: usize| char::from(DIGITS[value]);
    let line = |b: usize| format!("{}{}== {b}\n", digit(b >> 2), digit((b & 3) << 4));
    (0..256).map(line).collect()
}

/// 32016 tokens, of which four stand around a gap, and LLaMA's 32000.
#[test]
fn code_llama_of_either_vocabulary_is_the_same_in_both_forms() {
    for (size, infill) in [(32016, Some([32007, 32008, 32009, 32010])), (32000, None)] {
        let above = tempfile::tempdir().unwrap();
        let (meta, hf) = (above.path().join("meta"), above.path().join("hf"));
        let mut names: Vec<String> = (0..size).map(|id| format!("t{id}")).collect();
        for (id, name) in infill.into_iter().flatten().zip(["<PRE>", "<SUF>", "<MID>", "<EOT>"]) {
            names[id] = format!("\u{2581}{name}");
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut tiny = Tiny::new();
        tiny.tokenizer = named_tokenizer(&names);
        for (seed, name) in ["model.embed_tokens.weight", "lm_head.weight"].iter().enumerate() {
            let tensor = Tensor::new(seed, &[size as u64, EMBEDDING]);
            tiny.tensors.insert((*name).to_owned(), tensor);
        }
        tiny.config["vocab_size"] = json!(size);
        tiny.config["rope_theta"] = json!(1e6);
        tiny.config["max_position_embeddings"] = json!(16384);
        let settings = json!({ "add_bos_token": true, "add_eos_token": false });
        tiny.others.insert("tokenizer_config.json", settings);
        for folder in [&meta, &hf] {
            fs::create_dir(folder).unwrap();
        }
        tiny.write(&hf);
        meta::write(&tiny, &meta, 2, EmbeddingCut::Columns);
        set(&meta, "rope_theta", json!(1e6));
        fs::write(meta.join("tokenizer.model"), &tiny.tokenizer).unwrap();

        let [of_meta, of_hf] = [&meta, &hf].map(|folder| converted(folder, &request(Mix::Q8_0)));
        assert!(of_meta == of_hf, "{size} tokens");
        let model = Model::from_bytes(of_meta).unwrap();
        let metadata = model.metadata();
        assert_eq!(metadata.count("llama.context_length").unwrap(), 16384);
        assert_eq!(metadata.get("llama.rope.freq_base"), Some(&Value::F32(1e6)));
        let id = |key: &str| metadata.count(&format!("tokenizer.ggml.{key}_token_id")).ok();
        let found = ["prefix", "suffix", "middle", "eot"].map(id);
        assert_eq!(found, infill.map_or([None; 4], |ids| ids.map(|id| Some(id as u64))));
    }
}
