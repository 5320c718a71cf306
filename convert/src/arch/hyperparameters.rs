//! The numbers of a model, and the metadata keys they become.

use std::path::Path;

use llq_gguf::Value;

use super::{Llama3Rope, Naming};
use crate::{Error, error::Result};

/// What makes one model of an architecture differ from another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hyperparameters {
    pub(crate) layers: u32,
    pub(crate) context_length: u32,
    pub(crate) embedding: u32,
    pub(crate) feed_forward: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) vocabulary: u32,
    pub(crate) rope_theta: f32,
    pub(crate) rope_scaling: RopeScaling,
    pub(crate) norm_epsilon: f32,
    /// `None` where each block has one feed-forward network.
    pub(crate) experts: Option<Experts>,
}

/// The feed-forward networks that a block has, and how many of them a token passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Experts {
    pub(crate) count: u32,
    pub(crate) used: u32,
}

/// How rotary positions are stretched beyond the length of training.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RopeScaling {
    None,
    Linear {
        factor: f32,
    },
    Yarn {
        factor: f32,
        original_context: Option<u32>,
        /// Names in GGUF, and values, of what the model sets otherwise than the paper.
        tuning: Vec<(&'static str, f32)>,
    },
    /// Becomes a tensor, not metadata.
    Llama3(Llama3Rope),
}

impl RopeScaling {
    /// What positions are divided by.
    fn factor(&self) -> f32 {
        match *self {
            RopeScaling::None => 1.0,
            RopeScaling::Linear { factor }
            | RopeScaling::Yarn { factor, .. }
            | RopeScaling::Llama3(Llama3Rope { factor, .. }) => factor,
        }
    }
}

/// Limits that loaders of GGUF have, and no model comes near.
const MAX_LAYERS: u32 = 512;
const MAX_EXTENT: u32 = 1 << 24;
const MAX_EXPERTS: u32 = 512;

impl Hyperparameters {
    /// Checks what loaders will ask for. `path` is the file that holds them, by the keys of
    /// `naming`.
    pub(crate) fn checked(self, path: &Path, naming: Naming) -> Result<Hyperparameters> {
        let name = |hugging_face, meta| match naming {
            Naming::HuggingFace => hugging_face,
            Naming::Meta => meta,
        };
        let fail = |key: &str, found: String, expected: String| {
            let (path, key) = (path.to_path_buf(), key.to_owned());
            Err(Error::Key { path, key, expected, found })
        };
        let kv_heads = name("num_key_value_heads", "n_kv_heads");
        let head_dim = name("head_dim", "dim / n_heads");
        let counts = [
            (name("num_hidden_layers", "n_layers"), self.layers, MAX_LAYERS),
            (name("hidden_size", "dim"), self.embedding, MAX_EXTENT),
            (
                name("intermediate_size", "hidden_dim, the rows of w1"),
                self.feed_forward,
                MAX_EXTENT,
            ),
            (name("num_attention_heads", "n_heads"), self.heads, MAX_EXTENT),
            (kv_heads, self.kv_heads, MAX_EXTENT),
            (head_dim, self.head_dim, MAX_EXTENT),
            (
                name("vocab_size", "vocab_size, the rows of tok_embeddings"),
                self.vocabulary,
                MAX_EXTENT,
            ),
            (name("max_position_embeddings", "context length"), self.context_length, u32::MAX),
        ];
        for (key, count, limit) in counts {
            if count == 0 || count > limit {
                return fail(key, count.to_string(), format!("1 to {limit}"));
            }
        }
        if let Some(Experts { count, used }) = self.experts {
            let keys = [
                (name("num_local_experts", "moe.num_experts"), count, MAX_EXPERTS),
                (name("num_experts_per_tok", "moe.num_experts_per_tok"), used, count),
            ];
            for (key, found, limit) in keys {
                if found == 0 || found > limit {
                    return fail(key, found.to_string(), format!("1 to {limit}"));
                }
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("a divisor of the {} heads", self.heads);
            return fail(kv_heads, self.kv_heads.to_string(), expected);
        }
        if !self.head_dim.is_multiple_of(2) {
            return fail(head_dim, self.head_dim.to_string(), "an even number".to_owned());
        }
        let numbers = [
            (name("rms_norm_eps", "norm_eps"), self.norm_epsilon),
            ("rope_theta", self.rope_theta),
            ("factor", self.rope_scaling.factor()),
        ];
        for (key, value) in numbers {
            if !(value.is_finite() && value > 0.0) {
                return fail(key, value.to_string(), "a positive number".to_owned());
            }
        }
        Ok(self)
    }

    /// The keys up to `general.file_type`, in the order llama.cpp writes them, without the
    /// architecture's name in front.
    pub(crate) fn keys_before_file_type(&self) -> Vec<(&'static str, Value)> {
        let h = self;
        let mut keys = vec![
            ("block_count", Value::U32(h.layers)),
            ("context_length", Value::U32(h.context_length)),
            ("embedding_length", Value::U32(h.embedding)),
            ("feed_forward_length", Value::U32(h.feed_forward)),
            ("attention.head_count", Value::U32(h.heads)),
            ("attention.head_count_kv", Value::U32(h.kv_heads)),
            ("rope.freq_base", Value::F32(h.rope_theta)),
            ("attention.layer_norm_rms_epsilon", Value::F32(h.norm_epsilon)),
        ];
        if let Some(Experts { count, used }) = h.experts {
            keys.extend([
                ("expert_count", Value::U32(count)),
                ("expert_used_count", Value::U32(used)),
            ]);
        }
        keys.extend([
            ("attention.key_length", Value::U32(h.head_dim)),
            ("attention.value_length", Value::U32(h.head_dim)),
        ]);
        keys
    }

    /// The keys after `general.file_type`.
    pub(crate) fn keys_after_file_type(&self) -> Vec<(&'static str, Value)> {
        let h = self;
        let mut keys = vec![
            ("vocab_size", Value::U32(h.vocabulary)),
            ("rope.dimension_count", Value::U32(h.head_dim)),
        ];
        let scaling = |name: &str| Value::String(name.to_owned());
        let factor = Value::F32(h.rope_scaling.factor());
        match &h.rope_scaling {
            RopeScaling::None | RopeScaling::Llama3(_) => {}
            RopeScaling::Linear { .. } => keys.extend([
                ("rope.scaling.type", scaling("linear")),
                ("rope.scaling.factor", factor),
            ]),
            RopeScaling::Yarn { original_context, tuning, .. } => {
                keys.extend([
                    ("rope.scaling.type", scaling("yarn")),
                    ("rope.scaling.factor", factor),
                ]);
                let original = original_context.map(Value::U32);
                keys.extend(original.map(|value| ("rope.scaling.original_context_length", value)));
                keys.extend(tuning.iter().map(|&(key, value)| (key, Value::F32(value))));
            }
        }
        keys
    }
}
