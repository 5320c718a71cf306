//! Hostile and foreign models get a typed error that names the key or tensor.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use llq_eval::{Against, Corpus, Error, Llama, Mode, Options, Tokenizer, evaluate};
use llq_gguf::{Metadata, TensorSpec, TensorType, Value};
use support::{encode, golden, model, options, tensors};

type Tensors = Vec<(TensorSpec, Vec<u8>)>;

/// The error of the fixture model after a change, if shared/ is there.
fn error_of(change: impl FnOnce(&mut Metadata, &mut Tensors)) -> Option<Error> {
    let mut metadata = golden("q4_0")?.metadata().clone();
    let mut tensors = tensors(TensorType::BF16);
    change(&mut metadata, &mut tensors);
    let model = model(&metadata, &tensors);
    Some(Llama::load(&model).unwrap_err())
}

#[test]
fn keys_out_of_range_are_named() {
    let cases = [
        ("general.architecture", Value::String("falcon".into()), "falcon"),
        ("llama.block_count", Value::U32(0), "1 to"),
        ("llama.block_count", Value::U32(58), "at most 57"),
        ("llama.attention.head_count", Value::U32(0), "1 to"),
        ("llama.attention.head_count", Value::I32(-1), "llama.attention.head_count"),
        ("llama.attention.head_count_kv", Value::U32(0), "1 to"),
        ("llama.attention.head_count_kv", Value::U32(3), "a divisor of 8, found 3"),
        ("llama.attention.key_length", Value::U64(u64::MAX), "1 to"),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN), "positive"),
        ("llama.rope.freq_base", Value::F32(0.0), "positive"),
        ("llama.rope.dimension_count", Value::U32(31), "even"),
        ("llama.rope.dimension_count", Value::U32(34), "up to the head length 32"),
        ("llama.rope.scaling.type", Value::String("yarn".into()), "none or linear, found yarn"),
        ("llama.expert_count", Value::U32(8), "mixtures of experts"),
        ("llama.embedding_length", Value::String("256".into()), "llama.embedding_length"),
    ];
    for (key, value, message) in cases {
        let Some(error) = error_of(|metadata, _| metadata.set(key, value)) else { return };
        let error = error.to_string();
        assert!(error.contains(key) && error.contains(message), "{key}: {error}");
    }
}

#[test]
fn sizes_that_the_tensors_do_not_have_are_named() {
    let cases = [
        ("llama.embedding_length", 512, "token_embd.weight: expected shape [512, 4096]"),
        ("llama.feed_forward_length", 769, "ffn_gate.weight: expected shape [256, 769]"),
        ("llama.attention.value_length", 4_000_000_000, "blk.0.attn_v.weight: expected shape"),
        ("llama.attention.head_count", 4_000_000_000, "blk.0.attn_q.weight: expected shape"),
        ("llama.block_count", 7, "blk.6.attn_norm.weight is missing"),
        ("llama.block_count", 5, "blk.5.attn_k.weight belongs to a model variant"),
    ];
    for (key, value, message) in cases {
        let Some(error) = error_of(|metadata, _| metadata.set(key, Value::U32(value))) else {
            return;
        };
        assert!(error.to_string().contains(message), "{key}: {error}");
    }
}

#[test]
fn tensors_that_change_the_model_are_refused() {
    let extra = |name: &str, tensors: &mut Tensors| {
        let name = name.to_owned();
        let spec = TensorSpec { name, shape: vec![32], tensor_type: TensorType::F32 };
        tensors.push((spec, vec![0; 128]));
    };
    let Some(error) = error_of(|_, tensors| extra("blk.0.attn_q_norm.weight", tensors)) else {
        return;
    };
    assert!(matches!(error, Error::UnsupportedTensor { tensor } if tensor.contains("q_norm")));
    let error = error_of(|_, tensors| extra("rope_freqs.weight", tensors)).unwrap();
    assert!(error.to_string().contains("rope_freqs.weight: expected shape [16], found [32]"));
}

#[test]
fn rope_factors_must_be_positive() {
    let factors = |weight: f32| {
        error_of(|_, tensors| {
            let (name, shape) = ("rope_freqs.weight".to_owned(), vec![16]);
            let spec = TensorSpec { name, shape, tensor_type: TensorType::F32 };
            tensors.push((spec, encode(&[weight; 16], 16, TensorType::F32)));
        })
    };
    let Some(error) = factors(0.0) else { return };
    assert!(error.to_string().contains("expected positive factors"));
    assert!(factors(f32::NAN).unwrap().to_string().contains("NaN"));
}

#[test]
fn texts_and_windows_that_can_not_be_scored_are_refused() {
    let Some(model) = golden("q4_0") else { return };
    let llama = Llama::load(&model).unwrap();
    let tokenizer = Tokenizer::from_metadata(model.metadata()).unwrap();
    let corpus = Corpus::tokenize(&tokenizer, "Too short.");
    let error = |options: &Options| {
        evaluate(&llama, Against::Nothing, &corpus, options, &()).unwrap_err().to_string()
    };
    let found = corpus.tokens().len();
    let short = format!("the text has {found} tokens, one window needs 512");
    assert_eq!(error(&options(Mode::Exact, 1)), short);
    assert_eq!(
        error(&Options { context: 2, ..Options::default() }),
        "a window needs at least 3 tokens, found 2"
    );
    assert_eq!(
        error(&Options { context: 3, chunks: Some(0), ..Options::default() }),
        "at least one window has to be evaluated"
    );
}

#[test]
fn a_model_without_output_uses_its_embedding() {
    let Some(source) = golden("q4_0") else { return };
    let mut tensors = tensors(TensorType::F16);
    let embedding = tensors.iter().position(|(t, _)| t.name == "token_embd.weight").unwrap();
    let embedding = tensors[embedding].1.clone();
    let output = tensors.iter().position(|(t, _)| t.name == "output.weight").unwrap();
    tensors[output].1 = embedding;
    let untied = model(source.metadata(), &tensors);
    tensors.remove(output);
    let tied = model(source.metadata(), &tensors);
    let corpus = support::corpus(&source, "sampled").unwrap();
    let perplexity = |model| {
        let llama = Llama::load(model).unwrap();
        let options = Options { context: 64, chunks: Some(2), ..Options::default() };
        evaluate(&llama, Against::Nothing, &corpus, &options, &()).unwrap().perplexity
    };
    assert_eq!(perplexity(&tied), perplexity(&untied));
}
