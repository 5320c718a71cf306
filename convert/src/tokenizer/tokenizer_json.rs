//! `tokenizer.json` of Hugging Face: a byte-level BPE with its merges and added tokens.

use std::{collections::HashMap, fmt, marker::PhantomData, path::Path};

use llq_gguf::Strings;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value as Json, value::RawValue};

use super::{TokenizerError, pre_tokenizer::WholeWords};
use crate::{Error, error::Result, json::bounded, weights::InputFile};

/// Size limit in bytes; those of the largest vocabularies have 40 million.
pub(super) const MAX_TOKENIZER_JSON: u64 = 256 << 20;

/// The most tokens, added tokens and merges; the largest vocabularies have half a million of each.
/// A few bytes of the file become a hundred in memory.
const MAX_ENTRIES: usize = 1 << 21;

/// The longest description of a step before or after the model, in bytes; published ones have some
/// thousand.
const MAX_STEP: usize = 1 << 20;

/// What its values may take in memory, in bytes.
const MAX_STEP_VALUES: usize = 16 << 20;

/// What a conversion needs of the file.
#[derive(Debug, Deserialize)]
pub(super) struct TokenizerJson {
    #[serde(default, deserialize_with = "bounded_list")]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default, deserialize_with = "bounded_step")]
    pub(super) normalizer: Json,
    #[serde(default, deserialize_with = "bounded_step")]
    pub(super) pre_tokenizer: Json,
    #[serde(default, deserialize_with = "bounded_step")]
    pub(super) post_processor: Json,
    pub(super) model: Bpe,
}

/// A token that is found in a text before any merge.
#[derive(Debug, Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u64,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Bpe {
    #[serde(default)]
    ignore_merges: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    unk_token: Option<String>,
    vocab: Entries,
    #[serde(deserialize_with = "bounded_list")]
    merges: Vec<Merge>,
}

/// Texts and ids as the file has them, doubled ones included.
#[derive(Debug)]
struct Entries(Vec<(String, u64)>);

/// `"a b"`, and since version 0.20 of the library `["a", "b"]`.
#[derive(Debug)]
enum Merge {
    Text(String),
    Pair(String, String),
}

impl TokenizerJson {
    pub(super) fn open(path: &Path) -> Result<TokenizerJson> {
        let bytes = InputFile::read_small(path, MAX_TOKENIZER_JSON)?;
        let json = |source| Error::Json { path: path.to_path_buf(), source };
        // First the kind, as other kinds have other shapes, and the number of entries.
        let Kind { model } = serde_json::from_slice(&bytes).map_err(json)?;
        model.check().map_err(|problem| Error::Tokenizer { path: path.to_path_buf(), problem })?;
        serde_json::from_slice(&bytes).map_err(json)
    }
}

impl TokenizerJson {
    /// Whether the model is SentencePiece's: over characters, with tokens for bytes. Some
    /// byte-level ones say byte_fallback too.
    pub(super) fn is_sentencepiece(&self) -> bool {
        let steps = self.pre_tokenizer.get("pretokenizers").and_then(Json::as_array);
        let steps = steps.map_or(std::slice::from_ref(&self.pre_tokenizer), Vec::as_slice);
        let kind = |step: &Json| step.get("type").and_then(Json::as_str).map(str::to_owned);
        let is_byte_level = steps.iter().any(|step| kind(step).as_deref() == Some("ByteLevel"));
        self.model.byte_fallback == Some(true) && !is_byte_level
    }
}

impl Bpe {
    /// The token for what has none.
    pub(super) fn unknown(&self) -> Option<&str> {
        self.unk_token.as_deref()
    }

    /// The parts of each merge, by its index.
    pub(super) fn merged_pairs(
        &self,
    ) -> impl Iterator<Item = std::result::Result<(usize, (&str, &str)), TokenizerError>> {
        self.merges.iter().enumerate().map(|(index, merge)| {
            let sound = |&(left, right): &(&str, &str)| !left.is_empty() && !right.is_empty();
            let parts = merge.pair().filter(sound).ok_or_else(|| {
                let problem = "not two parts with a space between";
                TokenizerError::Merge { index, merge: merge.to_string(), problem }
            });
            Ok((index, parts?))
        })
    }

    pub(super) fn whole_words(&self) -> WholeWords {
        match self.ignore_merges {
            Some(true) => WholeWords::Kept,
            Some(false) | None => WholeWords::Merged,
        }
    }

    /// Texts by rising id, each id and each text once.
    pub(super) fn tokens(&self) -> std::result::Result<Vec<(u32, &str)>, TokenizerError> {
        let mut tokens = Vec::with_capacity(self.vocab.0.len());
        for (text, id) in &self.vocab.0 {
            tokens.push((checked_id(text, *id)?, text.as_str()));
        }
        tokens.sort_unstable();
        let doubled = tokens.windows(2).find(|pair| pair[0].0 == pair[1].0);
        if let Some(&[(id, first), (_, second)]) = doubled {
            let (first, second) = (first.to_owned(), second.to_owned());
            return Err(TokenizerError::RepeatedId { id: id.into(), first, second });
        }
        Ok(tokens)
    }

    /// The merges as GGUF has them; parts and what they make must be among `tokens`.
    pub(super) fn merges(
        &self,
        tokens: &[(u32, &str)],
    ) -> std::result::Result<Strings, TokenizerError> {
        let known: HashMap<&str, u32> = tokens.iter().map(|&(id, text)| (text, id)).collect();
        let mut merges = Strings::default();
        let mut whole = String::new();
        for (index, merge) in self.merges.iter().enumerate() {
            let fail =
                |problem| Err(TokenizerError::Merge { index, merge: merge.to_string(), problem });
            let Some((left, right)) = merge.parts() else {
                return fail("not two parts with a space between");
            };
            whole.clear();
            whole.push_str(left);
            whole.push_str(right);
            if !known.contains_key(left) || !known.contains_key(right) {
                return fail("a part is no token");
            }
            if !known.contains_key(whole.as_str()) {
                return fail("what it makes is no token");
            }
            whole.insert(left.len(), ' ');
            merges.push(&whole);
        }
        Ok(merges)
    }
}

/// Ids that loaders have room for.
pub(super) fn checked_id(text: &str, id: u64) -> std::result::Result<u32, TokenizerError> {
    let in_range = i32::try_from(id).ok().and_then(|id| u32::try_from(id).ok());
    in_range.ok_or_else(|| TokenizerError::TokenId { text: text.to_owned(), id })
}

impl Merge {
    fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Text(text) => text.split_once(' '),
            Merge::Pair(left, right) => Some((left, right)),
        }
    }

    /// The two where GGUF can have them.
    fn parts(&self) -> Option<(&str, &str)> {
        let (left, right) = self.pair()?;
        // A space in a part would move the cut; byte-level tokens have none.
        let sound = |part: &str| !part.is_empty() && !part.contains(' ');
        (sound(left) && sound(right)).then_some((left, right))
    }
}

impl fmt::Display for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Merge::Text(text) => f.write_str(text),
            Merge::Pair(left, right) => write!(f, "{left} {right}"),
        }
    }
}

/// The part of the file that says what kind of model it has.
#[derive(Deserialize)]
struct Kind {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    /// Read for their number, before any is kept.
    #[serde(default, rename = "vocab")]
    _vocab: Counted,
    #[serde(default, rename = "merges")]
    _merges: Counted,
}

/// At most [`MAX_ENTRIES`] of a list or an object, whatever they are.
#[derive(Default)]
struct Counted;

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(Counted)
    }
}

impl<'de> Visitor<'de> for Counted {
    type Value = Counted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or an object")
    }

    fn visit_unit<E>(self) -> std::result::Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Self, A::Error> {
        let mut count = 0;
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
            if count > MAX_ENTRIES {
                return Err(too_many());
            }
        }
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self, A::Error> {
        let mut count = 0;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            count += 1;
            if count > MAX_ENTRIES {
                return Err(too_many());
            }
        }
        Ok(self)
    }
}

impl ModelKind {
    fn check(&self) -> std::result::Result<(), TokenizerError> {
        let fail =
            |key, found: String, expected| Err(TokenizerError::BpeModel { key, found, expected });
        // Early files have no type.
        if let Some(kind) = self.kind.as_ref().filter(|kind| *kind != "BPE") {
            return fail("type", format!("{kind:?}"), "\"BPE\"");
        }
        let affixes = [
            ("continuing_subword_prefix", &self.continuing_subword_prefix),
            ("end_of_word_suffix", &self.end_of_word_suffix),
        ];
        for (key, affix) in affixes {
            if let Some(affix) = affix.as_ref().filter(|affix| !affix.is_empty()) {
                return fail(key, format!("{affix:?}"), "none");
            }
        }
        Ok(())
    }
}

fn too_many<E: serde::de::Error>() -> E {
    E::custom(format_args!("more than {MAX_ENTRIES} entries"))
}

/// A list of at most [`MAX_ENTRIES`].
pub(super) fn bounded_list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<T>, D::Error> {
    struct ListVisitor<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(
            self,
            mut list: A,
        ) -> std::result::Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = list.next_element()? {
                if items.len() == MAX_ENTRIES {
                    return Err(too_many());
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    deserializer.deserialize_seq(ListVisitor(PhantomData))
}

/// A value whose text has at most [`MAX_STEP`] bytes.
fn bounded_step<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Json, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?.get();
    if raw.len() > MAX_STEP {
        let problem = format_args!("a step of {} bytes, more than {MAX_STEP}", raw.len());
        return Err(serde::de::Error::custom(problem));
    }
    bounded(raw.as_bytes(), MAX_STEP_VALUES).map_err(serde::de::Error::custom)
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("texts and their ids")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if entries.len() == MAX_ENTRIES {
                        return Err(too_many());
                    }
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens, as one string or as two")
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<Merge, E> {
                Ok(Merge::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut parts: A,
            ) -> std::result::Result<Merge, A::Error> {
                let two = (parts.next_element()?, parts.next_element()?);
                match (two, parts.next_element::<String>()?) {
                    ((Some(left), Some(right)), None) => Ok(Merge::Pair(left, right)),
                    _ => Err(serde::de::Error::custom("a merge has not two parts")),
                }
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}
