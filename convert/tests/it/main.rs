//! Acceptance tests of the conversion, as one binary.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

mod byte_level;
mod checkpoints;
mod golden;
mod lora;
mod lora_gguf;
mod model_parallel;
mod pipeline;
mod safetensors;
mod support;
mod tiktoken;
mod tokenizers;
mod torch;
