//! What loaders ask of a LLaMA beyond the rules of the format, checked when a file is planned and
//! again on what was written.
//!
//! Source: the loader of llama.cpp (`llama-model.cpp`, `llama-vocab.cpp`). Adapters and models of
//! other architectures are not looked at, nor are keys that a file without weights has no need of.

use std::collections::{BTreeSet, HashSet};

use llq_gguf::{Array, Metadata, TensorInfo, Value};

/// Something that a loader asks of a model and does not find.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: expected {expected}, found {found}")]
#[non_exhaustive]
pub struct UnmetDemand {
    /// The key or tensor.
    pub subject: String,
    /// What loaders ask of it.
    pub expected: String,
    /// What it is.
    pub found: String,
}

/// Blocks that a loader has room for.
const MOST_BLOCKS: u64 = 512;

const HEADS: &str = "attention.head_count";
const KV_HEADS: &str = "attention.head_count_kv";

/// More than a few unmet demands tell nothing new.
const MOST_UNMET: usize = 8;

/// What every block has; of each list one will do.
const BLOCK_TENSORS: &[&[&str]] = &[
    &["attn_norm"],
    &["attn_q", "attn_qkv"],
    &["attn_k", "attn_qkv"],
    &["attn_v", "attn_qkv"],
    &["attn_output"],
    &["ffn_norm"],
    &["ffn_gate", "ffn_gate_exps", "ffn_gate_up_exps", "ffn_gate.0"],
    &["ffn_up", "ffn_up_exps", "ffn_gate_up_exps", "ffn_up.0"],
    &["ffn_down", "ffn_down_exps", "ffn_down.0"],
];

/// Name and shape, the fastest extent first.
pub(crate) type Tensor<'a> = (&'a str, &'a [u64]);

pub(crate) fn tensors<'a>(
    infos: impl Iterator<Item = &'a TensorInfo>,
) -> impl Iterator<Item = Tensor<'a>> {
    infos.map(|info| (info.name.as_str(), info.shape.as_slice()))
}

/// The first of the demands that the model does not meet.
pub(crate) fn unmet<'a>(
    metadata: &Metadata,
    tensors: impl Iterator<Item = Tensor<'a>>,
) -> Vec<UnmetDemand> {
    let is_model = match metadata.string("general.type") {
        Ok(kind) => kind == "model",
        Err(_) => true,
    };
    let is_llama = metadata.string("general.architecture").is_ok_and(|name| name == "llama");
    if !is_model || !is_llama || !metadata.contains("llama.block_count") {
        return Vec::new();
    }
    let mut check = Check { metadata, unmet: Vec::new() };
    check.hyperparameters();
    check.vocabulary();
    let tensors: Vec<Tensor<'_>> = tensors.collect();
    if !tensors.is_empty() {
        check.tensors(&tensors);
    }
    check.unmet.truncate(MOST_UNMET);
    check.unmet
}

struct Check<'a> {
    metadata: &'a Metadata,
    unmet: Vec<UnmetDemand>,
}

impl Check<'_> {
    fn hyperparameters(&mut self) {
        let blocks = self.count("block_count");
        if blocks.is_none_or(|blocks| blocks > MOST_BLOCKS) {
            self.key("llama.block_count", format!("at most {MOST_BLOCKS}"));
        }
        for name in ["context_length", "embedding_length", HEADS, KV_HEADS] {
            if self.count(name) == Some(0) {
                self.key(&format!("llama.{name}"), "1 or more".to_owned());
            }
        }
        if let (Some(heads), Some(kv_heads @ 1..)) = (self.count(HEADS), self.count(KV_HEADS))
            && !heads.is_multiple_of(kv_heads)
        {
            let expected = format!("a divisor of {heads}, the number of heads");
            self.key(&format!("llama.{KV_HEADS}"), expected);
        }
        let is_positive = |key: &str| {
            self.metadata.float(key).is_ok_and(|float| float > 0.0 && float.is_finite())
        };
        let (epsilon, base) = ("llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base");
        let missed = [
            (epsilon, !is_positive(epsilon)),
            (base, self.metadata.contains(base) && !is_positive(base)),
        ];
        for (key, _) in missed.into_iter().filter(|&(_, is_missed)| is_missed) {
            self.key(key, "a positive float".to_owned());
        }
        match (self.head_width(), self.rotated()) {
            (Some(width), Some(rotated)) if width != rotated => {
                self.key("llama.rope.dimension_count", format!("{width}, the width of a head"));
            }
            _ => {}
        }
    }

    /// Weights of a head; `None` where blocks differ or the keys are absent.
    fn head_width(&self) -> Option<u64> {
        self.count("attention.key_length")
            .or_else(|| self.count("embedding_length")?.checked_div(self.count(HEADS)?))
    }

    /// How many weights of a head are rotated.
    fn rotated(&self) -> Option<u64> {
        self.count("rope.dimension_count").or_else(|| self.head_width())
    }

    fn vocabulary(&mut self) {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let metadata = self.metadata;
        if !metadata.contains(TOKENS) {
            return;
        }
        let Ok(tokens) = metadata.strings(TOKENS) else {
            return self.key(TOKENS, "an array of strings".to_owned());
        };
        // Loaders number tokens without text.
        let mut seen = HashSet::with_capacity(tokens.len());
        if let Some(twice) = tokens.iter().find(|&text| !text.is_empty() && !seen.insert(text)) {
            self.demand(TOKENS, "each token once", &format!("{:?} twice", shortened(twice)));
        }
        let count = tokens.len();
        for (key, kind) in [
            ("tokenizer.ggml.scores", "array of f32"),
            ("tokenizer.ggml.token_type", "array of i32"),
        ] {
            match metadata.get(key) {
                Some(Value::Array(array)) if array.type_name() == kind && array.len() == count => {}
                None => {}
                Some(_) => self.key(key, format!("{kind} of {count}, one per token")),
            }
        }
        let special = metadata
            .iter()
            .filter(|(key, _)| key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id"));
        for (key, _) in special {
            if metadata.count(key).map_or(true, |id| id >= count as u64) {
                self.key(key, format!("the id of one of {count} tokens"));
            }
        }
    }

    fn tensors(&mut self, tensors: &[Tensor<'_>]) {
        let names: HashSet<&str> = tensors.iter().map(|(name, _)| *name).collect();
        for name in ["token_embd.weight", "output_norm.weight"] {
            if !names.contains(name) {
                self.demand(name, "a tensor", "none");
            }
        }
        self.embedding(tensors);
        let blocks: BTreeSet<u64> = names.iter().filter_map(|name| block_number(name)).collect();
        let expected = self.count("block_count").unwrap_or(0);
        if !blocks.iter().copied().eq(0..expected) {
            let found = format!("tensors of {}", blocks.len());
            self.demand("llama.block_count", &format!("tensors of {expected} blocks"), &found);
        }
        for block in blocks {
            for alternatives in BLOCK_TENSORS {
                let name = |stem: &str| format!("blk.{block}.{stem}.weight");
                if !alternatives.iter().any(|stem| names.contains(name(stem).as_str())) {
                    self.demand(&name(alternatives[0]), "a tensor", "none");
                }
            }
            if self.unmet.len() >= MOST_UNMET {
                return;
            }
        }
        let divisors = tensors.iter().find(|(name, _)| *name == "rope_freqs.weight");
        if let (Some((name, shape)), Some(rotated)) = (divisors, self.rotated())
            && **shape != [rotated / 2]
        {
            let expected = format!("[{}], one for each two weights of a head", rotated / 2);
            self.demand(name, &expected, &format!("{shape:?}"));
        }
    }

    /// The token embedding has a row for each token.
    fn embedding(&mut self, tensors: &[Tensor<'_>]) {
        let Some((name, shape)) = tensors.iter().find(|(name, _)| *name == "token_embd.weight")
        else {
            return;
        };
        let tokens = self.metadata.strings("tokenizer.ggml.tokens").ok();
        let told = [
            ("llama.embedding_length", self.count("embedding_length"), shape.first()),
            ("llama.vocab_size", self.count("vocab_size"), shape.get(1)),
            ("tokenizer.ggml.tokens", tokens.map(|tokens| tokens.len() as u64), shape.get(1)),
        ];
        for (key, told, has) in told {
            if let (Some(told), Some(&has)) = (told, has)
                && told != has
            {
                self.demand(key, &format!("{has}, as {name} is {shape:?}"), &told.to_string());
            }
        }
    }

    fn count(&self, key: &str) -> Option<u64> {
        self.metadata.count(&format!("llama.{key}")).ok()
    }

    /// Reports `key` with the value it has.
    fn key(&mut self, key: &str, expected: String) {
        let found = match self.metadata.get(key) {
            None => "none".to_owned(),
            Some(Value::String(text)) => format!("{:?}", shortened(text)),
            Some(Value::Array(array)) => {
                format!("{} of {}", array.type_name(), Array::len(array))
            }
            Some(Value::F32(value)) => value.to_string(),
            Some(Value::F64(value)) => value.to_string(),
            Some(Value::Bool(value)) => value.to_string(),
            Some(other) => self.metadata.count(key).map_or_else(
                |_| format!("a {} below 0", other.type_name()),
                |count| count.to_string(),
            ),
        };
        self.demand(key, &expected, &found);
    }

    fn demand(&mut self, subject: &str, expected: &str, found: &str) {
        let [subject, expected, found] = [subject, expected, found].map(str::to_owned);
        self.unmet.push(UnmetDemand { subject, expected, found });
    }
}

fn shortened(text: &str) -> &str {
    const SHOWN: usize = 60;
    text.char_indices().nth(SHOWN).map_or(text, |(end, _)| &text[..end])
}

/// The N of `blk.N.…`; `None`, which sorts first, of a tensor of no block.
pub(crate) fn block_number(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}
