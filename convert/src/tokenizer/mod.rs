//! Vocabularies: one file per published form, and the metadata they become.

mod byte_alphabet;
mod byte_fallback;
mod chat_template;
mod error;
mod ggml;
mod hugging_face;
mod infill;
mod meta;
mod pre_name;
mod pre_tokenizer;
mod protobuf;
mod sentencepiece;
mod special;
mod tekken;
mod template;
mod tiktoken;
mod tokenizer_json;

use std::{collections::HashMap, path::Path};

use llq_gguf::{Array, Strings, Value};

use crate::{Error, Note, error::Result};

pub use error::TokenizerError;
pub(crate) use ggml::open as open_ggml;
pub(crate) use hugging_face::open as open_hugging_face;
pub(crate) use meta::{Llama3, SpecialNames, Tuning, open as open_meta};
pub use pre_name::{PreName, UnknownPreName};
pub(crate) use tekken::open as open_tekken;

/// A token of the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) score: f32,
    pub(crate) kind: TokenKind,
}

/// Values of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum TokenKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// How a text becomes tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Encoding {
    /// As SentencePiece does: pairs are merged by the scores of what they make.
    SentencePiece,
    /// As GPT-2 does: bytes are letters, and pairs are merged by the order of `merges`.
    ByteLevelBpe {
        /// The value of `tokenizer.ggml.pre`: how a text is cut into words first.
        pre: String,
        /// Two tokens each, with a space between.
        merges: Strings,
    },
}

/// A vocabulary of the size that the embedding has, and all that goes with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Vocabulary {
    pub(crate) encoding: Encoding,
    pub(crate) tokens: Vec<Token>,
    /// Metadata keys without `tokenizer.ggml.`, and ids, in output order.
    pub(crate) special: Vec<(&'static str, u32)>,
    pub(crate) add_bos: Option<bool>,
    pub(crate) add_eos: Option<bool>,
    pub(crate) add_sep: Option<bool>,
    pub(crate) add_space_prefix: Option<bool>,
    /// Names and texts; the default template has no name.
    pub(crate) chat_templates: Vec<(Option<String>, String)>,
}

impl Vocabulary {
    /// Checks what loaders will ask for: that a text is one token's. `path` is the file of the
    /// tokens. Tokens without text are padding.
    pub(crate) fn checked(self, path: &Path) -> Result<Self> {
        let mut ids = HashMap::with_capacity(self.tokens.len());
        for (second, Token { text, .. }) in self.tokens.iter().enumerate() {
            if let Some(first) = ids.insert(text, second).filter(|_| !text.is_empty()) {
                let problem = TokenizerError::Repeated { text: text.clone(), first, second };
                return Err(Error::Tokenizer { path: path.to_path_buf(), problem });
            }
        }
        Ok(self)
    }

    /// The metadata, in the order llama.cpp's converter writes it.
    pub(crate) fn keys(&self) -> Vec<(String, Value)> {
        let ggml = |key: &str| format!("tokenizer.ggml.{key}");
        let text = |text: &str| Value::String(text.to_owned());
        let strings: Strings = self.tokens.iter().map(|token| token.text.as_str()).collect();
        let scores = self.tokens.iter().map(|token| token.score).collect();
        let kinds = self.tokens.iter().map(|token| token.kind as i32).collect();
        let strings = (ggml("tokens"), Value::Array(Array::String(strings)));
        let kinds = (ggml("token_type"), Value::Array(Array::I32(kinds)));
        let mut keys = match &self.encoding {
            Encoding::SentencePiece => vec![
                (ggml("model"), text("llama")),
                (ggml("pre"), text("default")),
                strings,
                (ggml("scores"), Value::Array(Array::F32(scores))),
                kinds,
            ],
            Encoding::ByteLevelBpe { pre, merges } => vec![
                (ggml("model"), text("gpt2")),
                (ggml("pre"), text(pre)),
                strings,
                kinds,
                (ggml("merges"), Value::Array(Array::String(merges.clone()))),
            ],
        };
        keys.extend(self.special.iter().map(|&(key, id)| (ggml(key), Value::U32(id))));
        let flags = [
            ("add_bos_token", self.add_bos),
            ("add_eos_token", self.add_eos),
            ("add_sep_token", self.add_sep),
            ("add_space_prefix", self.add_space_prefix),
        ];
        keys.extend(flags.iter().filter_map(|&(key, flag)| Some((ggml(key), Value::Bool(flag?)))));
        keys.extend(self.chat_template_keys());
        keys
    }

    fn chat_template_keys(&self) -> Vec<(String, Value)> {
        let names: Strings =
            self.chat_templates.iter().filter_map(|(name, _)| name.as_deref()).collect();
        let mut keys = Vec::new();
        if !names.is_empty() {
            let names = Value::Array(Array::String(names));
            keys.push(("tokenizer.chat_templates".to_owned(), names));
        }
        keys.extend(self.chat_templates.iter().map(|(name, template)| {
            let key = match name {
                Some(name) => format!("tokenizer.chat_template.{name}"),
                None => "tokenizer.chat_template".to_owned(),
            };
            (key, Value::String(template.clone()))
        }));
        keys
    }
}

/// Readers take a space in front for granted, so only its absence is written.
fn written_space_prefix(space_prefix: bool) -> Option<bool> {
    (!space_prefix).then_some(false)
}

/// Gives the vocabulary the size of the embedding: models pad the one for speed, or the other
/// with tokens that were never trained.
fn fit(mut tokens: Vec<Token>, size: usize) -> Vec<Token> {
    let have = tokens.len();
    tokens.truncate(size);
    tokens.extend((have..size).map(padding));
    tokens
}

/// Says what [`fit`] had to do, once added tokens had their place.
fn note_size(published: usize, tokens: &[Token], notes: &mut Vec<Note>) {
    let size = tokens.len();
    let unused =
        (published..size).zip(tokens.iter().skip(published)).filter(|(id, t)| **t == padding(*id));
    let unused = unused.count();
    if published > size {
        let dropped = published - size;
        notes.push(Note(format!(
            "the tokenizer has {published} tokens, the embedding {size} rows: \
             the last {dropped} tokens are left out"
        )));
    } else if unused > 0 {
        notes.push(Note(format!(
            "the embedding has {size} rows, the tokenizer {published} tokens: \
             {unused} rows get the name [PADn]"
        )));
    }
}

fn padding(id: usize) -> Token {
    Token { text: format!("[PAD{id}]"), score: -10000.0, kind: TokenKind::Unused }
}
