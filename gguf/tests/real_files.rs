//! The reader on files that other programs wrote.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::gguf_files;
use llq_gguf::{Endian, Model, TensorType};

#[test]
fn golden_files_open() {
    for path in gguf_files("golden/gguf") {
        let model = Model::open(&path).unwrap();
        assert_eq!(model.metadata().string("general.architecture").unwrap(), "llama");
        assert_eq!(model.tensors().len(), 57);
        assert_eq!(model.endian(), Endian::Little);
        assert_eq!(model.file_bytes(), path.metadata().unwrap().len());
        let norm = model.tensor("output_norm.weight").unwrap();
        assert_eq!((norm.shape.as_slice(), norm.tensor_type), ([256].as_slice(), TensorType::F32));
        let weights: Vec<f32> =
            model.data(norm).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        assert!(weights.iter().all(|w| w.is_finite() && *w > 0.0));
    }
}

#[test]
fn vocabularies_open() {
    let Some(path) = llq_fixtures::shared("vocab/ggml-vocab-llama-bpe.gguf") else { return };
    let model = Model::open(&path).unwrap();
    assert!(model.tensors().is_empty());
    let metadata = model.metadata();
    assert_eq!(metadata.len(), 20);
    assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap().len(), 128_256);
    let merges = metadata.strings("tokenizer.ggml.merges").unwrap();
    assert_eq!(merges.len(), 280_147);
    assert_eq!(merges.get(0), Some("Ġ Ġ"));
    assert_eq!(metadata.count("tokenizer.ggml.bos_token_id").unwrap(), 128_000);
    assert_eq!(metadata.float("llama.rope.freq_base").unwrap(), 5e5);
}
