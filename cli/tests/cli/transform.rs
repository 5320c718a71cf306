//! `llq transform`.

use std::{fs, path::Path};

use llq_gguf::{Model, TensorSpec, TensorType, to_bytes};
use serde_json::Value as Json;

use crate::harness::{Place, corpus, tiny_gguf};

/// A folder with the model `model.gguf` and its importance `importance`.
fn place(model: impl AsRef<[u8]>) -> Place {
    let place = Place::new();
    place.write("model.gguf", model);
    let text = corpus().display().to_string();
    let line = "imatrix model.gguf --process-output --ctx 64 --chunks 2 -o importance --corpus";
    place.llq(line.split(' ').chain([&*text])).ok();
    place
}

fn fixture() -> Vec<u8> {
    fs::read(tiny_gguf()).unwrap()
}

/// The fixture with every bias that a LLaMA may have.
fn with_biases() -> Vec<u8> {
    let model = Model::open(tiny_gguf()).unwrap();
    let tensors = model.tensors().iter().flat_map(|tensor| {
        let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
        let spec = TensorSpec { name, shape, tensor_type: tensor.tensor_type };
        let bias = tensor
            .name
            .strip_suffix(".weight")
            .filter(|name| name.starts_with("blk.") && !name.ends_with("norm"));
        let bias = bias.map(|name| {
            let shape = vec![tensor.shape[1]];
            let name = format!("{name}.bias");
            let biases = (0..shape[0]).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.2);
            let data: Vec<u8> = biases.flat_map(f32::to_le_bytes).collect();
            (TensorSpec { name, shape, tensor_type: TensorType::F32 }, data)
        });
        [(spec, model.data(tensor).to_vec())].into_iter().chain(bias)
    });
    to_bytes(model.metadata(), tensors).unwrap()
}

/// `made.gguf` beside `model.gguf`.
fn measure(place: &Place) -> Json {
    let text = corpus().display().to_string();
    let line = "perplexity made.gguf --against model.gguf --ctx 64 --chunks 8 --json --corpus";
    place.llq(line.split(' ').chain([&*text])).ok().json()
}

fn tensors_that_differ(a: &Path, b: &Path) -> usize {
    let [a, b] = [a, b].map(|path| Model::open(path).unwrap());
    let differ = a.tensors().iter().filter(|tensor| {
        b.tensor(&tensor.name).is_none_or(|other| a.data(tensor) != b.data(other))
    });
    differ.count()
}

/// Only sums are in another order.
#[test]
fn a_transformed_model_predicts_the_same() {
    let place = place(with_biases());
    let line = "transform model.gguf -o made.gguf --imatrix importance --order --scale --json";
    let made = place.run(line).ok().json();
    assert_eq!(made["transforms"], serde_json::json!(["order", "scale"]));
    assert_eq!(place.files(), ["importance", "made.gguf", "model.gguf"]);
    let measured = measure(&place);
    let ratio = measured["ratio"].as_f64().unwrap();
    assert!((ratio - 1.0).abs() < 1e-5, "{measured}");
    let differing = tensors_that_differ(&place.path("made.gguf"), &place.path("model.gguf"));
    // But for the biases of queries and keys, which keep their place.
    assert_eq!(differing, 57 + 42 - 12);
    let model = Model::open(&place.path("made.gguf")).unwrap();
    assert_eq!(model.metadata().string("llq.transforms").unwrap(), "order,scale");
}

#[test]
fn scales_leave_every_channel_in_its_place() {
    let place = place(fixture());
    place.run("transform model.gguf -o made.gguf --imatrix importance --scale").ok();
    let ratio = measure(&place)["ratio"].as_f64().unwrap();
    assert!((ratio - 1.0).abs() < 1e-5, "{ratio}");
    let [made, model] =
        ["made.gguf", "model.gguf"].map(|name| Model::open(&place.path(name)).unwrap());
    let types = |name: &str| [&made, &model].map(|model| model.tensor(name).unwrap().tensor_type);
    assert_eq!(types("blk.0.ffn_down.weight"), [TensorType::F32, TensorType::BF16]);
    assert_eq!(types("blk.0.attn_norm.weight"), [TensorType::F32; 2]);
    // Neither its columns nor its rows are scaled.
    assert_eq!(types("token_embd.weight"), [TensorType::BF16; 2]);
    let embedding = |model: &Model| model.data(model.tensor("token_embd.weight").unwrap()).to_vec();
    assert!(embedding(&made) == embedding(&model));
}

#[test]
fn what_cannot_be_transformed_is_refused() {
    let place = place(fixture());
    let line = "transform model.gguf -o made.gguf --imatrix importance";
    place.run(line).refused(&["--order", "--scale"]);
    place.run("quantize model.gguf -o q.gguf --type q8_0 --pure --no-check").ok();
    place
        .run("transform q.gguf -o made.gguf --imatrix importance --order")
        .refused(&["q.gguf", "Q8_0, expected F32, F16 or BF16"]);
    place
        .run("transform model.gguf -o importance --imatrix importance --order --force")
        .refused(&["output and input are the same file"]);
    place.run(&format!("{line}2 --order")).refused(&["importance2"]);
    assert_eq!(place.files(), ["importance", "model.gguf", "q.gguf"]);
}
