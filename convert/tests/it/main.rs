//! Acceptance tests of the conversion, as one binary.

#![allow(clippy::unwrap_used)] // helpers of tests are tests, too

mod byte_level;
mod checkpoints;
mod demands;
mod golden;
mod model_parallel;
mod output;
mod pipeline;
mod safetensors;
mod support;
mod tiktoken;
mod tokenizers;
mod torch;
