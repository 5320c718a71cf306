//! What loaders ask of a LLaMA.

use std::path::Path;

use llq_convert::{Error, Plan, Request, open};
use llq_fixtures::fixture;
use llq_gguf::{Array, Metadata, Model, Value, to_bytes};
use llq_quant::mix::Mix;

use crate::support::{converted, converted_model, request};

/// Writes the fixture with other metadata, and without the tensors of that prefix.
fn write_changed(path: &Path, change: impl Fn(&mut Metadata), without: &str) {
    let model = converted_model(&fixture("tiny-llama-2/hf"), &request(Mix::Q8_0));
    let mut metadata = model.metadata().clone();
    change(&mut metadata);
    let kept = model.tensors().iter().filter(|tensor| !tensor.name.starts_with(without));
    let tensors = kept.map(|tensor| {
        let spec = llq_gguf::TensorSpec::new(
            tensor.name.clone(),
            tensor.shape.clone(),
            tensor.tensor_type,
        );
        (spec, model.data(tensor).to_vec())
    });
    std::fs::write(path, to_bytes(&metadata, tensors).unwrap()).unwrap();
}

/// What planning says of that file; it must be copied nonetheless.
fn said(change: impl Fn(&mut Metadata), without: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_changed(&path, change, without);
    let source = open(&path).unwrap();
    let plan = Plan::new(&*source, &Request::default()).unwrap();
    assert!(converted(&path, &Request::default()) == std::fs::read(&path).unwrap());
    plan.notes().iter().map(|note| format!("{note}\n")).collect()
}

#[test]
fn a_sound_model_meets_all() {
    assert_eq!(said(|_| (), "nothing"), "");
}

#[test]
fn an_unmet_demand_of_a_gguf_source_is_a_note() {
    const EPSILON: &str = "llama.attention.layer_norm_rms_epsilon";
    let no_epsilon = |metadata: &mut Metadata| {
        metadata.remove(EPSILON);
    };
    let cases: [(&str, String); 9] = [
        (EPSILON, said(no_epsilon, "nothing")),
        (
            "llama.block_count: expected at most 512, found 513",
            said(set("llama.block_count", 513u32), "no"),
        ),
        (
            "llama.vocab_size: expected 4096, as token_embd.weight is [256, 4096], found 5000",
            said(set("llama.vocab_size", 5000u32), "no"),
        ),
        (
            "llama.context_length: expected 1 or more, found 0",
            said(set("llama.context_length", 0u32), "no"),
        ),
        ("rope.dimension_count", said(set("llama.rope.dimension_count", 8u32), "no")),
        ("bos_token_id", said(set("tokenizer.ggml.bos_token_id", u32::MAX), "no")),
        ("array of f32 of", said(set("tokenizer.ggml.scores", vec![0.5f32; 3]), "no")),
        (
            "\"output_norm.weight\": expected a tensor".trim_matches('"'),
            said(|_| (), "output_norm"),
        ),
        ("blk.1.ffn_down.weight", said(|_| (), "blk.1.ffn_down")),
    ];
    for (expected, said) in cases {
        let expected = expected.replace("\":", ":");
        assert!(said.contains(&expected), "no {expected} in {said:?}");
    }
}

fn set<V: Into<Value> + Clone>(key: &str, value: V) -> impl Fn(&mut Metadata) {
    let value: Value = value.into();
    move |metadata| metadata.set(key, value.clone())
}

#[test]
fn a_token_must_not_stand_twice() {
    let twice = |metadata: &mut Metadata| {
        let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap();
        let first = tokens.get(5).unwrap().to_owned();
        let tokens = tokens.iter().enumerate();
        let tokens: Vec<String> = tokens
            .map(|(id, token)| if id == 9 { first.clone() } else { token.to_owned() })
            .collect();
        metadata.set("tokenizer.ggml.tokens", tokens);
    };
    assert!(said(twice, "nothing").contains("each token once"));
    let without_text = |metadata: &mut Metadata| {
        let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap();
        let text = |(id, token)| if id > 9 { String::new() } else { str::to_owned(token) };
        let tokens: Vec<String> = tokens.iter().enumerate().map(text).collect();
        metadata.set("tokenizer.ggml.tokens", tokens);
    };
    assert_eq!(said(without_text, "nothing"), "");
}

#[test]
fn rope_divisors_are_counted() {
    let model: Model = converted_model(&fixture("tiny-llama-2/hf"), &request(Mix::Q8_0));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let spec = llq_gguf::TensorSpec::new("rope_freqs.weight", [3], llq_gguf::TensorType::F32);
    let first = (spec, vec![0; 12]);
    let rest = model.tensors().iter().map(|tensor| {
        let spec = llq_gguf::TensorSpec::new(
            tensor.name.clone(),
            tensor.shape.clone(),
            tensor.tensor_type,
        );
        (spec, model.data(tensor).to_vec())
    });
    let bytes = to_bytes(model.metadata(), [first].into_iter().chain(rest)).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let source = open(&path).unwrap();
    let plan = Plan::new(&*source, &Request::default()).unwrap();
    assert!(plan.notes()[0].0.contains("rope_freqs.weight"), "{:?}", plan.notes());
}

#[test]
fn adapters_and_other_architectures_are_not_looked_at() {
    let remove = |metadata: &mut Metadata| {
        metadata.remove("llama.attention.layer_norm_rms_epsilon");
    };
    let adapter = |metadata: &mut Metadata| {
        remove(metadata);
        metadata.set("general.type", "adapter");
    };
    let other = |metadata: &mut Metadata| {
        remove(metadata);
        metadata.set("general.architecture", "bloom");
    };
    assert_eq!(said(adapter, "output_norm"), "");
    assert_eq!(said(other, "output_norm"), "");
}

/// A published checkpoint that would make a file nobody can load is refused before it is written.
#[test]
fn a_checkpoint_that_no_loader_would_take_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_changed(&path, set("llama.rope.dimension_count", 8u32), "no");
    let inner = open(&path).unwrap();
    let source = Published(inner);
    let error = Plan::new(&source, &Request::default()).unwrap_err();
    let Error::Demand { demand, .. } = &error else { panic!("{error}") };
    assert_eq!(demand.subject, "llama.rope.dimension_count");
}

/// A source that does not say it was GGUF.
#[derive(Debug)]
struct Published(Box<dyn llq_convert::Source>);

impl llq_convert::Source for Published {
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn metadata(&self) -> &Metadata {
        self.0.metadata()
    }
    fn tensors(&self) -> &[llq_gguf::TensorSpec] {
        self.0.tensors()
    }
    fn files(&self) -> Vec<std::path::PathBuf> {
        self.0.files()
    }
    fn read_rows(
        &self,
        tensor: usize,
        rows: std::ops::Range<u64>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        self.0.read_rows(tensor, rows, out)
    }
    fn notes(&self) -> &[llq_convert::Note] {
        &[]
    }
}

#[test]
fn arrays_are_told_by_type_and_length() {
    let wrong = Array::I64(vec![1, 2]);
    let said = said(set("tokenizer.ggml.token_type", Value::Array(wrong)), "no");
    assert!(said.contains("found array of i64 of 2"), "{said}");
}
