//! Mixtral: LLaMA with a choice of feed-forward networks, the experts, in each block. A GGUF file
//! calls it `llama` too, and stacks the experts.

use super::{
    Architecture,
    llama::{ATTENTION, GLOBAL},
    tensors::{
        Extent::{Embedding, Experts, FeedForward},
        Row,
        Shape::{Matrix, MatrixPerExpert},
        row,
    },
};
use crate::weights::model_parallel::Cut;

pub(crate) const MIXTRAL: Architecture = Architecture {
    name: "llama",
    classes: &["MixtralForCausalLM"],
    model_types: &["mixtral"],
    global: GLOBAL,
    block: &[ATTENTION, EXPERTS],
};

/// The experts of each block, and the router that chooses among them.
#[rustfmt::skip]
const EXPERTS: &[Row] = &[
    row("blk.{}.ffn_gate_inp", "model.layers.{}.block_sparse_moe.gate", "layers.{}.feed_forward.gate", Matrix(Experts, Embedding), Cut::Replicated),
    row("blk.{}.ffn_gate_exps", "model.layers.{}.block_sparse_moe.experts.{}.w1", "layers.{}.feed_forward.experts.{}.w1", MatrixPerExpert(FeedForward, Embedding), Cut::Rows),
    row("blk.{}.ffn_up_exps", "model.layers.{}.block_sparse_moe.experts.{}.w3", "layers.{}.feed_forward.experts.{}.w3", MatrixPerExpert(FeedForward, Embedding), Cut::Rows),
    row("blk.{}.ffn_down_exps", "model.layers.{}.block_sparse_moe.experts.{}.w2", "layers.{}.feed_forward.experts.{}.w2", MatrixPerExpert(Embedding, FeedForward), Cut::Columns),
];
