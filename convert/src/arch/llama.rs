//! LLaMA: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

use super::{
    Architecture,
    tensors::{
        Extent::{Embedding, FeedForward, Keys, Queries, Vocabulary},
        Presence, Row, RowOrder,
        Shape::{Matrix, Vector},
        row,
    },
};
use crate::weights::model_parallel::Cut;

pub(crate) const LLAMA: Architecture = Architecture {
    name: "llama",
    classes: &["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "YiForCausalLM"],
    model_types: &["llama", "mistral", "Yi"],
    global: GLOBAL,
    block: &[ATTENTION, FEED_FORWARD],
};

/// Tensors that belong to no block, in output order.
#[rustfmt::skip]
pub(super) const GLOBAL: &[Row] = &[
    Row { cut: None, ..row("token_embd", "model.embed_tokens", "tok_embeddings", Matrix(Vocabulary, Embedding), Cut::Rows) },
    row("output_norm", "model.norm", "norm", Vector(Embedding), Cut::Replicated),
    // Absent where the token embedding serves as output projection.
    Row { presence: Presence::Optional, ..row("output", "lm_head", "output", Matrix(Vocabulary, Embedding), Cut::Rows) },
];

/// Tensors of each block up to the norm before the feed-forward network.
#[rustfmt::skip]
pub(super) const ATTENTION: &[Row] = &[
    row("blk.{}.attn_norm", "model.layers.{}.input_layernorm", "layers.{}.attention_norm", Vector(Embedding), Cut::Replicated),
    Row { order: RowOrder::EvenThenOdd, ..row("blk.{}.attn_q", "model.layers.{}.self_attn.q_proj", "layers.{}.attention.wq", Matrix(Queries, Embedding), Cut::Rows) },
    Row { order: RowOrder::EvenThenOdd, ..row("blk.{}.attn_k", "model.layers.{}.self_attn.k_proj", "layers.{}.attention.wk", Matrix(Keys, Embedding), Cut::Rows) },
    row("blk.{}.attn_v", "model.layers.{}.self_attn.v_proj", "layers.{}.attention.wv", Matrix(Keys, Embedding), Cut::Rows),
    row("blk.{}.attn_output", "model.layers.{}.self_attn.o_proj", "layers.{}.attention.wo", Matrix(Embedding, Queries), Cut::Columns),
    row("blk.{}.ffn_norm", "model.layers.{}.post_attention_layernorm", "layers.{}.ffn_norm", Vector(Embedding), Cut::Replicated),
];

/// The feed-forward network of each block.
#[rustfmt::skip]
const FEED_FORWARD: &[Row] = &[
    row("blk.{}.ffn_gate", "model.layers.{}.mlp.gate_proj", "layers.{}.feed_forward.w1", Matrix(FeedForward, Embedding), Cut::Rows),
    row("blk.{}.ffn_up", "model.layers.{}.mlp.up_proj", "layers.{}.feed_forward.w3", Matrix(FeedForward, Embedding), Cut::Rows),
    row("blk.{}.ffn_down", "model.layers.{}.mlp.down_proj", "layers.{}.feed_forward.w2", Matrix(Embedding, FeedForward), Cut::Columns),
];
