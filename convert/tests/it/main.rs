//! Acceptance tests of the conversion, as one binary.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

mod byte_fallback;
mod byte_level;
mod checklist;
mod checkpoints;
mod demands;
mod forms;
mod fp8;
mod general;
mod ggml;
mod golden;
mod guided;
mod imatrix;
mod lora;
mod lora_gguf;
mod meta_forms;
mod mixtral;
mod model_parallel;
mod output;
mod overrides;
mod pipeline;
mod quantized;
mod recipe;
mod resume;
mod safetensors;
mod shapes;
mod support;
mod tekken;
mod tiktoken;
mod together;
mod tokenizers;
mod torch;
mod transform;
mod twin_heads;
