//! The LLaMA transformer over a GGUF file's weights.

mod attention;
mod body;
mod hyperparameters;
mod observer;
mod rope;
mod slices;
mod weights;

use llq_gguf::Model;
use llq_quant::Matrix;

pub(crate) use self::body::{Body, Cache};
pub use self::hyperparameters::Hyperparameters;
pub(crate) use self::{
    observer::{Input, Observer},
    weights::{Linear, Replacement},
};
use self::{rope::Rope, weights::Tensors};
use crate::{Error, error::Result};

/// A LLaMA whose matrices stay in the mapped file.
#[derive(Debug)]
pub struct Llama<'m> {
    pub(crate) hyperparameters: Hyperparameters,
    pub(crate) embedding: Matrix<'m>,
    pub(crate) blocks: Vec<Block<'m>>,
    pub(crate) output_norm: Vec<f32>,
    /// `None` where the embedding is also the head.
    pub(crate) output: Option<Matrix<'m>>,
    pub(crate) rope: Rope,
}

/// One transformer block.
#[derive(Debug)]
pub(crate) struct Block<'m> {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: Linear<'m>,
    pub(crate) key: Linear<'m>,
    pub(crate) value: Linear<'m>,
    pub(crate) attention_output: Linear<'m>,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) gate: Linear<'m>,
    pub(crate) up: Linear<'m>,
    pub(crate) down: Linear<'m>,
}

impl<'m> Llama<'m> {
    /// Reads and checks hyperparameters and tensors of `model`.
    ///
    /// # Errors
    ///
    /// An architecture other than `llama`; a key that is absent, of another type or out of range; a
    /// tensor that is missing, has another shape than the keys demand, or a type llq can't multiply
    /// by; a tensor that belongs to no plain LLaMA; a big-endian file.
    pub fn load(model: &'m Model) -> Result<Llama<'m>> {
        Llama::load_with(model, &[])
    }

    /// [`load`](Self::load), but for these matrices.
    pub(crate) fn load_with(model: &'m Model, replaced: &'m [Replacement]) -> Result<Llama<'m>> {
        let hyperparameters = Hyperparameters::read(model)?;
        let sizes = &hyperparameters;
        let mut tensors = Tensors::of(model, replaced)?;
        let (width, tokens) = (sizes.embedding_length, sizes.vocabulary_size);
        let embedding = tensors.matrix("token_embd.weight", width, tokens)?;
        let output_norm = tensors.vector("output_norm.weight", width)?;
        let output = tensors.optional_matrix("output.weight", width, tokens)?;
        let blocks = (0..sizes.block_count)
            .map(|index| Block::load(&mut tensors, sizes, index))
            .collect::<Result<_>>()?;
        let rope = Rope::new(sizes, rope_factors(&mut tensors, sizes)?.as_deref());
        tensors.finish()?;
        Ok(Llama { embedding, blocks, output_norm, output, rope, hyperparameters })
    }

    /// The sizes of the model.
    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    /// The matrix that turns a final hidden state into logits: one row per token.
    pub(crate) fn head(&self) -> &Matrix<'m> {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// The name of [`head`](Self::head) in the file.
    pub(crate) fn head_name(&self) -> &'static str {
        if self.output.is_some() { "output.weight" } else { "token_embd.weight" }
    }
}

impl<'m> Block<'m> {
    fn load(tensors: &mut Tensors<'m>, sizes: &Hyperparameters, index: usize) -> Result<Block<'m>> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (width, inner) = (sizes.embedding_length, sizes.feed_forward_length);
        let queries = sizes.head_count * sizes.key_length;
        let keys = sizes.head_count_kv * sizes.key_length;
        let values = sizes.head_count_kv * sizes.value_length;
        let mixed = sizes.head_count * sizes.value_length;
        Ok(Block {
            attention_norm: tensors.vector(&name("attn_norm.weight"), width)?,
            query: tensors.linear(&name("attn_q"), width, queries)?,
            key: tensors.linear(&name("attn_k"), width, keys)?,
            value: tensors.linear(&name("attn_v"), width, values)?,
            attention_output: tensors.linear(&name("attn_output"), mixed, width)?,
            feed_forward_norm: tensors.vector(&name("ffn_norm.weight"), width)?,
            gate: tensors.linear(&name("ffn_gate"), width, inner)?,
            up: tensors.linear(&name("ffn_up"), width, inner)?,
            down: tensors.linear(&name("ffn_down"), inner, width)?,
        })
    }
}

/// The divisors of the rotation frequencies of Llama 3.1 and later.
fn rope_factors(tensors: &mut Tensors<'_>, sizes: &Hyperparameters) -> Result<Option<Vec<f32>>> {
    let name = "rope_freqs.weight";
    let factors = tensors.optional_vector(name, sizes.rope_dimension_count / 2)?;
    if let Some(factor) = factors.iter().flatten().find(|&&factor| factor <= 0.0) {
        let problem = format!("expected positive factors, found {factor}");
        return Err(Error::Weights { tensor: name.to_owned(), problem });
    }
    Ok(factors)
}
