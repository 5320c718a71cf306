//! Adapters that become GGUF adapters.

use std::{fs, path::Path};

use llq_convert::{Error, OpenOptions, Request};
use llq_gguf::{Model, TensorType, Value};
use llq_quant::mix::Mix;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    assert_says,
    lora::{
        Made, by_hand, gguf_name, in_gguf_order, multiply, read, tensor, transpose,
        try_open_and_write,
    },
    request,
    tiny::{EMBEDDING, Tiny, VOCABULARY},
};

/// The folder of an adapter and that of its base's `config.json`.
fn written(made: &Made, tiny: &Tiny) -> (TempDir, OpenOptions, TempDir) {
    let [adapter, base] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    made.write(adapter.path());
    fs::write(base.path().join("config.json"), tiny.config.to_string()).unwrap();
    let options = OpenOptions { base: Some(base.path().to_owned()), ..OpenOptions::default() };
    (adapter, options, base)
}

fn converted(made: &Made, request: &Request) -> Result<Model, Error> {
    let (adapter, options, _base) = written(made, &Tiny::new());
    let bytes = try_open_and_write(adapter.path(), &options, request)?;
    Ok(Model::from_bytes(bytes).unwrap())
}

/// The base and what a loader adds to it must be the merged model.
#[track_caller]
fn assert_loads_as(made: &Made, tolerance: f64, factor: impl Fn(&str) -> f64) {
    let tiny = Tiny::new();
    let model = converted(made, &Request::default()).unwrap();
    let Some(&Value::F32(alpha)) = model.metadata().get("adapter.lora.alpha") else {
        panic!("alpha is there")
    };
    let modules: Vec<String> = made
        .tensors
        .keys()
        .filter_map(|name| name.strip_prefix("base_model.model.")?.split_once(".lora_"))
        .map(|(module, _)| module.to_owned())
        .collect();
    assert_eq!(model.tensors().len(), made.tensors.len());
    for module in modules {
        let name = gguf_name(&module);
        let a = read(&model, &format!("{name}.weight.lora_a"));
        let b = read(&model, &format!("{name}.weight.lora_b"));
        let rank = b.shape[1];
        let product = match module.as_str() {
            "model.embed_tokens" => multiply(&a, &transpose(&b)),
            _ => multiply(&b, &a),
        };
        let base = in_gguf_order(&module, &tiny.tensors[&format!("{module}.weight")]);
        let merged = by_hand(&tiny, &module, &[(made, factor(&module))]);
        let merged = in_gguf_order(&module, &merged);
        let scale = f64::from(alpha) / rank as f64;
        for ((base, product), merged) in base.weights.iter().zip(product).zip(&merged.weights) {
            let loaded = f64::from(*base) + scale * product;
            assert!((loaded - f64::from(*merged)).abs() <= tolerance, "{module}");
        }
    }
}

#[test]
fn a_loader_adds_what_merging_adds() {
    assert_loads_as(&Made::new(1).with_embedding(), 0.0, |_| 2.0);
}

#[test]
fn alpha_and_b_hold_what_rslora_and_patterns_say() {
    let mut made = Made::new(1);
    made.config["use_rslora"] = json!(true);
    assert_loads_as(&made, 0.0, |_| 4.0);
    let module = "model.layers.1.self_attn.k_proj";
    made.set(&format!("{module}.lora_A.weight"), tensor(7, &[1, EMBEDDING]));
    made.set(&format!("{module}.lora_B.weight"), tensor(8, &[16, 1]));
    made.config["rank_pattern"] = json!({ "1.self_attn.k_proj": 1 });
    made.config["alpha_pattern"] = json!({ "lm_head": 3 });
    assert_loads_as(&made, 1e-6, |module| match module {
        "model.layers.1.self_attn.k_proj" => 8.0,
        "lm_head" => 1.5,
        _ => 4.0,
    });
}

#[test]
fn the_metadata_is_that_of_an_adapter() {
    let mut made = Made::new(1).with_embedding();
    made.config["alora_invocation_tokens"] = json!([5, 6]);
    let model = converted(&made, &Request::default()).unwrap();
    let metadata = model.metadata();
    assert_eq!(metadata.string("general.type").unwrap(), "adapter");
    assert_eq!(metadata.string("general.architecture").unwrap(), "llama");
    assert_eq!(metadata.string("adapter.type").unwrap(), "lora");
    assert_eq!(metadata.get("adapter.lora.alpha"), Some(&Value::F32(8.0)));
    let tokens = metadata.get("adapter.alora.invocation_tokens");
    assert_eq!(tokens, Some(&Value::Array(llq_gguf::Array::U32(vec![5, 6]))));
    let names: Vec<&str> = model.tensors().iter().map(|t| t.name.as_str()).collect();
    let first = ["token_embd.weight.lora_a", "token_embd.weight.lora_b", "output.weight.lora_a"];
    assert_eq!(names[..3], first);
    assert_eq!(model.tensor(first[0]).unwrap().shape, [4, VOCABULARY]);
}

#[test]
fn types_are_plain() {
    let made = Made::new(1);
    for (mix, tensor_type) in [(Mix::F16, TensorType::F16), (Mix::BF16, TensorType::BF16)] {
        let model = converted(&made, &request(mix)).unwrap();
        assert!(model.tensors().iter().all(|tensor| tensor.tensor_type == tensor_type), "{mix}");
    }
    let error = converted(&made, &request(Mix::Q4_K_M)).unwrap_err();
    assert!(matches!(error, Error::QuantizedAdapter { .. }), "{error}");
    assert_says(&error, &["F32, F16 or BF16", "Q4_K_M"]);
}

#[test]
fn the_base_is_asked_for_where_it_is_not_told() {
    let made = Made::new(1);
    let (adapter, options, base) = written(&made, &Tiny::new());
    let convert =
        |path: &Path, options: &OpenOptions| try_open_and_write(path, options, &Request::default());
    let error = convert(adapter.path(), &OpenOptions::default()).unwrap_err();
    assert!(matches!(error, Error::NoBase { .. }), "{error}");
    assert_says(&error, &["config.json"]);
    let given = convert(adapter.path(), &options).unwrap();
    fs::copy(base.path().join("config.json"), adapter.path().join("config.json")).unwrap();
    assert!(given == convert(adapter.path(), &OpenOptions::default()).unwrap());

    // With a model's weights the folder is a checkpoint, also where shards have no index.
    Tiny::new().write_sharded(adapter.path());
    fs::remove_file(adapter.path().join("model.safetensors.index.json")).unwrap();
    let error = convert(adapter.path(), &options).unwrap_err();
    assert_says(&error, &["no adapter", "the folder of an adapter"]);
    let model = convert(adapter.path(), &OpenOptions::default()).unwrap();
    assert_eq!(
        Model::from_bytes(model).unwrap().metadata().string("general.type").unwrap(),
        "model"
    );
}

#[test]
fn what_only_a_merge_can_do_is_refused() {
    let mut whole = Made::new(1);
    whole.set("model.embed_tokens.weight", tensor(1, &[VOCABULARY, EMBEDDING]));
    let error = converted(&whole, &Request::default()).unwrap_err();
    assert_says(&error, &["model.embed_tokens.weight", "a whole weight", "merging"]);

    let mut dora = Made::new(1);
    dora.tensors.retain(|name, _| name.contains("lm_head"));
    dora.config["use_dora"] = json!(true);
    dora.set("lm_head.lora_magnitude_vector", tensor(1, &[VOCABULARY]));
    let error = converted(&dora, &Request::default()).unwrap_err();
    assert_says(&error, &["lora_magnitude_vector", "DoRA", "merging"]);

    let mut tiny = Tiny::new();
    tiny.config["tie_word_embeddings"] = json!(true);
    let (adapter, options, _base) = written(&Made::new(1), &tiny);
    let error = try_open_and_write(adapter.path(), &options, &Request::default()).unwrap_err();
    assert_says(&error, &["lm_head.lora_A.weight", "token embedding", "merging"]);
}

#[test]
fn norms_may_be_in_an_adapter() {
    let mut made = Made::new(1);
    let norm = tensor(1, &[EMBEDDING]);
    made.set("model.norm.weight", norm.clone());
    let model = converted(&made, &Request::default()).unwrap();
    assert_eq!(read(&model, "output_norm.weight"), norm);
}
