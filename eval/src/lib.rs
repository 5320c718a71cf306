//! A reference LLaMA evaluator for GGUF files: tokenizer, forward pass, perplexity and KL divergence.
//!
//! ```text
//! Model ─► Tokenizer ─► Corpus (tokens in windows)
//!   └────► Llama ─► body: hidden states of some windows ─► head: streamed scores ─► Report
//! ```
//!
//! The number follows the field's convention (windows of 512 tokens, the first replaced by BOS
//! where the vocabulary says so, only the second half scored), so that it compares with published
//! ones. It has the same bits for any number of threads.
//!
//! ```no_run
//! use llq_eval::{Against, Corpus, Llama, Options, Tokenizer, evaluate};
//! use llq_gguf::Model;
//!
//! let model = Model::open("model.gguf".as_ref())?;
//! let llama = Llama::load(&model)?;
//! let text = std::fs::read_to_string("wiki.test.txt")?;
//! let corpus = Corpus::tokenize(&Tokenizer::from_metadata(model.metadata())?, &text);
//! let options = Options { chunks: Some(100), ..Options::default() };
//! let report = evaluate(&llama, Against::Nothing, &corpus, &options, &())?;
//! println!("{:.2} ± {:.2}", report.perplexity, report.stderr);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

mod calibrate;
mod corpus;
mod error;
mod evaluate;
mod head;
mod importance;
mod keys;
mod llama;
mod logits_file;
mod pool;
mod progress;
mod report;
mod sample;
mod sensitivity;
mod statistics;
mod tokenizer;
mod windows;

// What integration tests have, for those tests that look inside.
#[cfg(test)]
extern crate self as llq_eval;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

pub use calibrate::{
    Calibrated, Calibration, CalibrationCost, CalibrationProgress, Finished, calibrate,
    product_rate,
};
pub use corpus::Corpus;
pub use error::Error;
pub use evaluate::{Against, DEFAULT_CONTEXT, Options, Recorded, evaluate, record, save_logits};
pub use importance::{ChannelSquares, Importance, Matrices, importance};
pub use llama::{Hyperparameters, Llama};
pub use llq_quant::Mode;
pub use logits_file::LogitsFile;
pub use progress::{Progress, Running};
pub use report::{Change, Comparison, Divergence, Report};
pub use sample::{Sampling, SamplingProgress, Sequence, sample};
pub use sensitivity::{Choice, encoding_errors, sensitivities};
pub use tokenizer::Tokenizer;
pub use windows::LEAST_CONTEXT;
