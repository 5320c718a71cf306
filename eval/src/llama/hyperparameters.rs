//! The numbers that define a LLaMA, read and checked before anything is sized by them.

use llq_gguf::{Metadata, Model};

use crate::{
    Error,
    error::Result,
    keys::{optional, unusable},
};

/// The sizes of a model, checked against each other; the tensors are checked against them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Hyperparameters {
    /// Number of transformer blocks.
    pub block_count: usize,
    /// Tokens the model was trained to see at once.
    pub context_length: usize,
    /// Width of the residual stream.
    pub embedding_length: usize,
    /// Width inside the feed-forward network.
    pub feed_forward_length: usize,
    /// Query heads.
    pub head_count: usize,
    /// Key and value heads; divides `head_count`.
    pub head_count_kv: usize,
    /// Width of a query or key head.
    pub key_length: usize,
    /// Width of a value head.
    pub value_length: usize,
    /// Tokens in the vocabulary: rows of the embedding.
    pub vocabulary_size: usize,
    /// What is added to the mean square in RMSNorm.
    pub rms_epsilon: f32,
    /// Leading columns of a head that are rotated; even.
    pub rope_dimension_count: usize,
    /// Base of the rotation frequencies.
    pub rope_freq_base: f64,
    /// What positions are divided by before they are rotated; 1 for none.
    pub rope_scaling_factor: f64,
}

/// The largest width or count accepted: far beyond any model, and its square still fits 64 bits.
const MOST: u64 = u32::MAX as u64;

const HEAD_COUNT: &str = "llama.attention.head_count";
const HEAD_COUNT_KV: &str = "llama.attention.head_count_kv";
const RMS_EPSILON: &str = "llama.attention.layer_norm_rms_epsilon";
const ROPE_DIMENSION_COUNT: &str = "llama.rope.dimension_count";
const ROPE_FREQ_BASE: &str = "llama.rope.freq_base";
const ROPE_SCALING_TYPE: &str = "llama.rope.scaling.type";
const ROPE_SCALING_FACTOR: &str = "llama.rope.scaling.factor";
/// What files wrote before `llama.rope.scaling.*` existed.
const ROPE_SCALE_LINEAR: &str = "llama.rope.scale_linear";

impl Hyperparameters {
    pub(super) fn read(model: &Model) -> Result<Hyperparameters> {
        let metadata = model.metadata();
        let architecture = metadata.string("general.architecture")?;
        if architecture != "llama" {
            return Err(Error::Architecture { found: architecture.to_owned() });
        }
        if model.tensors().is_empty() {
            return Err(Error::NoTensors);
        }
        refuse_experts(metadata)?;
        let embedding_length = size(metadata, "llama.embedding_length")?;
        let head_count = size(metadata, HEAD_COUNT)?;
        let head_count_kv = size_or(metadata, HEAD_COUNT_KV, head_count)?;
        if head_count % head_count_kv != 0 {
            return Err(unusable(
                HEAD_COUNT_KV,
                format!("a divisor of {head_count}"),
                head_count_kv,
            ));
        }
        let head_length = |key| match optional(metadata, key, Metadata::count)? {
            Some(_) => size(metadata, key),
            None if embedding_length % head_count == 0 => Ok(embedding_length / head_count),
            None => {
                let expected = format!("a divisor of the embedding length {embedding_length}");
                Err(unusable(HEAD_COUNT, expected, head_count))
            }
        };
        let key_length = head_length("llama.attention.key_length")?;
        Ok(Hyperparameters {
            block_count: block_count(model)?,
            context_length: size(metadata, "llama.context_length")?,
            embedding_length,
            feed_forward_length: size(metadata, "llama.feed_forward_length")?,
            head_count,
            head_count_kv,
            key_length,
            value_length: head_length("llama.attention.value_length")?,
            vocabulary_size: vocabulary_size(model)?,
            rms_epsilon: positive(metadata, RMS_EPSILON, None)? as f32,
            rope_dimension_count: rope_dimension_count(metadata, key_length)?,
            rope_freq_base: positive(metadata, ROPE_FREQ_BASE, Some(10000.0))?,
            rope_scaling_factor: rope_scaling_factor(metadata)?,
        })
    }
}

fn refuse_experts(metadata: &Metadata) -> Result<()> {
    let key = "llama.expert_count";
    match optional(metadata, key, Metadata::count)? {
        None | Some(0) => Ok(()),
        Some(experts) => Err(unusable(key, "0: llq can't evaluate mixtures of experts", experts)),
    }
}

/// Every block has tensors, so a true count is not larger than theirs.
fn block_count(model: &Model) -> Result<usize> {
    let key = "llama.block_count";
    let blocks = size(model.metadata(), key)?;
    let tensors = model.tensors().len();
    if blocks > tensors {
        return Err(unusable(key, format!("at most {tensors}, the number of tensors"), blocks));
    }
    Ok(blocks)
}

/// The tensor says how many tokens there are; `llama.vocab_size` is absent from many files.
fn vocabulary_size(model: &Model) -> Result<usize> {
    let name = "token_embd.weight";
    let embedding =
        model.tensor(name).ok_or_else(|| Error::MissingTensor { tensor: name.to_owned() })?;
    let rows = embedding.rows();
    match usize::try_from(rows) {
        Ok(rows @ 1..) if rows as u64 <= MOST => Ok(rows),
        _ => Err(Error::Weights {
            tensor: name.to_owned(),
            problem: format!("expected 1 to {MOST} rows, found {rows}"),
        }),
    }
}

fn rope_dimension_count(metadata: &Metadata, key_length: usize) -> Result<usize> {
    let rotated = size_or(metadata, ROPE_DIMENSION_COUNT, key_length)?;
    if rotated % 2 != 0 || rotated > key_length {
        let expected = format!("an even number up to the head length {key_length}");
        return Err(unusable(ROPE_DIMENSION_COUNT, expected, rotated));
    }
    Ok(rotated)
}

fn rope_scaling_factor(metadata: &Metadata) -> Result<f64> {
    match optional(metadata, ROPE_SCALING_TYPE, Metadata::string)? {
        Some("linear") => positive(metadata, ROPE_SCALING_FACTOR, None),
        Some("none") => Ok(1.0),
        Some(other) => Err(unusable(ROPE_SCALING_TYPE, "none or linear", other)),
        None if metadata.get(ROPE_SCALING_FACTOR).is_some() => {
            positive(metadata, ROPE_SCALING_FACTOR, None)
        }
        None => positive(metadata, ROPE_SCALE_LINEAR, Some(1.0)),
    }
}

fn size(metadata: &Metadata, key: &str) -> Result<usize> {
    let count = metadata.count(key)?;
    match usize::try_from(count) {
        Ok(size @ 1..) if count <= MOST => Ok(size),
        _ => Err(unusable(key, format!("1 to {MOST}"), count)),
    }
}

fn size_or(metadata: &Metadata, key: &str, default: usize) -> Result<usize> {
    if metadata.get(key).is_some() { size(metadata, key) } else { Ok(default) }
}

/// A positive finite f32; the wider value is kept for what is computed from it.
fn positive(metadata: &Metadata, key: &str, default: Option<f64>) -> Result<f64> {
    let number = match (optional(metadata, key, Metadata::float)?, default) {
        (Some(number), _) | (None, Some(number)) => number,
        (None, None) => metadata.float(key)?,
    };
    if number > 0.0 && (number as f32).is_finite() && number as f32 > 0.0 {
        return Ok(number);
    }
    Err(unusable(key, "a positive number", number))
}
