//! Names of pre-tokenizers: what `tokenizer.ggml.pre` may say.

use std::fmt;

use crate::{arch, error::nearest_hint};

/// A name that llama.cpp has for the way a byte-level BPE cuts a text into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreName(&'static str);

/// A name that llama.cpp does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "llama.cpp has no pre-tokenizer {found:?}{}; it has {}",
    nearest_hint(&nearest(found)),
    NAMES.join(", ")
)]
pub struct UnknownPreName {
    /// What was asked for.
    pub found: String,
}

impl PreName {
    /// The name as llama.cpp writes it: case matters.
    ///
    /// # Errors
    /// A name that llama.cpp does not have.
    pub fn parse(name: &str) -> Result<PreName, UnknownPreName> {
        let known = NAMES.iter().find(|known| **known == name);
        known.map(|known| PreName(known)).ok_or_else(|| UnknownPreName { found: name.to_owned() })
    }

    /// The name.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for PreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

fn nearest(name: &str) -> Option<String> {
    arch::nearest(&name.to_lowercase(), NAMES.iter().copied())
}

/// What llama.cpp's loader accepts (`src/llama-vocab.cpp`, October 2026).
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "a.x-4.0", "afmoe", "bailingmoe", "bailingmoe2", "bloom", "chameleon", "chatglm-bpe",
    "codeshell", "cohere2moe", "command-r", "dbrx", "deepseek-coder", "deepseek-llm",
    "deepseek-r1-qwen", "deepseek-v3", "default", "exaone", "exaone-moe", "exaone4", "f2llmv2",
    "falcon", "falcon-h1", "falcon3", "gemma4", "gigachat", "glm4", "gpt-2", "gpt-4o",
    "gpt3-finnish", "granite-docling", "granite-embed-multi-311m", "granite-embed-multi-97m",
    "grok-2", "hunyuan", "hunyuan-dense", "hy_v4", "jais", "jais-2", "jina-de", "jina-es",
    "jina-v1-en", "jina-v2-code", "jina-v2-de", "jina-v2-es", "jina-v5-nano", "joyai-llm",
    "kanana2", "kimi-k2", "kormo", "laguna", "lfm2", "llada-moe", "llama-bpe", "llama-v3",
    "llama3", "llama4", "megrez", "mellum", "mellum2", "midm-2.0", "minerva-7b", "minicpm5",
    "minimax-m2", "modern-bert", "mpt", "olmo", "phi-2", "pixtral", "poro-chat", "qwen2",
    "qwen35", "refact", "roberta-bpe", "sarvam-moe", "seed-coder", "smaug-bpe", "smollm",
    "solar-open", "spark2_5", "stablelm2", "starcoder", "superbpe", "talkie", "tekken",
    "tiny_aya", "trillion", "ufakzeka", "viking", "whitespace", "youtu",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_or_the_nearest_is_named() {
        assert!(NAMES.is_sorted());
        assert_eq!(PreName::parse("llama-bpe").map(PreName::as_str), Ok("llama-bpe"));
        let error = PreName::parse("Lama-bpe").unwrap_err().to_string();
        assert!(error.contains("the nearest is \"llama-bpe\"; it has a.x-4.0, afmoe,"), "{error}");
        let error = PreName::parse("").unwrap_err().to_string();
        assert!(error.contains("no pre-tokenizer \"\"; it has"), "{error}");
    }
}
