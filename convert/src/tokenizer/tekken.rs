//! Mistral's `tekken.json`: a tiktoken vocabulary behind its special tokens, which have the first
//! ids.

use std::path::Path;

use serde::Deserialize;

use super::{
    Encoding, PreName, Token, TokenKind, TokenizerError, Vocabulary, fit, note_size,
    pre_tokenizer::TEKKEN,
    tiktoken::{Tiktoken, decode_base64},
    tokenizer_json::MAX_TOKENIZER_JSON,
};
use crate::{Error, Note, error::Result, weights::InputFile};

/// What a conversion needs of the file.
#[derive(Deserialize)]
struct TekkenJson {
    config: Config,
    vocab: Vec<Entry>,
    special_tokens: Option<Vec<SpecialEntry>>,
}

#[derive(Deserialize)]
struct Config {
    /// The regex that cuts a text into words.
    pattern: String,
    /// Tokens, special ones included. `vocab` may have more.
    default_vocab_size: usize,
    /// Ids that are kept for special tokens.
    default_num_special_tokens: usize,
}

#[derive(Deserialize)]
struct Entry {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct SpecialEntry {
    rank: usize,
    token_str: String,
}

/// All published files have this pattern.
const NAME: &str = "tekken";

/// Special tokens of files that do not list them, by id.
#[rustfmt::skip]
const UNLISTED: &[&str] = &[
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]",
    "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

/// Metadata keys and the special tokens they tell.
const SPECIAL_KEYS: &[(&str, &str)] = &[
    ("bos_token_id", "<s>"),
    ("eos_token_id", "</s>"),
    ("unknown_token_id", "<unk>"),
    ("padding_token_id", "<pad>"),
];

/// More ids than this are kept for special tokens in no vocabulary; published ones have 1000.
const MAX_SPECIAL: usize = 1 << 16;

/// The vocabulary in `path` for an embedding of `size` rows. `pre` is a name of a pre-tokenizer that
/// holds whatever the file says.
pub(crate) fn open(
    path: &Path,
    size: usize,
    pre: Option<PreName>,
    notes: &mut Vec<Note>,
) -> Result<Vocabulary> {
    let bytes = InputFile::read_small(path, MAX_TOKENIZER_JSON)?;
    let json: TekkenJson = serde_json::from_slice(&bytes)
        .map_err(|source| Error::Json { path: path.to_path_buf(), source })?;
    let problem = |problem| Error::Tokenizer { path: path.to_path_buf(), problem };
    json.vocabulary(size, pre, notes).map_err(problem)?.checked(path)
}

impl TekkenJson {
    fn vocabulary(
        self,
        size: usize,
        pre: Option<PreName>,
        notes: &mut Vec<Note>,
    ) -> std::result::Result<Vocabulary, TokenizerError> {
        let pre = match pre {
            Some(name) => name.as_str(),
            None if self.config.pattern == TEKKEN => NAME,
            None => {
                let (steps, known) = (vec![self.config.pattern], vec![NAME]);
                return Err(TokenizerError::PreTokenizer { steps, known });
            }
        };
        let special = self.special_texts()?;
        let model = self.model()?;
        let merges = model.merges()?;

        let control = |text| Token { text, score: 0.0, kind: TokenKind::Control };
        let normal = |text| Token { text, score: 0.0, kind: TokenKind::Normal };
        let mut tokens: Vec<Token> = special.into_iter().map(control).collect();
        tokens.extend(model.texts().map(normal));
        let published = tokens.len();
        let tokens = fit(tokens, size);
        note_size(published, &tokens, notes);
        let id = |text: &str| tokens.iter().position(|token| token.text == text);
        let special = SPECIAL_KEYS.iter().filter_map(|&(key, text)| Some((key, id(text)? as u32)));
        Ok(Vocabulary {
            encoding: Encoding::ByteLevelBpe { pre: pre.to_owned(), merges },
            special: special.collect(),
            tokens,
            add_bos: Some(true),
            add_eos: Some(false),
            add_sep: None,
            add_space_prefix: None,
            chat_templates: Vec::new(),
        })
    }

    /// By id; those that have no name are numbered.
    fn special_texts(&self) -> std::result::Result<Vec<String>, TokenizerError> {
        let count = self.config.default_num_special_tokens;
        if count > MAX_SPECIAL {
            let problem = "more than 65536 ids for special tokens";
            return Err(TokenizerError::Tekken { entry: count, problem });
        }
        let mut texts: Vec<String> = (0..count).map(|id| format!("<SPECIAL_{id}>")).collect();
        let unlisted = UNLISTED.iter().map(|&text| text.to_owned()).enumerate();
        let named: Vec<(usize, String)> = match &self.special_tokens {
            Some(listed) => listed.iter().map(|t| (t.rank, t.token_str.clone())).collect(),
            None => unlisted.collect(),
        };
        for (id, text) in named {
            let problem = "a special token beyond those that ids are kept for";
            let place = texts.get_mut(id);
            *place.ok_or(TokenizerError::Tekken { entry: id, problem })? = text;
        }
        Ok(texts)
    }

    /// The tokens that are used, by rank.
    fn model(&self) -> std::result::Result<Tiktoken, TokenizerError> {
        let Config { default_vocab_size, default_num_special_tokens, .. } = self.config;
        let used = default_vocab_size.checked_sub(default_num_special_tokens);
        let Some(used) = used.and_then(|used| self.vocab.get(..used)) else {
            let (entry, problem) = (self.vocab.len(), "fewer tokens than default_vocab_size says");
            return Err(TokenizerError::Tekken { entry, problem });
        };
        let token = |(index, entry): (usize, &Entry)| {
            let fail = |problem| Err(TokenizerError::Tekken { entry: index, problem });
            match decode_base64(entry.token_bytes.as_bytes()) {
                _ if entry.rank != index => fail("its rank is not its place"),
                Some(bytes) if !bytes.is_empty() => Ok(bytes),
                _ => fail("token_bytes is not Base64 of a byte or more"),
            }
        };
        let tokens: std::result::Result<_, _> = used.iter().enumerate().map(token).collect();
        Tiktoken::of(tokens?)
    }
}
