//! The pre-tokenizers that `tokenizer.ggml.pre` can name.

use llq_gguf::Metadata;

use super::{
    split::{self, Stage},
    vocabulary::TextStart,
};
use crate::{Error, error::Result, keys::optional};

const PRE: &str = "tokenizer.ggml.pre";

/// How a byte-level BPE vocabulary splits text before it merges.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// The names that GGUF files use.
    names: &'static [&'static str],
    pub(super) stages: &'static [Stage],
    pub(super) known_words: KnownWords,
    /// Where `tokenizer.ggml.add_bos_token` is absent.
    pub(super) text_start: TextStart,
}

/// What becomes of a word that is itself a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownWords {
    /// It is merged as any other, and may come out as several tokens.
    Merged,
    /// It is that token: `ignore_merges` of `tokenizer.json`.
    Whole,
}

/// Where a pre-tokenizer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Named,
    /// The key is absent.
    Assumed,
}

/// Of files from before the key there was.
static DEFAULT: PreTokenizer = PreTokenizer {
    names: &["default"],
    stages: &[split::punctuation_runs, split::gpt2, split::number_runs, split::digit_triples],
    known_words: KnownWords::Merged,
    text_start: TextStart::Nothing,
};

static NAMED: [PreTokenizer; 6] = [
    PreTokenizer {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        stages: &[split::llama3],
        known_words: KnownWords::Whole,
        text_start: TextStart::Bos,
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        stages: &[split::llama3],
        known_words: KnownWords::Merged,
        text_start: TextStart::Nothing,
    },
    PreTokenizer {
        names: &["tekken"],
        stages: &[split::tekken],
        known_words: KnownWords::Whole,
        text_start: TextStart::Bos,
    },
    PreTokenizer {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
            "kormo",
            "f2llmv2",
        ],
        stages: &[split::qwen2],
        known_words: KnownWords::Merged,
        text_start: TextStart::Nothing,
    },
    PreTokenizer {
        names: &[
            "starcoder",
            "smollm",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        stages: &[split::single_numbers, split::gpt2],
        known_words: KnownWords::Merged,
        text_start: TextStart::Nothing,
    },
    PreTokenizer {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "exaone4",
            "gigachat",
            "granite-docling",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
        ],
        stages: &[split::gpt2],
        known_words: KnownWords::Merged,
        text_start: TextStart::Nothing,
    },
];

impl PreTokenizer {
    /// The pre-tokenizer that the file names; `default` where it names none.
    pub(super) fn from_metadata(metadata: &Metadata) -> Result<(&'static PreTokenizer, Origin)> {
        let Some(name) = optional(metadata, PRE, Metadata::string)? else {
            return Ok((&DEFAULT, Origin::Assumed));
        };
        match all().find(|known| known.names.contains(&name)) {
            Some(known) => Ok((known, Origin::Named)),
            None => Err(Error::PreTokenizer {
                found: name.to_owned(),
                known: all().flat_map(|known| known.names).copied().collect(),
            }),
        }
    }
}

fn all() -> impl Iterator<Item = &'static PreTokenizer> {
    NAMED.iter().chain([&DEFAULT])
}
