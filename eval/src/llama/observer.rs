//! Seeing what the matrices of a model are multiplied by.

use llq_quant::Activations;

/// Sees the inputs of a model's blocks as they are computed, block after block and in the order of
/// [`Input`]. The activations are those of all tokens of a pass, window after window.
pub(crate) trait Observer {
    fn input(&mut self, block: usize, input: Input, activations: &Activations);
}

/// No one looks.
impl Observer for () {
    fn input(&mut self, _block: usize, _input: Input, _activations: &Activations) {}
}

/// What some matrices of a block are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Input {
    /// Of queries, keys and values: the first norm.
    Attention,
    /// Of the attention's output: values mixed by the heads.
    AttentionOutput,
    /// Of gate and up: the second norm.
    FeedForward,
    /// Of down: what the gate let through.
    FeedForwardDown,
}

impl Input {
    pub(crate) const ALL: [Input; 4] =
        [Input::Attention, Input::AttentionOutput, Input::FeedForward, Input::FeedForwardDown];

    /// The matrices that share it, without `blk.N.`.
    pub(crate) fn matrices(self) -> &'static [&'static str] {
        match self {
            Input::Attention => &["attn_q.weight", "attn_k.weight", "attn_v.weight"],
            Input::AttentionOutput => &["attn_output.weight"],
            Input::FeedForward => &["ffn_gate.weight", "ffn_up.weight"],
            Input::FeedForwardDown => &["ffn_down.weight"],
        }
    }
}
