//! Acceptance tests of the conversion, as one binary.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

mod byte_level;
mod checkpoints;
mod forms;
mod golden;
mod mixtral;
mod model_parallel;
mod pipeline;
mod quantized;
mod safetensors;
mod shapes;
mod support;
mod tekken;
mod tiktoken;
mod tokenizers;
mod torch;
