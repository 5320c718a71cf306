//! What all tokenizers have: tokens, their types, and the special ones.

use std::hash::{BuildHasher, RandomState};

use hashbrown::{HashTable, hash_table::Entry};
use llq_gguf::{Array, Metadata, Strings};

use crate::{
    Error,
    error::Result,
    keys::{optional, unusable},
};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
/// Beside EOS: the ends of a turn and of a message, with which chat models end.
const ENDS: &[&str] = &["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// The numbering of `tokenizer.ggml.token_type`, which is SentencePiece's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// What a text starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextStart {
    Bos,
    Nothing,
}

/// What holds of special tokens where the metadata does not say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    pub(super) text_start: TextStart,
    /// `None` where a text that starts with BOS needs the key.
    pub(super) bos: Option<u64>,
    /// `None` where a text that ends with EOS needs the key.
    pub(super) eos: Option<u64>,
}

/// Tokens by text, their types, and what a text starts and ends with.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    texts: Texts,
    types: Vec<TokenType>,
    text_start: Option<u32>,
    text_end: Option<u32>,
    sequence_start: Option<u32>,
    sequence_ends: Vec<u32>,
}

impl Vocabulary {
    pub(super) fn from_metadata(metadata: &Metadata, defaults: Defaults) -> Result<Vocabulary> {
        let tokens = metadata.strings(TOKENS)?;
        if u32::try_from(tokens.len()).is_err() {
            return Err(unusable(TOKENS, "fewer than 2^32 tokens", tokens.len()));
        }
        let types = token_types(metadata, tokens.len())?;
        let special = |flag: &str, default: bool, id: &str, fallback| match optional(
            metadata,
            flag,
            Metadata::bool,
        )?
        .unwrap_or(default)
        {
            true => special_token(metadata, id, fallback, tokens.len()).map(Some),
            false => Ok(None),
        };
        let starts = defaults.text_start == TextStart::Bos;
        let text_start = special(ADD_BOS, starts, BOS, defaults.bos)?;
        let text_end = special(ADD_EOS, false, EOS, defaults.eos)?;
        let texts = Texts::index(tokens.clone())?;
        let named = |key, fallback| named_token(metadata, key, fallback, tokens.len());
        let eos = named(EOS, defaults.eos);
        let sequence_ends = eos.into_iter().chain(ENDS.iter().filter_map(|key| named(key, None)));
        let sequence_start = text_start.or(named(BOS, defaults.bos)).or(eos);
        Ok(Vocabulary {
            texts,
            types,
            text_start,
            text_end,
            sequence_start,
            sequence_ends: sequence_ends.collect(),
        })
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.types.len()
    }

    pub(super) fn text_start(&self) -> Option<u32> {
        self.text_start
    }

    pub(super) fn text_end(&self) -> Option<u32> {
        self.text_end
    }

    /// The token that training put before a text, as far as one can tell.
    pub(super) fn sequence_start(&self) -> Option<u32> {
        self.sequence_start
    }

    /// The tokens that training put behind a text or a part of it.
    pub(super) fn sequence_ends(&self) -> &[u32] {
        &self.sequence_ends
    }

    /// Text and type of a token.
    pub(super) fn token(&self, id: u32) -> Option<(&str, TokenType)> {
        let index = id as usize;
        Some((self.texts.texts.get(index)?, *self.types.get(index)?))
    }

    /// The token of exactly this text.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.texts.id(text)
    }

    /// Texts and ids of all tokens of this type.
    pub(super) fn of_type(&self, wanted: TokenType) -> impl Iterator<Item = (&str, u32)> {
        (self.texts.texts.iter().zip(0u32..).zip(&self.types))
            .filter(move |&((text, _), &found)| found == wanted && !text.is_empty())
            .map(|(token, _)| token)
    }
}

/// Distinct texts, found by what they are. Loading a vocabulary looks up a million of them, so that
/// they lie together and an entry of the table is no more than a number.
#[derive(Clone, Debug)]
struct Texts {
    texts: Strings,
    /// Positions in `texts`.
    table: HashTable<u32>,
    hasher: RandomState,
}

impl Texts {
    fn index(texts: Strings) -> Result<Texts> {
        let hasher = RandomState::new();
        let mut table = HashTable::with_capacity(texts.len());
        for (id, text) in (0u32..).zip(texts.iter()) {
            // Padding of some vocabularies; no text ever matches it.
            if text.is_empty() {
                continue;
            }
            let equal = |&other: &u32| at(&texts, other) == text;
            let hash = |&other: &u32| hasher.hash_one(at(&texts, other));
            match table.entry(hasher.hash_one(text), equal, hash) {
                Entry::Vacant(free) => free.insert(id),
                Entry::Occupied(first) => {
                    let problem = format!("tokens {} and {id} are both {text:?}", first.get());
                    return Err(Error::Vocabulary { problem });
                }
            };
        }
        Ok(Texts { texts, table, hasher })
    }

    fn id(&self, text: &str) -> Option<u32> {
        let equal = |&id: &u32| at(&self.texts, id) == text;
        self.table.find(self.hasher.hash_one(text), equal).copied()
    }
}

fn at(texts: &Strings, id: u32) -> &str {
    texts.get(id as usize).unwrap_or_default()
}

/// The type per token; all normal where the key is absent.
fn token_types(metadata: &Metadata, tokens: usize) -> Result<Vec<TokenType>> {
    let Some(array) = optional(metadata, TOKEN_TYPE, Metadata::array)? else {
        return Ok(vec![TokenType::Normal; tokens]);
    };
    let types: Vec<i64> = match array {
        Array::I32(types) => types.iter().map(|&t| t.into()).collect(),
        Array::U32(types) => types.iter().map(|&t| t.into()).collect(),
        _ => return Err(unusable(TOKEN_TYPE, "an array of i32", "another element type")),
    };
    if types.len() != tokens {
        return Err(unusable(TOKEN_TYPE, format!("{tokens} entries"), types.len()));
    }
    types
        .into_iter()
        .map(|number| {
            Ok(match number {
                1 => TokenType::Normal,
                2 => TokenType::Unknown,
                3 => TokenType::Control,
                4 => TokenType::UserDefined,
                5 => TokenType::Unused,
                6 => TokenType::Byte,
                _ => return Err(unusable(TOKEN_TYPE, "types 1 to 6", number)),
            })
        })
        .collect()
}

fn special_token(
    metadata: &Metadata,
    key: &str,
    fallback: Option<u64>,
    tokens: usize,
) -> Result<u32> {
    let id = match fallback {
        Some(fallback) => optional(metadata, key, Metadata::count)?.unwrap_or(fallback),
        None => metadata.count(key)?,
    };
    match u32::try_from(id) {
        Ok(token) if (token as usize) < tokens => Ok(token),
        _ => Err(unusable(key, format!("a token below {tokens}"), id)),
    }
}

/// A special token that text need not have: an id that is no token is as good as none.
fn named_token(
    metadata: &Metadata,
    key: &str,
    fallback: Option<u64>,
    tokens: usize,
) -> Option<u32> {
    let id = metadata.count(key).ok().or(fallback)?;
    u32::try_from(id).ok().filter(|&token| (token as usize) < tokens)
}
