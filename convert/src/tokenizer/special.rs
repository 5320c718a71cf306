//! Ids of special tokens, from all the places where Hugging Face keeps them.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value as Json;

use super::{
    Token, TokenKind,
    tokenizer_json::{MAX_TOKENIZER_JSON, bounded_list},
};
use crate::{Error, Note, error::Result, json::JsonFile, weights::InputFile};

/// Names of special tokens in JSON keys and in metadata keys ("seperator" is what GGUF has).
const SPECIAL: &[(&str, &str)] = &[
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
    ("unk", "unknown_token_id"),
    ("sep", "seperator_token_id"),
    ("pad", "padding_token_id"),
    ("mask", "mask_token_id"),
];

/// A token that `tokenizer.json` lists apart from its model.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ListedToken {
    pub(super) id: u32,
    pub(super) content: String,
}

/// `added_tokens` of `tokenizer.json`, where that file is beside the model.
pub(super) fn listed_tokens(folder: &Path) -> Result<Vec<ListedToken>> {
    #[derive(Deserialize)]
    struct TokenizerJson {
        #[serde(default, deserialize_with = "bounded_list")]
        added_tokens: Vec<ListedToken>,
    }
    let path = folder.join("tokenizer.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = InputFile::read_small(&path, MAX_TOKENIZER_JSON)?;
    let json: TokenizerJson =
        serde_json::from_slice(&bytes).map_err(|source| Error::Json { path, source })?;
    Ok(json.added_tokens)
}

/// Where ids of special tokens may come from.
pub(super) struct SpecialSources<'a> {
    pub(super) settings: Option<&'a JsonFile>,
    pub(super) listed: Vec<ListedToken>,
    pub(super) config: &'a JsonFile,
    /// What the model itself says: BOS and EOS.
    pub(super) model: [(&'static str, Option<u32>); 2],
}

impl SpecialSources<'_> {
    /// Metadata keys and ids, in output order.
    pub(super) fn ids(&self, tokens: &[Token], notes: &mut Vec<Note>) -> Vec<(&'static str, u32)> {
        let mut ids = Vec::new();
        for &(name, key) in SPECIAL {
            match self.id(name, tokens, notes) {
                Some(id) if (id as usize) < tokens.len() => ids.push((key, id)),
                Some(id) => notes.push(Note(format!(
                    "{name}_token_id is {id}, beyond the vocabulary of {}: left out",
                    tokens.len()
                ))),
                None => {}
            }
        }
        ids
    }

    /// In the order of llama.cpp's converter: the text in `tokenizer_config.json` looked up in
    /// `tokenizer.json`, then `config.json`. After that, for the two tokens that no model can do
    /// without, the text looked up in the model, and the model's own word.
    fn id(&self, name: &str, tokens: &[Token], notes: &mut Vec<Note>) -> Option<u32> {
        let text = self.settings.and_then(|settings| special_text(settings, name));
        let listed = self.listed.iter().find(|token| text == Some(token.content.as_str()));
        let own = self.model.iter().find(|(own, _)| *own == name).and_then(|&(_, id)| id);
        let configured = listed.map(|token| token.id).or_else(|| {
            let id = config_id(self.config, name, notes)?;
            Some(
                own.filter(|_| self.contradicts_model(name, id, tokens))
                    .inspect(|own| {
                        notes.push(Note(format!(
                    "config.json says {name}_token_id {id}, which the tokenizer has for another \
                     token: its own {own} is taken"
                )));
                    })
                    .unwrap_or(id),
            )
        });
        configured.or_else(|| {
            let may_be_named = self.model.iter().any(|(own, _)| *own == name);
            let named = tokens.iter().position(|token| text == Some(token.text.as_str()));
            named.filter(|_| may_be_named).map(|id| id as u32).or(own)
        })
    }

    /// Whether the model says that `id`, from `config.json`, is another special token: early
    /// conversions of LLaMA 1 have the unknown token for BOS and BOS for EOS (alpaca-lora#279).
    fn contradicts_model(&self, name: &str, id: u32, tokens: &[Token]) -> bool {
        let is_unknown =
            tokens.get(id as usize).is_some_and(|token| token.kind == TokenKind::Unknown);
        is_unknown || self.model.iter().any(|&(other, own)| other != name && own == Some(id))
    }
}

fn config_id(config: &JsonFile, name: &str, notes: &mut Vec<Note>) -> Option<u32> {
    let value = config.get(&format!("{name}_token_id"))?;
    let as_id = |value: &Json| value.as_u64().and_then(|id| u32::try_from(id).ok());
    if let Some(first) = value.as_array().and_then(|list| list.first()) {
        notes.push(Note(format!("{name}_token_id is {value}: the first is taken")));
        return as_id(first);
    }
    as_id(value)
}

/// The text of a special token: a string, or an object that describes the token.
pub(super) fn special_text<'a>(settings: &'a JsonFile, name: &str) -> Option<&'a str> {
    let token = settings.get(&format!("{name}_token"))?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}
