//! The small Llama 3.2 of `shared/`, as a GGUF model in memory.

use std::{f64::consts::TAU, fs};

use llq_fixtures::shared;
use llq_gguf::{Metadata, Model, TensorSpec, TensorType, Value};
use serde_json::Value as Json;

use super::{Heads, encode, hugging_face_tensors, model};

/// The model with matrices of this type, if shared/ is there.
pub(crate) fn tiny_llama_3(tensor_type: TensorType) -> Option<Model> {
    let folder = shared("models/tiny-llama-3/hf")?;
    let mut tensors = vec![rope_factors()];
    for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        let heads = Heads { query: 8, key: 2 };
        tensors.extend(hugging_face_tensors(&folder.join(shard), heads, tensor_type));
    }
    let tokenizer = fs::read(folder.join("tokenizer.json")).unwrap();
    let mut metadata = hyperparameters();
    set_vocabulary(&mut metadata, &serde_json::from_slice(&tokenizer).unwrap());
    Some(model(&metadata, &tensors))
}

fn hyperparameters() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("llama".into()));
    for (key, value) in [
        ("llama.block_count", 4),
        ("llama.context_length", 131_072),
        ("llama.embedding_length", 256),
        ("llama.feed_forward_length", 768),
        ("llama.attention.head_count", 8),
        ("llama.attention.head_count_kv", 2),
        ("llama.attention.key_length", 32),
        ("llama.attention.value_length", 32),
        ("llama.rope.dimension_count", 32),
        ("llama.vocab_size", 4096),
    ] {
        metadata.set(key, Value::U32(value));
    }
    metadata.set("llama.rope.freq_base", Value::F32(500_000.0));
    metadata.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    metadata
}

/// What `rope_scaling` of type `llama3` asks for with factor 32, low 1, high 4, context 8192:
/// Llama 3.1's `apply_scaling`.
fn rope_factors() -> (TensorSpec, Vec<u8>) {
    let (factor, low, high, context) = (32.0, 1.0, 4.0, 8192.0);
    let factors: Vec<f32> = (0..16)
        .map(|pair| {
            let turns = context / (TAU * 500_000f64.powf(f64::from(pair) / 16.0));
            let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
        })
        .collect();
    let name = "rope_freqs.weight".to_owned();
    let data = encode(&factors, 16, TensorType::F32);
    (TensorSpec { name, shape: vec![16], tensor_type: TensorType::F32 }, data)
}

fn set_vocabulary(metadata: &mut Metadata, tokenizer: &Json) {
    let mut tokens: Vec<(u64, &str, i32)> = Vec::new();
    for (text, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
        tokens.push((id.as_u64().unwrap(), text, 1));
    }
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        tokens.push((added["id"].as_u64().unwrap(), added["content"].as_str().unwrap(), 3));
    }
    tokens.sort_unstable();
    tokens.dedup_by_key(|&mut (id, ..)| id);
    assert!(tokens.iter().zip(0..4096).all(|(&(found, ..), id)| found == id));
    let merges: Vec<String> =
        tokenizer["model"]["merges"].as_array().unwrap().iter().map(merge).collect();

    metadata.set("tokenizer.ggml.model", Value::String("gpt2".into()));
    metadata.set("tokenizer.ggml.pre", Value::String("llama-bpe".into()));
    metadata
        .set("tokenizer.ggml.tokens", tokens.iter().map(|&(_, text, _)| text).collect::<Vec<_>>());
    let types = tokens.iter().map(|&(.., token_type)| token_type).collect();
    metadata.set("tokenizer.ggml.token_type", Value::Array(llq_gguf::Array::I32(types)));
    metadata.set("tokenizer.ggml.merges", merges);
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(3840));
    metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
}

/// Either of the two forms that `tokenizer.json` has.
fn merge(entry: &Json) -> String {
    match entry {
        Json::String(pair) => pair.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    }
}
