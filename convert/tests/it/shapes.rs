//! What config.json says of a LLaMA's shape.

use llq_convert::{Error, Request, open};
use llq_gguf::{Model, Value};
use llq_quant::mix::Mix;
use serde_json::json;

use crate::support::{
    assert_says, converted_model, failure, request,
    tiny::{EMBEDDING, KEYS, Tensor, Tiny},
};

/// The small model after a change to it, and what was said of it.
fn changed(change: impl Fn(&mut Tiny)) -> (Model, String) {
    let folder = written(change);
    let notes: Vec<String> =
        open(folder.path()).unwrap().notes().iter().map(ToString::to_string).collect();
    (converted_model(folder.path(), &request(Mix::F32)), notes.join("\n"))
}

fn written(change: impl Fn(&mut Tiny)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    change(&mut tiny);
    tiny.write(folder.path());
    folder
}

fn floats(model: &Model, name: &str) -> Vec<f32> {
    let bytes = model.data(model.tensor(name).unwrap());
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn numbered(shape: &[u64]) -> Tensor {
    let count = shape.iter().product::<u64>();
    Tensor { shape: shape.to_vec(), weights: (0..count).map(|i| i as f32).collect() }
}

#[test]
fn heads_may_be_wider_than_the_embedding_divided() {
    // Four query heads and two key heads of sixteen: 64 and 32 rows over an embedding of 32.
    let (model, _) = changed(|tiny| {
        tiny.config["head_dim"] = json!(16);
        for block in 0..2 {
            let stem = format!("model.layers.{block}.self_attn");
            for (name, rows) in [("q_proj", 64), ("k_proj", 32), ("v_proj", 32)] {
                let weights = Tensor::new(rows, &[rows as u64, EMBEDDING]);
                tiny.tensors.insert(format!("{stem}.{name}.weight"), weights);
            }
            tiny.tensors.insert(format!("{stem}.o_proj.weight"), Tensor::new(9, &[EMBEDDING, 64]));
            tiny.tensors.insert(format!("{stem}.q_proj.bias"), numbered(&[64]));
        }
    });
    let metadata = model.metadata();
    for key in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
        assert_eq!(metadata.get(&format!("llama.{key}")), Some(&Value::U32(16)), "{key}");
    }
    let bias = floats(&model, "blk.1.attn_q.bias");
    assert_eq!(bias[..6], [0.0, 8.0, 1.0, 9.0, 2.0, 10.0]);
    assert_eq!(bias[15..18], [15.0, 16.0, 24.0]);
    assert_eq!(bias.len(), 64);
}

#[test]
fn promised_biases_must_be_there() {
    let with_biases = |tiny: &mut Tiny| {
        tiny.config["attention_bias"] = json!(true);
        tiny.config["mlp_bias"] = json!(true);
        let weights: Vec<_> = tiny.tensors.iter().map(|(n, t)| (n.clone(), t.shape[0])).collect();
        for (name, rows) in weights {
            if let Some(stem) = name.strip_suffix("_proj.weight") {
                tiny.tensors.insert(format!("{stem}_proj.bias"), numbered(&[rows]));
            }
        }
    };
    let (model, _) = changed(with_biases);
    let biases = model.tensors().iter().filter(|tensor| tensor.name.ends_with(".bias"));
    assert_eq!(biases.count(), 2 * 7);
    assert_eq!(floats(&model, "blk.0.ffn_down.bias")[..3], [0.0, 1.0, 2.0]);
    assert_eq!(floats(&model, "blk.0.attn_k.bias")[..3], [0.0, 4.0, 1.0]);

    for (missing, key) in [
        ("model.layers.1.self_attn.o_proj.bias", "attention_bias"),
        ("model.layers.0.mlp.up_proj.bias", "mlp_bias"),
    ] {
        let folder = written(|tiny| {
            with_biases(tiny);
            tiny.tensors.remove(missing).unwrap();
        });
        let error = failure(folder.path(), &Request::default());
        assert_says(&error, &[key, "biases"]);
    }
}

#[test]
fn biases_that_loaders_do_not_know_have_no_place() {
    for name in ["lm_head.bias", "model.norm.bias", "model.layers.0.input_layernorm.bias"] {
        let folder = written(|tiny| {
            tiny.tensors.insert(
                name.to_owned(),
                numbered(&[if name == "lm_head.bias" { KEYS } else { EMBEDDING }]),
            );
        });
        let error = failure(folder.path(), &Request::default());
        assert!(matches!(error, Error::UnexpectedTensor { .. }), "{error}");
        assert_says(&error, &[name]);
    }
}

#[test]
fn a_stored_output_projection_of_tied_embeddings_is_compared() {
    let tie = |tiny: &mut Tiny| tiny.config["tie_word_embeddings"] = json!(true);
    let (model, notes) = changed(|tiny| {
        tie(tiny);
        let embedding = tiny.tensors["model.embed_tokens.weight"].clone();
        tiny.tensors.insert("lm_head.weight".to_owned(), embedding);
    });
    assert!(model.tensor("output.weight").is_none());
    assert!(notes.contains("lm_head.weight equals model.embed_tokens.weight"), "{notes}");

    let (model, notes) = changed(tie);
    assert!(model.tensor("output.weight").is_some());
    assert!(notes.contains("it is kept"), "{notes}");

    // Equal by accident: nobody said that they are one.
    let (model, notes) = changed(|tiny| {
        let embedding = tiny.tensors["model.embed_tokens.weight"].clone();
        tiny.tensors.insert("lm_head.weight".to_owned(), embedding);
    });
    assert!(model.tensor("output.weight").is_some());
    assert_eq!(notes, "");
}

#[test]
fn classes_of_the_same_shape_are_read() {
    for class in ["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "YiForCausalLM"] {
        let (model, _) = changed(|tiny| tiny.config["architectures"] = json!([class]));
        assert_eq!(model.metadata().string("general.architecture").unwrap(), "llama", "{class}");
    }
    for model_type in ["llama", "mistral", "Yi"] {
        changed(|tiny| {
            tiny.config.as_object_mut().unwrap().remove("architectures");
            tiny.config["model_type"] = json!(model_type);
        });
    }
}

#[test]
fn what_a_gguf_file_has_no_word_for_is_said() {
    let (model, notes) = changed(|tiny| {
        tiny.config["rope_scaling"] = json!({ "type": "dynamic", "factor": 2.0 });
        tiny.config["sliding_window"] = json!(64);
    });
    assert!(model.metadata().get("llama.rope.scaling.type").is_none());
    assert!(notes.contains("dynamic acts beyond 128 tokens"), "{notes}");
    assert!(notes.contains("sliding_window 64"), "{notes}");
    let (_, notes) = changed(|tiny| tiny.config["sliding_window"] = json!(128));
    assert_eq!(notes, "");
}

#[test]
fn rope_may_be_told_for_each_kind_of_layer() {
    let (model, _) = changed(|tiny| {
        let linear = json!({ "rope_theta": 5e5, "rope_type": "linear", "factor": 4.0 });
        tiny.config["rope_parameters"] = json!({ "full_attention": linear });
    });
    assert_eq!(model.metadata().get("llama.rope.freq_base"), Some(&Value::F32(5e5)));
    assert_eq!(model.metadata().get("llama.rope.scaling.factor"), Some(&Value::F32(4.0)));
}

#[test]
fn the_first_configs_name_their_context_otherwise() {
    let (model, _) = changed(|tiny| {
        let config = tiny.config.as_object_mut().unwrap();
        config.remove("max_position_embeddings");
        config.insert("max_sequence_length".to_owned(), json!(64));
    });
    assert_eq!(model.metadata().count("llama.context_length").unwrap(), 64);
}
