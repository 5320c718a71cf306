//! What running a model takes in memory, reckoned from its header.
//!
//! Weights count as they are in the file. The cache holds a key and a value of every KV head for each
//! token of the context, in every block. Buffers are those of a batch of 512 tokens in llama.cpp: its
//! logits, the widest activations of a block, and, without flash attention, the scores of one block.

use std::{fmt, path::Path};

use anyhow::Context;
use llq_gguf::Model;
use serde::Serialize;

use super::CacheBits;
use crate::{
    failure::Refusal,
    figures::{Bytes, Count},
    table::pairs,
};

/// Tokens that llama.cpp computes at once.
const BATCH: u64 = 512;

/// What is printed; all in bytes.
#[derive(Serialize)]
pub(super) struct Memory {
    context: u64,
    weights: u64,
    cache: u64,
    buffers: u64,
    /// What the scores take in addition, where flash attention is off.
    scores: u64,
    total: u64,
}

impl Memory {
    /// `path` is the model as errors name it.
    pub(super) fn of(
        model: &Model,
        path: &Path,
        context: Option<u32>,
        bits: CacheBits,
    ) -> anyhow::Result<Memory> {
        let metadata = model.metadata();
        let reckoned = || {
            let architecture = metadata.string("general.architecture")?;
            let count = |key: &str| metadata.count(&format!("{architecture}.{key}"));
            let embedding = count("embedding_length")?;
            let heads = count("attention.head_count")?;
            let kv_heads = count("attention.head_count_kv").unwrap_or(heads);
            let head = count("attention.key_length").ok().or(embedding.checked_div(heads));
            let value = count("attention.value_length").ok().or(head);
            let context = match context {
                Some(context) => context.into(),
                None => count("context_length")?,
            };
            let per_token =
                product(&[kv_heads, head.unwrap_or(0).saturating_add(value.unwrap_or(0))]);
            let numbers = product(&[count("block_count")?, context, per_token]);
            let cache = match bits {
                CacheBits::F32 => numbers.saturating_mul(4),
                CacheBits::F16 => numbers.saturating_mul(2),
                // 34 bytes hold 32 numbers.
                CacheBits::Q8_0 => numbers.div_ceil(32).saturating_mul(34),
            };
            let vocabulary = model.tensor("token_embd.weight").map_or(0, |tensor| tensor.rows());
            let widest = count("feed_forward_length")?.saturating_mul(2).saturating_add(embedding);
            let batch = BATCH.min(context);
            let floats = vocabulary.saturating_add(widest);
            let buffers = product(&[batch, floats, 4]);
            let weights = model.tensors().iter().map(|t| t.bytes).fold(0, u64::saturating_add);
            let total = [weights, cache, buffers].into_iter().fold(0, u64::saturating_add);
            let scores = product(&[batch, context, heads, 4]);
            Ok::<_, llq_gguf::Error>(Memory { context, weights, cache, buffers, scores, total })
        };
        let path = path.display();
        reckoned().with_context(|| Refusal::new(format!("{path}: what it takes is not known")))
    }
}

/// Numbers from a file may be anything.
fn product(factors: &[u64]) -> u64 {
    factors.iter().copied().fold(1, u64::saturating_mul)
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |bytes| Bytes(bytes).to_string();
        f.write_str(&pairs(&[
            ("context", format!("{} tokens", Count(self.context))),
            ("weights", bytes(self.weights)),
            ("keys and values", bytes(self.cache)),
            ("buffers", format!("{} for {BATCH} tokens at once", Bytes(self.buffers))),
            ("together", bytes(self.total)),
            ("no flash attention", format!("{} more", Bytes(self.scores))),
        ]))
    }
}
