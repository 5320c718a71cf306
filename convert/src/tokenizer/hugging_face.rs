//! What Hugging Face keeps around a tokenizer: added tokens, special tokens, chat templates.

use std::{collections::HashSet, path::Path};

use serde_json::Value as Json;

use super::{
    Encoding, Token, TokenKind, TokenizerError, Vocabulary,
    byte_fallback::ByteFallback,
    chat_template::chat_templates,
    fit,
    infill::infill_ids,
    note_size, padding,
    pre_name::PreName,
    pre_tokenizer::recognise,
    sentencepiece::SentencePiece,
    special::{ListedToken, SpecialSources, listed_tokens},
    tekken,
    template::TemplateFlags,
    tiktoken::looks_like_tiktoken,
    tokenizer_json::{AddedToken, TokenizerJson, checked_id},
    written_space_prefix,
};
use crate::{Error, Note, error::Result, json::JsonFile, weights::InputFile};

/// The vocabulary of `folder` for an embedding of `size` rows; `config` is its `config.json`.
/// `pre` is a name of a pre-tokenizer that holds whatever the folder says.
pub(crate) fn open(
    folder: &Path,
    config: &JsonFile,
    size: usize,
    pre: Option<PreName>,
    notes: &mut Vec<Note>,
) -> Result<Vocabulary> {
    let files = Files {
        folder,
        config,
        settings: JsonFile::open_optional(&folder.join("tokenizer_config.json"))?,
        added: JsonFile::open_optional(&folder.join("added_tokens.json"))?,
    };
    let model = folder.join("tokenizer.model");
    let json = folder.join("tokenizer.json");
    let tekken = folder.join("tekken.json");
    if model.exists() && !(is_tiktoken(&model)? && json.exists()) {
        notes.extend(pre.map(|_| Note::pre_not_used()));
        files.with_sentencepiece(&model, size, notes)
    } else if json.exists() {
        let path = &json;
        let json = TokenizerJson::open(path)?;
        if json.is_sentencepiece() {
            notes.extend(pre.map(|_| Note::pre_not_used()));
            files.with_byte_fallback(path, &json, size, notes)
        } else {
            files.with_byte_level_bpe(path, &json, size, pre, notes)
        }
    } else if tekken.exists() {
        let chat_templates = chat_templates(folder, files.settings.as_ref())?;
        Ok(Vocabulary { chat_templates, ..tekken::open(&tekken, size, pre, notes)? })
    } else {
        let looked_for = "tokenizer.model, and no tokenizer.json".to_owned();
        Err(Error::MissingFile { folder: folder.to_path_buf(), looked_for })
    }
}

fn is_tiktoken(path: &Path) -> Result<bool> {
    Ok(looks_like_tiktoken(&InputFile::open(path)?.start(4096)?))
}

/// What is in a folder beside the tokenizer itself.
struct Files<'a> {
    folder: &'a Path,
    config: &'a JsonFile,
    /// `tokenizer_config.json`
    settings: Option<JsonFile>,
    /// `added_tokens.json`
    added: Option<JsonFile>,
}

impl Files<'_> {
    fn with_sentencepiece(
        &self,
        path: &Path,
        size: usize,
        notes: &mut Vec<Note>,
    ) -> Result<Vocabulary> {
        let model = SentencePiece::open(path)?;
        let published = model.tokens.len();
        let mut tokens = fit(model.tokens, size);
        if let Some(added) = &self.added {
            place_added(added, &mut tokens, notes)?;
        }
        self.place_decoder(&mut tokens, notes)?;
        note_size(published, &tokens, notes);
        let own = [("bos", model.bos), ("eos", model.eos)];
        let mut special = self.special(listed_tokens(self.folder)?, own).ids(&tokens, notes);
        special.extend(infill_ids(&tokens));
        Vocabulary {
            encoding: Encoding::SentencePiece,
            special,
            add_bos: self.flag("add_bos_token")?,
            add_eos: self.flag("add_eos_token")?,
            add_sep: None,
            add_space_prefix: self
                .flag("add_prefix_space")?
                .or(written_space_prefix(model.space_prefix)),
            chat_templates: chat_templates(self.folder, self.settings.as_ref())?,
            tokens,
        }
        .checked(path)
    }

    fn with_byte_fallback(
        &self,
        path: &Path,
        json: &TokenizerJson,
        size: usize,
        notes: &mut Vec<Note>,
    ) -> Result<Vocabulary> {
        let problem = |problem| Error::Tokenizer { path: path.to_path_buf(), problem };
        let ByteFallback { tokens: own, space_prefix, inexact } =
            ByteFallback::of(json).map_err(problem)?;
        notes.push(scores_note(inexact));
        let listed = listed(&json.added_tokens).map_err(problem)?;
        let known: HashSet<&str> = own.iter().map(|(_, token)| token.text.as_str()).collect();
        let added =
            json.added_tokens.iter().filter(|added| !known.contains(added.content.as_str()));
        let added: Vec<(u32, Token)> = added
            .map(|added| Ok((checked_id(&added.content, added.id)?, added.token())))
            .collect::<std::result::Result<_, _>>()
            .map_err(problem)?;
        let published = own.iter().chain(&added).map(|&(id, _)| id as usize + 1).max().unwrap_or(0);
        let mut tokens = placed(own.into_iter().chain(added), size);
        self.place_decoder(&mut tokens, notes)?;
        note_size(published, &tokens, notes);

        let flags = TemplateFlags::of(&json.post_processor, self.settings.as_ref());
        let mut special = self.special(listed, [("bos", None), ("eos", None)]).ids(&tokens, notes);
        special.extend(infill_ids(&tokens));
        Vocabulary {
            encoding: Encoding::SentencePiece,
            special,
            add_bos: self.flag("add_bos_token")?.or(flags.add_bos),
            add_eos: self.flag("add_eos_token")?.or(flags.add_eos),
            add_sep: None,
            add_space_prefix: self.flag("add_prefix_space")?.or(written_space_prefix(space_prefix)),
            chat_templates: chat_templates(self.folder, self.settings.as_ref())?,
            tokens,
        }
        .checked(path)
    }

    fn with_byte_level_bpe(
        &self,
        path: &Path,
        json: &TokenizerJson,
        size: usize,
        pre: Option<PreName>,
        notes: &mut Vec<Note>,
    ) -> Result<Vocabulary> {
        let problem = |problem| Error::Tokenizer { path: path.to_path_buf(), problem };
        let pre = match pre {
            Some(name) => name.as_str(),
            None => recognise(&json.pre_tokenizer, json.model.whole_words()).map_err(problem)?,
        };
        notes.extend(normalizer_note(&json.normalizer));

        let own = json.model.tokens().map_err(problem)?;
        let merges = json.model.merges(&own).map_err(problem)?;
        let listed = listed(&json.added_tokens).map_err(problem)?;
        let ids = own.iter().map(|&(id, _)| id).chain(listed.iter().map(|token| token.id));
        let published = ids.max().map_or(0, |highest| highest as usize + 1);
        let mut tokens = byte_level_tokens(&own, &json.added_tokens, size);
        self.place_decoder(&mut tokens, notes)?;
        note_size(published, &tokens, notes);

        let flags = TemplateFlags::of(&json.post_processor, self.settings.as_ref());
        // As llama.cpp's converter has it for Granite and SmolLM, by their size alone.
        let never_bos = (size == 49152).then_some(false);
        Vocabulary {
            encoding: Encoding::ByteLevelBpe { pre: pre.to_owned(), merges },
            special: self.special(listed, [("bos", None), ("eos", None)]).ids(&tokens, notes),
            add_bos: never_bos.or(self.flag("add_bos_token")?).or(flags.add_bos),
            add_eos: self.flag("add_eos_token")?.or(flags.add_eos),
            add_sep: self.flag("add_sep_token")?.or(flags.add_sep),
            add_space_prefix: None,
            chat_templates: chat_templates(self.folder, self.settings.as_ref())?,
            tokens,
        }
        .checked(path)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.settings.as_ref().map_or(Ok(None), |settings| settings.optional_bool(key))
    }

    fn place_decoder(&self, tokens: &mut [Token], notes: &mut Vec<Note>) -> Result<()> {
        match &self.settings {
            Some(settings) => place_decoder(settings, tokens, notes),
            None => Ok(()),
        }
    }

    fn special(
        &self,
        listed: Vec<ListedToken>,
        model: [(&'static str, Option<u32>); 2],
    ) -> SpecialSources<'_> {
        SpecialSources { settings: self.settings.as_ref(), listed, config: self.config, model }
    }
}

/// `added_tokens.json`: text to id.
fn place_added(added: &JsonFile, tokens: &mut [Token], notes: &mut Vec<Note>) -> Result<()> {
    for (text, id) in added.entries() {
        let token = Token { text: text.clone(), score: ADDED_SCORE, kind: TokenKind::UserDefined };
        place(added, &id.to_string(), token, tokens, notes)?;
    }
    Ok(())
}

/// `added_tokens_decoder` of `tokenizer_config.json`: id to token. It lists tokens of the model
/// itself too, and llama.cpp's converter lets it replace them.
fn place_decoder(settings: &JsonFile, tokens: &mut [Token], notes: &mut Vec<Note>) -> Result<()> {
    let Some(decoder) = settings.optional_object("added_tokens_decoder")? else { return Ok(()) };
    for (id, token) in decoder {
        let content = token.get("content").and_then(Json::as_str);
        let text = content.ok_or_else(|| {
            settings.error(
                "added_tokens_decoder",
                "tokens with a content",
                format!("{id}: {token}"),
            )
        })?;
        let is_special = token.get("special").and_then(Json::as_bool).unwrap_or(false);
        let special = if is_special { Special::Yes } else { Special::No };
        place(settings, id, added_token(text, special), tokens, notes)?;
    }
    Ok(())
}

/// Whether a token is declared special.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Special {
    Yes,
    No,
}

fn added_token(text: &str, special: Special) -> Token {
    let (text, kind) = if special == Special::Yes || looks_special(text) {
        (text.to_owned(), TokenKind::Control)
    } else {
        (text.replace('\u{2581}', " "), TokenKind::UserDefined)
    };
    Token { text, score: ADDED_SCORE, kind }
}

/// The score llama.cpp's converter gives added tokens.
const ADDED_SCORE: f32 = -1000.0;

/// Puts an added token at its id; the embedding may have no row for it.
fn place(
    file: &JsonFile,
    id: &str,
    token: Token,
    tokens: &mut [Token],
    notes: &mut Vec<Note>,
) -> Result<()> {
    let Ok(index) = id.parse::<u32>() else {
        let problem = TokenizerError::AddedId { text: token.text, id: id.to_owned() };
        return Err(Error::Tokenizer { path: file.path().to_path_buf(), problem });
    };
    match tokens.get_mut(index as usize) {
        Some(place) => *place = token,
        None => notes.push(Note(format!(
            "added token {:?} has id {id}, the embedding {} rows: it is left out",
            token.text,
            tokens.len()
        ))),
    }
    Ok(())
}

/// Whether a token that is not declared special is one by its form.
fn looks_special(text: &str) -> bool {
    let inside = |open: &str, close: &str| text.starts_with(open) && text.ends_with(close);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || inside("<|", "|>")
        || inside("<\u{ff5c}", "\u{ff5c}>")
        || inside("<unused", ">")
}

/// The tokens of a model and those added to it at their ids, as far as `size` reaches.
fn byte_level_tokens(own: &[(u32, &str)], added: &[AddedToken], size: usize) -> Vec<Token> {
    let own = own.iter().map(|&(id, text)| {
        (id, Token { text: text.to_owned(), score: 0.0, kind: TokenKind::Normal })
    });
    let added = added.iter().filter_map(|added| Some((added.id.try_into().ok()?, added.token())));
    placed(own.chain(added), size)
}

/// Tokens at their ids, as far as `size` reaches, with padding between.
fn placed(all: impl Iterator<Item = (u32, Token)>, size: usize) -> Vec<Token> {
    let mut tokens: Vec<Token> = (0..size).map(padding).collect();
    for (id, token) in all {
        if let Some(place) = tokens.get_mut(id as usize) {
            *place = token;
        }
    }
    tokens
}

impl AddedToken {
    fn token(&self) -> Token {
        added_token(&self.content, if self.special { Special::Yes } else { Special::No })
    }
}

fn scores_note(inexact: usize) -> Note {
    const FROM: &str = "there is no tokenizer.model: scores follow from the order of the merges \
                        in tokenizer.json";
    Note(match inexact {
        0 => FROM.to_owned(),
        count => format!(
            "{FROM}, which scores can not express for {count} tokens: there a text \
                          may become other tokens"
        ),
    })
}

/// The ids of added tokens, checked.
fn listed(added: &[AddedToken]) -> std::result::Result<Vec<ListedToken>, TokenizerError> {
    let listed = added.iter().map(|AddedToken { id, content, .. }| {
        Ok(ListedToken { id: checked_id(content, *id)?, content: content.clone() })
    });
    listed.collect()
}

fn normalizer_note(normalizer: &Json) -> Option<Note> {
    let kind = normalizer.get("type").and_then(Json::as_str)?;
    Some(Note(format!("GGUF has no place for the tokenizer's normalizer {kind}: it is left out")))
}
