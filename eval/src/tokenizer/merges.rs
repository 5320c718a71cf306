//! The pairs of tokens that a byte-level BPE vocabulary joins, the earliest first.

use std::collections::HashMap;

use llq_gguf::Metadata;

use super::vocabulary::Vocabulary;
use crate::{error::Result, keys::unusable};

const MERGES: &str = "tokenizer.ggml.merges";

/// `tokenizer.ggml.merges`, resolved to tokens.
#[derive(Clone, Debug)]
pub(super) struct Merges {
    by_pair: HashMap<(u32, u32), Merge>,
}

/// What a pair of neighbouring tokens becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    /// Place in the list: the lowest is done first.
    pub(super) rank: u32,
    pub(super) token: u32,
}

impl Merges {
    /// Every entry is two tokens with one space between, whose union is a token too; anything else
    /// is refused, as the vocabulary could not have been trained so. Of equal pairs the first
    /// counts.
    pub(super) fn from_metadata(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Merges> {
        let entries = metadata.strings(MERGES)?;
        if u32::try_from(entries.len()).is_err() {
            return Err(unusable(MERGES, "fewer than 2^32 merges", entries.len()));
        }
        let mut by_pair = HashMap::with_capacity(entries.len());
        let mut union = String::new();
        for (rank, entry) in (0u32..).zip(entries.iter()) {
            let Some((pair, token)) = resolve(entry, vocabulary, &mut union) else {
                let expected = "two tokens with a space between, whose union is a token";
                return Err(unusable(MERGES, expected, format!("{entry:?}")));
            };
            by_pair.entry(pair).or_insert(Merge { rank, token });
        }
        Ok(Merges { by_pair })
    }

    pub(super) fn of(&self, left: u32, right: u32) -> Option<Merge> {
        self.by_pair.get(&(left, right)).copied()
    }
}

/// The pair of tokens of an entry, and the token of their union.
fn resolve(entry: &str, vocabulary: &Vocabulary, union: &mut String) -> Option<((u32, u32), u32)> {
    let (left, right) = entry.split_once(' ')?;
    union.clear();
    union.push_str(left);
    union.push_str(right);
    Some(((vocabulary.id(left)?, vocabulary.id(right)?), vocabulary.id(union)?))
}
