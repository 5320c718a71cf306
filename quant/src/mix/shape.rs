//! What the rules of a mix need to know of a model.

use llq_gguf::{Metadata, TensorSpec};

/// Counts that the rules of a mix look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelShape {
    /// Transformer blocks.
    pub layers: u64,
    /// Query heads.
    pub heads: u64,
    /// Key-value heads.
    pub kv_heads: u64,
    /// Experts per block; 0 for a dense model.
    pub experts: u64,
    /// Where the output projection is.
    pub head: Head,
}

/// Where the output projection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Head {
    /// A tensor of its own, `output.weight`.
    #[default]
    Separate,
    /// The token embedding serves.
    Tied,
}

impl ModelShape {
    /// Reads the counts from a model's metadata; what a model does not say counts as 0.
    pub fn of(metadata: &Metadata, tensors: &[TensorSpec]) -> ModelShape {
        let architecture = metadata.string("general.architecture").unwrap_or_default();
        let count = |key: &str| metadata.count(&format!("{architecture}.{key}")).unwrap_or(0);
        let heads = count("attention.head_count");
        let kv_heads = metadata.count(&format!("{architecture}.attention.head_count_kv"));
        let separate = tensors.iter().any(|tensor| tensor.name == "output.weight");
        ModelShape {
            layers: count("block_count"),
            heads,
            kv_heads: kv_heads.unwrap_or(heads),
            experts: count("expert_count"),
            head: if separate { Head::Separate } else { Head::Tied },
        }
    }

    /// Query heads per key-value head.
    pub(super) fn grouping(&self) -> u64 {
        self.heads.checked_div(self.kv_heads).unwrap_or(1)
    }

    /// The 70B models of the LLaMA family: eight query heads share a small value projection, which
    /// is cheap to keep precise.
    pub(super) fn is_70b(&self) -> bool {
        self.layers == 80 && self.heads != self.kv_heads
    }
}
