//! Hostile inputs of every class that is known to have hurt readers of model files, given to the
//! binary: exit code 2 and one message that names the place, no control character in the output, no
//! file left, less than 100 MB of memory.
//!
//! `cargo test -p llq --test hostile` prints how many there are, and what the worst of them took.

#![cfg(target_os = "linux")] // for what a run took
#![allow(clippy::unwrap_used)] // helpers of tests, which the exemption of clippy.toml does not see

mod case;
mod faults;
mod gguf;
mod gguf_model;
mod launcher;
mod meta_folder;
mod others;
mod safetensors;
mod tokenizers;
mod torch;

#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../cli/harness.rs"]
mod harness;
#[path = "../../../gguf/tests/common/mod.rs"]
mod raw;
#[allow(dead_code)]
#[path = "../../../convert/tests/it/support/mod.rs"]
mod support;

#[test]
fn gguf() {
    case::check("GGUF", gguf::cases);
}

#[test]
fn gguf_of_models() {
    case::check("GGUF of models", gguf_model::cases);
}

#[test]
fn safetensors_files() {
    case::check("safetensors", safetensors::cases);
}

#[test]
fn indices() {
    case::check("index of safetensors", safetensors::index_cases);
}

#[test]
fn pytorch() {
    case::check("pickle and zip", torch::cases);
}

#[test]
fn vocabularies() {
    case::check("tokenizers", tokenizers::cases);
}

#[test]
fn meta_folders() {
    case::check("Meta folder", meta_folder::cases);
}

#[test]
fn importance() {
    case::check("imatrix", others::imatrix_cases);
}

#[test]
fn recipes() {
    case::check("recipe", others::recipe_cases);
}

#[test]
fn adapters() {
    case::check("LoRA adapter", others::adapter_cases);
}

#[test]
fn logits() {
    case::check("logits", others::logits_cases);
}

#[test]
fn texts() {
    case::check("text corpus", others::corpus_cases);
}

#[test]
fn llamafiles() {
    case::check("llamafile", others::llamafile_cases);
}

#[test]
fn legacy_ggml() {
    case::check("legacy GGML", others::ggml_cases);
}
