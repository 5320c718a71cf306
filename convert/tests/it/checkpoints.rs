//! Folders: what tells an architecture, and what a checkpoint may lack or have too much.

use std::{fs, path::Path};

use llq_convert::{Error, Request};
use llq_fixtures::fixture;
use llq_gguf::{TensorType, Value};
use llq_quant::mix::Mix;
use serde_json::json;

use crate::support::{
    assert_says, converted, converted_model, failure, request,
    tiny::{EMBEDDING, KEYS, Tensor, Tiny, VOCABULARY},
    tiny_failure,
};

#[test]
fn unknown_architectures_are_named_with_the_known_ones() {
    let error = tiny_failure(|tiny| tiny.config["architectures"] = json!(["FalconForCausalLM"]));
    assert!(matches!(error, Error::Unsupported { .. }));
    assert_says(&error, &["config.json", "architectures", "FalconForCausalLM", "LlamaForCausalLM"]);
    let error = tiny_failure(|tiny| {
        tiny.config.as_object_mut().unwrap().remove("architectures");
        tiny.config["model_type"] = json!("gpt_neox");
    });
    assert_says(&error, &["model_type", "gpt_neox", "llama"]);
}

#[test]
fn what_is_not_done_yet_is_refused() {
    let longrope = json!({ "rope_type": "longrope", "factor": 8.0 });
    let error = tiny_failure(|tiny| tiny.config["rope_scaling"] = longrope.clone());
    assert_says(&error, &["rope_scaling.rope_type", "longrope", "llama3"]);
}

#[test]
fn paths_that_are_no_checkpoint_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = failure(folder.path(), &Request::default());
    assert!(matches!(error, Error::NotACheckpoint { .. }));
    assert_says(&error, &["config.json", "params.json"]);
    let error = failure(&folder.path().join("absent"), &Request::default());
    assert!(matches!(error, Error::Io { .. }));

    let file = folder.path().join("model.gguf");
    for bytes in [&b"GGML\0\0"[..], b"", b"GG"] {
        fs::write(&file, bytes).unwrap();
        let error = failure(&file, &Request::default());
        assert!(matches!(error, Error::NotACheckpoint { .. }), "{error}");
    }
    let error = failure(&fixture("tiny-llama-2/hf/model.safetensors"), &Request::default());
    assert_says(&error, &["name its folder"]);
}

#[test]
fn missing_files_are_named() {
    let failure_without = |form: &str, file: &str| {
        let folder = tempfile::tempdir().unwrap();
        for entry in fixture(form).read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() != file {
                fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        failure(folder.path(), &Request::default())
    };
    let cases = [
        ("tiny-llama-2/hf", "model.safetensors", "model.safetensors.index.json"),
        ("tiny-llama-2/hf", "tokenizer.model", "tokenizer.model"),
        ("tiny-llama-2/meta", "tokenizer.model", "tokenizer.model"),
        ("tiny-llama-2/meta", "consolidated.00.pth", "consolidated.00.pth"),
        ("tiny-llama-2/meta", "consolidated.01.pth", "no consolidated.01.pth"),
    ];
    for (form, file, named) in cases {
        let error = failure_without(form, file);
        assert!(matches!(error, Error::MissingFile { .. }), "{error}");
        assert_says(&error, &[named]);
    }
}

#[test]
fn weights_of_another_form_are_named() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let weights = folder.path().join("model.safetensors");
    fs::rename(&weights, folder.path().join("weights.bin")).unwrap();
    let error = failure(folder.path(), &Request::default());
    assert!(matches!(error, Error::MissingFile { .. }), "{error}");
    assert_says(&error, &["model.safetensors", "pytorch_model.bin", "though there is weights.bin"]);
}

#[test]
fn git_lfs_pointers_are_named() {
    for file in ["config.json", "tokenizer.model", "model.safetensors"] {
        let folder = tempfile::tempdir().unwrap();
        Tiny::new().write(folder.path());
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        fs::write(folder.path().join(file), pointer).unwrap();
        assert_says(&failure(folder.path(), &Request::default()), &[file, "git lfs pull"]);
    }
}

#[test]
fn what_would_change_the_model_silently_is_refused() {
    let error = tiny_failure(|tiny| tiny.config["hidden_act"] = json!("gelu"));
    assert_says(&error, &["hidden_act", "gelu", "silu"]);
    for (key, value) in [
        ("partial_rotary_factor", json!(0.5)),
        ("rope_parameters", json!({ "rope_type": "default", "partial_rotary_factor": 0.5 })),
    ] {
        let error = tiny_failure(|tiny| tiny.config[key] = value.clone());
        assert_says(&error, &["partial_rotary_factor", "\"0.5\" is not supported"]);
    }
    let bad_scaling = [
        (json!({ "type": 7, "factor": 2 }), "rope_scaling.type"),
        (json!({ "type": "linear", "factor": 0 }), "\"factor\""),
        (json!({ "type": "yarn", "factor": -1 }), "\"factor\""),
    ];
    for (scaling, key) in bad_scaling {
        let error = tiny_failure(|tiny| tiny.config["rope_scaling"] = scaling.clone());
        assert_says(&error, &["config.json", key]);
    }
}

#[test]
fn config_keys_are_checked() {
    let bad = [
        ("hidden_size", json!("32"), "a whole number"),
        ("hidden_size", json!(-1), "a whole number"),
        ("hidden_size", json!(0), "\"hidden_size\" is 0, expected 1 to"),
        ("num_hidden_layers", json!(513), "1 to 512"),
        ("num_attention_heads", json!(0), "1 to"),
        ("num_key_value_heads", json!(3), "a divisor of"),
        ("head_dim", json!(7), "an even number"),
        ("rms_norm_eps", json!(null), "absent"),
        ("rms_norm_eps", json!(1e300), "a number that f32 has room for"),
        ("rope_theta", json!(-1), "a positive number"),
        ("rope_scaling", json!({ "type": "yarn", "factor": 2, "beta_fast": 1e300 }), "f32"),
        ("vocab_size", json!(u32::MAX), "1 to"),
        ("rope_scaling", json!({ "type": "linear", "factor": 0 }), "a positive number"),
        ("rope_scaling", json!({ "type": "llama3", "factor": 0 }), "a positive number"),
        ("rope_scaling", json!({ "type": "llama3", "high_freq_factor": 1 }), "low_freq_factor"),
        ("rope_scaling", json!({ "type": "llama3", "low_freq_factor": -1 }), "a positive number"),
        (
            "rope_scaling",
            json!({ "type": "llama3", "original_max_position_embeddings": 0 }),
            "a positive number",
        ),
    ];
    for (key, value, expected) in bad {
        let error = tiny_failure(|tiny| tiny.config[key] = value.clone());
        assert!(matches!(error, Error::Key { .. }), "{key}: {error}");
        assert_says(&error, &["config.json", expected]);
    }
}

#[test]
fn tensors_must_match_the_architecture() {
    let error = tiny_failure(|tiny| {
        let norm = tiny.tensors.remove("model.norm.weight").unwrap();
        tiny.tensors.insert("model.norms.weight".to_owned(), norm);
    });
    assert!(matches!(error, Error::MissingTensor { .. }));
    assert_says(&error, &["\"model.norm.weight\"", "nearest is \"model.norms.weight\""]);

    let error = tiny_failure(|tiny| {
        let extra = tiny.tensors["model.norm.weight"].clone();
        tiny.tensors.insert("model.layers.2.input_layernorm.weight".to_owned(), extra);
    });
    assert!(matches!(error, Error::UnexpectedTensor { .. }));
    assert_says(&error, &["model.layers.2.input_layernorm.weight", "nearest"]);

    let error = tiny_failure(|tiny| tiny.config["vocab_size"] = json!(17));
    assert!(matches!(error, Error::Shape { .. }));
    assert_says(&error, &["model.embed_tokens.weight", "[16, 32]", "[17, 32]"]);
}

#[test]
fn tied_embeddings_and_tables_of_angles_are_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.tensors.remove("lm_head.weight");
    let table = Tensor { shape: vec![4], weights: vec![1.0; 4] };
    tiny.tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), table);
    tiny.write(folder.path());
    let model = converted_model(folder.path(), &Request::default());
    assert!(model.tensor("output.weight").is_none());
    assert_eq!(model.tensors().len(), 2 + 2 * 9);
}

#[test]
fn an_output_projection_is_missing_unless_embeddings_are_tied() {
    let error = tiny_failure(|tiny| {
        tiny.tensors.remove("lm_head.weight");
        tiny.config["tie_word_embeddings"] = json!(false);
    });
    assert_says(&error, &["config.json", "tie_word_embeddings", "lm_head.weight"]);
}

#[test]
fn biases_are_reordered_with_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    let bias = Tensor { shape: vec![KEYS], weights: (0..KEYS).map(|i| i as f32).collect() };
    for name in ["k_proj", "v_proj"] {
        tiny.tensors.insert(format!("model.layers.1.self_attn.{name}.bias"), bias.clone());
    }
    tiny.write(folder.path());
    let model = converted_model(folder.path(), &Request::default());
    let read = |name: &str| {
        let info = model.tensor(name).unwrap();
        assert_eq!(info.tensor_type, TensorType::F32);
        let floats = model.data(info).as_chunks::<4>().0;
        floats.iter().map(|&bytes| f32::from_le_bytes(bytes) as u32).collect::<Vec<_>>()
    };
    let reordered = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15];
    assert_eq!(read("blk.1.attn_k.bias"), reordered);
    assert_eq!(read("blk.1.attn_v.bias"), (0..16).collect::<Vec<_>>());
}

#[test]
fn query_rows_are_interleaved_in_each_head() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    let rows = (0..EMBEDDING).flat_map(|row| [row as f32; EMBEDDING as usize]).collect();
    let tensor = Tensor { shape: vec![EMBEDDING, EMBEDDING], weights: rows };
    tiny.tensors.insert("model.layers.0.self_attn.q_proj.weight".to_owned(), tensor);
    tiny.write(folder.path());
    let model = converted_model(folder.path(), &request(Mix::F32));
    let info = model.tensor("blk.0.attn_q.weight").unwrap();
    let floats = model.data(info).as_chunks::<4>().0;
    let first_of_rows = floats.iter().step_by(EMBEDDING as usize);
    let found: Vec<u32> = first_of_rows.map(|&bytes| f32::from_le_bytes(bytes) as u32).collect();
    // Heads of eight rows: 0 and 4 are one rotated pair, and so on.
    assert_eq!(found[..10], [0, 4, 1, 5, 2, 6, 3, 7, 8, 12]);
}

#[test]
fn rope_and_head_dimension_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.config["rope_parameters"] =
        json!({ "rope_theta": 5e5, "rope_type": "linear", "factor": 4 });
    tiny.config["head_dim"] = json!(8);
    tiny.write(folder.path());
    let model = converted_model(folder.path(), &Request::default());
    let metadata = model.metadata();
    assert_eq!(metadata.get("llama.rope.freq_base"), Some(&Value::F32(5e5)));
    assert_eq!(metadata.get("llama.rope.scaling.factor"), Some(&Value::F32(4.0)));
    assert_eq!(metadata.string("llama.rope.scaling.type").unwrap(), "linear");
    assert_eq!(metadata.count("llama.attention.key_length").unwrap(), 8);
    assert_eq!(metadata.count("llama.vocab_size").unwrap(), VOCABULARY);

    tiny.config["rope_parameters"] = json!({ "rope_type": "default" });
    tiny.config["rope_theta"] = json!(1e6);
    tiny.write(folder.path());
    let model = converted_model(folder.path(), &Request::default());
    assert_eq!(model.metadata().get("llama.rope.freq_base"), Some(&Value::F32(1e6)));
}

#[test]
fn yarn_is_written_with_all_that_the_model_sets() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.config["rope_scaling"] = json!({ "rope_type": "yarn", "factor": 4.0,
        "original_max_position_embeddings": 32, "beta_fast": 16, "attention_factor": 1.25 });
    tiny.write(folder.path());
    let model = converted_model(folder.path(), &Request::default());
    let scaling = |key: &str| model.metadata().get(&format!("llama.rope.scaling.{key}")).cloned();
    assert_eq!(scaling("type"), Some(Value::String("yarn".to_owned())));
    assert_eq!(scaling("factor"), Some(Value::F32(4.0)));
    assert_eq!(scaling("original_context_length"), Some(Value::U32(32)));
    assert_eq!(scaling("yarn_beta_fast"), Some(Value::F32(16.0)));
    assert_eq!(scaling("yarn_attn_factor"), Some(Value::F32(1.25)));
    assert_eq!(scaling("yarn_beta_slow"), None);
}

#[test]
fn meta_shards_must_be_complete_and_of_one_model() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("tiny-llama-2/meta"), folder.path());
    let shard = |number: u32| folder.path().join(format!("consolidated.{number:02}.pth"));

    fs::rename(shard(1), shard(2)).unwrap();
    assert_says(&failure(folder.path(), &Request::default()), &["no consolidated.01.pth"]);
    fs::copy(shard(2), shard(1)).unwrap();
    let error = failure(folder.path(), &Request::default());
    assert!(matches!(error, Error::Shards { .. }), "{error}");
    assert_says(&error, &["3 shards of a model, though the tensors are cut into 2"]);
    fs::remove_file(shard(2)).unwrap();

    // One weight of a norm, which all shards hold whole: storage 1, behind its local header.
    let mut bytes = fs::read(shard(1)).unwrap();
    let name = b"consolidated.01/data/1";
    let header = bytes.windows(name.len()).position(|window| window == name).unwrap();
    bytes[header + 200] ^= 1;
    fs::write(shard(1), bytes).unwrap();
    let error = failure(folder.path(), &Request::default());
    assert!(matches!(error, Error::Shards { .. }), "{error}");
    assert_says(&error, &["\"norm.weight\"", "differs from the first shard's"]);
}

#[test]
fn params_may_be_nested_and_lack_kv_heads() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("tiny-llama-2/meta"), folder.path());
    let params = folder.path().join("params.json");
    let flat: serde_json::Value = serde_json::from_slice(&fs::read(&params).unwrap()).unwrap();
    fs::write(&params, json!({ "model": flat }).to_string()).unwrap();
    let request = Request { context_length: Some(2048), ..Request::default() };
    let nested = llq_gguf::Model::from_bytes(converted(folder.path(), &request)).unwrap();
    assert_eq!(nested.metadata().count("llama.attention.head_count_kv").unwrap(), 4);

    let mut without = flat;
    without.as_object_mut().unwrap().remove("n_kv_heads");
    fs::write(&params, without.to_string()).unwrap();
    // As many key-value heads as heads is what the file then says, and the shapes deny it.
    let error = failure(folder.path(), &request);
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}

fn copy(from: &Path, to: &Path) {
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn recommended_sampling_is_copied_where_it_is_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    let generation = json!({ "top_k": -1, "top_p": 0.5, "min_p": "low", "temperature": 1 });
    tiny.others.insert("generation_config.json", generation);
    tiny.write(folder.path());
    let model = converted_model(folder.path(), &Request::default());
    let sampling = |key: &str| model.metadata().get(&format!("general.sampling.{key}")).cloned();
    assert_eq!(sampling("top_k"), Some(Value::I32(-1)));
    assert_eq!(sampling("top_p"), Some(Value::F32(0.5)));
    assert_eq!(sampling("temp"), Some(Value::F32(1.0)));
    assert_eq!(sampling("min_p"), None);
}

#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_a_file_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let pipe = folder.path().join("config.json");
    fs::remove_file(&pipe).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = failure(folder.path(), &Request::default());
    assert_says(&error, &["config.json", "not a regular file"]);
}
