//! The fixture against what the field's standard converter makes of it.

use llq_convert::Request;
use llq_fixtures::{fixture, shared};
use llq_gguf::{Array, Model, TensorType, Value};
use llq_quant::mix::Mix;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use crate::support::{converted, converted_model, request};

#[test]
fn metadata_and_tensors_equal_the_golden_dump() {
    let Some(golden) = golden_dump("golden/tiny-llama-2-bf16.json") else { return };
    let model = converted_model(&fixture("tiny-llama-2/hf"), &request(Mix::BF16));
    assert_equals_golden(&model, &golden, &[]);
}

#[test]
fn llama_3_of_both_published_forms_equals_the_golden_dump() {
    let Some(golden) = golden_dump("golden/tiny-llama-3-bf16.json") else { return };
    let forms: [(&str, &[&str]); 2] = [
        ("hf", &[]),
        // Meta's files recommend no sampling.
        ("meta", &["general.sampling.temp", "general.sampling.top_p"]),
    ];
    for (form, absent) in forms {
        let Some(source) = shared(&format!("models/tiny-llama-3/{form}")) else { return };
        let model = converted_model(&source, &request(Mix::BF16));
        assert_equals_golden(&model, &golden, absent);
    }
}

#[test]
fn llama_3_meta_form_says_what_it_chose() {
    let Some(path) = shared("models/tiny-llama-3/meta") else { return };
    let source = llq_convert::open(&path).unwrap();
    let notes: Vec<&str> = source.notes().iter().map(|note| note.0.as_str()).collect();
    let expected = [
        "131072, that of Llama 3.1",
        "32 follows from dim 256",
        "output.weight equals",
        "names of Llama 3.1",
        "EOS is <|end_of_text|>",
    ];
    for (note, part) in notes.iter().zip(expected) {
        assert!(note.contains(part), "{note}");
    }
    assert_eq!(notes.len(), expected.len());
}

fn golden_dump(path: &str) -> Option<Json> {
    Some(serde_json::from_slice(&std::fs::read(shared(path)?).unwrap()).unwrap())
}

/// No key but the `absent` ones differs.
#[track_caller]
fn assert_equals_golden(model: &Model, golden: &Json, absent: &[&str]) {
    let metadata = golden["metadata"].as_object().unwrap();
    assert_eq!(model.metadata().iter().len() + absent.len(), metadata.len());
    for (key, value) in metadata.iter().filter(|(key, _)| !absent.contains(&key.as_str())) {
        let found = model.metadata().get(key).unwrap_or_else(|| panic!("{key} is missing"));
        let (types, found) = dump(found);
        assert_eq!(json!(types), value["type"], "type of {key}");
        assert_eq!(found, value["value"], "value of {key}");
    }
    let tensors = golden["tensors"].as_array().unwrap();
    assert_eq!(model.tensors().len(), tensors.len());
    for tensor in tensors {
        let info = model.tensor(tensor["name"].as_str().unwrap()).unwrap();
        assert_eq!(json!(info.shape), tensor["shape"], "{}", info.name);
        assert_eq!(info.tensor_type.name(), tensor["type"].as_str().unwrap(), "{}", info.name);
        assert_eq!(sha256(model.data(info)), tensor["sha256"].as_str().unwrap(), "{}", info.name);
    }
}

/// A value as the golden dump has it: arrays by count, ends and digest.
fn dump(value: &Value) -> (Vec<&'static str>, Json) {
    match value {
        Value::U32(value) => (vec!["UINT32"], json!(value)),
        Value::F32(value) => (vec!["FLOAT32"], json!(f64::from(*value))),
        Value::Bool(value) => (vec!["BOOL"], json!(value)),
        Value::String(value) => (vec!["STRING"], json!(value)),
        Value::Array(Array::String(texts)) => {
            (vec!["ARRAY", "STRING"], dump_array(texts.iter().map(Json::from).collect()))
        }
        Value::Array(Array::F32(floats)) => {
            let floats = floats.iter().map(|&float| json!(f64::from(float)));
            (vec!["ARRAY", "FLOAT32"], dump_array(floats.collect()))
        }
        Value::Array(Array::I32(ints)) => {
            (vec!["ARRAY", "INT32"], dump_array(ints.iter().map(|&int| json!(int)).collect()))
        }
        other => panic!("no golden value is {other:?}"),
    }
}

fn dump_array(items: Vec<Json>) -> Json {
    json!({
        "count": items.len(),
        "first": items[..8],
        "last": items[items.len() - 4..],
        "sha256_of_json": sha256(serde_json::to_string(&items).unwrap().as_bytes()),
    })
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn both_published_forms_give_the_same_file() {
    // Only the context length differs: Meta's files do not say it, so it is set here.
    let request = Request { context_length: Some(2048), ..Request::default() };
    let hugging_face = converted(&fixture("tiny-llama-2/hf"), &request);
    let meta = converted(&fixture("tiny-llama-2/meta"), &request);
    assert!(hugging_face == meta);
}

#[test]
fn meta_form_says_how_the_context_length_was_found() {
    let source = llq_convert::open(&fixture("tiny-llama-2/meta")).unwrap();
    assert_eq!(source.metadata().count("llama.context_length").unwrap(), 4096);
    assert!(source.notes().iter().any(|note| note.0.contains("context length")));
}

#[test]
fn default_mixes_have_the_types_of_the_golden_files() {
    for (name, mix) in [("q4_0", Mix::Q4_0), ("q4_k_m", Mix::Q4_K_M), ("q2_k", Mix::Q2_K)] {
        let Some(path) = shared(&format!("golden/gguf/{name}.gguf")) else { return };
        let golden = Model::open(&path).unwrap();
        let source = llq_convert::open(&fixture("tiny-llama-2/hf")).unwrap();
        let plan = llq_convert::Plan::new(&*source, &request(mix)).unwrap();
        assert_eq!(plan.file_bytes(), golden.file_bytes(), "{name}");
        for tensor in plan.tensors() {
            let golden = golden.tensor(&tensor.name).unwrap();
            assert_eq!(tensor.to, golden.tensor_type, "{name}: {}", tensor.name);
        }
    }
}

#[test]
fn plain_outputs_hold_the_published_weights() {
    let source = fixture("tiny-llama-2/hf");
    let bf16 = converted_model(&source, &request(Mix::BF16));
    for (mix, tensor_type) in [(Mix::F32, TensorType::F32), (Mix::F16, TensorType::F16)] {
        let model = converted_model(&source, &request(mix));
        assert_eq!(
            model.metadata().count("general.file_type").unwrap(),
            u64::from(mix.file_type())
        );
        for info in model.tensors() {
            let is_matrix = info.shape.len() > 1;
            assert_eq!(info.tensor_type, if is_matrix { tensor_type } else { TensorType::F32 });
            let published = weights(&bf16, &info.name);
            for (weight, published) in weights(&model, &info.name).iter().zip(&published) {
                // F16 has more digits than BF16, but fewer small values.
                let same = weight == published;
                assert!(
                    same || tensor_type == TensorType::F16 && (weight - published).abs() < 6e-8
                );
            }
        }
    }
}

fn weights(model: &Model, name: &str) -> Vec<f32> {
    let info = model.tensor(name).unwrap();
    let mut weights = vec![0.0; info.weights() as usize];
    let format = llq_quant::format(info.tensor_type).unwrap();
    format.dequantize(model.data(info), &mut weights).unwrap();
    weights
}
