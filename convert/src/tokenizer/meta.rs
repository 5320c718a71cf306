//! The tokenizer of a Meta folder, which has nothing beside it.

use std::path::Path;

use super::{
    Encoding, PreName, Token, TokenKind, Vocabulary, fit,
    infill::infill_ids,
    note_size,
    sentencepiece::{MAX_MODEL, SentencePiece},
    tiktoken::{Tiktoken, looks_like_tiktoken},
    written_space_prefix,
};
use crate::{Error, Note, error::Result, weights::InputFile};

/// The names of LLaMA 3's special tokens, which are not in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpecialNames {
    Llama3,
    /// Of 3.1 and later.
    Llama31,
}

/// Whether a model was trained to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tuning {
    Base,
    Instruct,
}

/// What matters to a tiktoken vocabulary only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Llama3 {
    pub(crate) names: SpecialNames,
    pub(crate) tuning: Tuning,
    /// In place of LLaMA 3's.
    pub(crate) pre: Option<PreName>,
}

/// The vocabulary in `path` for an embedding of `size` rows.
pub(crate) fn open(
    path: &Path,
    size: usize,
    llama3: Llama3,
    notes: &mut Vec<Note>,
) -> Result<Vocabulary> {
    let bytes = InputFile::read_small(path, MAX_MODEL)?;
    let problem = |problem| Error::Tokenizer { path: path.to_path_buf(), problem };
    let vocabulary = if looks_like_tiktoken(&bytes) {
        let pre = llama3.pre.map_or("llama-bpe", PreName::as_str).to_owned();
        let model = Tiktoken::parse(&bytes).map_err(problem)?;
        let merges = model.merges().map_err(problem)?;
        of_tiktoken(&model, llama3, Encoding::ByteLevelBpe { pre, merges }, size, notes)
    } else {
        notes.extend(llama3.pre.map(|_| Note::pre_not_used()));
        of_sentencepiece(SentencePiece::parse(&bytes).map_err(problem)?, size, notes)
    };
    vocabulary.checked(path)
}

fn of_sentencepiece(model: SentencePiece, size: usize, notes: &mut Vec<Note>) -> Vocabulary {
    let mut special = Vec::new();
    special.extend(model.bos.map(|id| ("bos_token_id", id)));
    special.extend(model.eos.map(|id| ("eos_token_id", id)));
    let published = model.tokens.len();
    let tokens = fit(model.tokens, size);
    special.retain(|&(_, id)| (id as usize) < size);
    special.extend(infill_ids(&tokens));
    note_size(published, &tokens, notes);
    Vocabulary {
        encoding: Encoding::SentencePiece,
        tokens,
        special,
        add_bos: Some(true),
        add_eos: Some(false),
        add_sep: None,
        add_space_prefix: written_space_prefix(model.space_prefix),
        chat_templates: Vec::new(),
    }
}

fn of_tiktoken(
    model: &Tiktoken,
    Llama3 { names, tuning, .. }: Llama3,
    encoding: Encoding,
    size: usize,
    notes: &mut Vec<Note>,
) -> Vocabulary {
    let token = |text, kind| Token { text, score: 0.0, kind };
    let mut tokens: Vec<Token> = model.texts().map(|text| token(text, TokenKind::Normal)).collect();
    tokens.extend(names.texts().map(|text| token(text, TokenKind::Control)));
    notes.push(Note(names.note().to_owned()));
    notes.push(Note(tuning.note().to_owned()));

    let published = tokens.len();
    let tokens = fit(tokens, size);
    note_size(published, &tokens, notes);
    let end = match tuning {
        Tuning::Base => SpecialNames::END_OF_TEXT,
        Tuning::Instruct => SpecialNames::END_OF_TURN,
    };
    let special = [("bos_token_id", model.len()), ("eos_token_id", model.len() + end)];
    let in_vocabulary = special.into_iter().filter(|&(_, id)| id < size);
    Vocabulary {
        encoding,
        special: in_vocabulary.map(|(key, id)| (key, id as u32)).collect(),
        tokens,
        add_bos: Some(true),
        add_eos: Some(false),
        add_sep: Some(false),
        add_space_prefix: None,
        chat_templates: Vec::new(),
    }
}

impl SpecialNames {
    /// Special tokens after those of the file.
    const COUNT: usize = 256;

    /// Places among the special tokens, in every version.
    const END_OF_TEXT: usize = 1;
    const END_OF_TURN: usize = 9;

    /// Places among the special tokens that have a name; the others are numbered in turn.
    fn named(self) -> &'static [(usize, &'static str)] {
        match self {
            SpecialNames::Llama3 => &[
                (0, "begin_of_text"),
                (1, "end_of_text"),
                (6, "start_header_id"),
                (7, "end_header_id"),
                (9, "eot_id"),
            ],
            SpecialNames::Llama31 => &[
                (0, "begin_of_text"),
                (1, "end_of_text"),
                (4, "finetune_right_pad_id"),
                (6, "start_header_id"),
                (7, "end_header_id"),
                (8, "eom_id"),
                (9, "eot_id"),
                (10, "python_tag"),
            ],
        }
    }

    fn texts(self) -> impl Iterator<Item = String> {
        let mut reserved = 0..;
        (0..Self::COUNT).map(move |place| {
            let named = self.named().iter().find(|&&(named, _)| named == place);
            match named {
                Some((_, name)) => format!("<|{name}|>"),
                None => {
                    format!("<|reserved_special_token_{}|>", reserved.next().unwrap_or_default())
                }
            }
        })
    }

    fn note(self) -> &'static str {
        match self {
            SpecialNames::Llama3 => {
                "special tokens have the names of Llama 3, as params.json has no use_scaled_rope"
            }
            SpecialNames::Llama31 => {
                "special tokens have the names of Llama 3.1 and later, as use_scaled_rope is true"
            }
        }
    }
}

impl Tuning {
    fn note(self) -> &'static str {
        match self {
            Tuning::Base => {
                "EOS is <|end_of_text|>, as the folder's name does not say that this is an \
                 Instruct model"
            }
            Tuning::Instruct => {
                "EOS is <|eot_id|>, which ends a turn, as the folder's name says Instruct"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_have_the_published_ids() {
        let cases = [
            (SpecialNames::Llama3, 4, "<|reserved_special_token_2|>"),
            (SpecialNames::Llama3, 8, "<|reserved_special_token_4|>"),
            (SpecialNames::Llama3, 9, "<|eot_id|>"),
            (SpecialNames::Llama3, 10, "<|reserved_special_token_5|>"),
            (SpecialNames::Llama3, 255, "<|reserved_special_token_250|>"),
            (SpecialNames::Llama31, 5, "<|reserved_special_token_2|>"),
            (SpecialNames::Llama31, 10, "<|python_tag|>"),
            (SpecialNames::Llama31, 11, "<|reserved_special_token_3|>"),
            (SpecialNames::Llama31, 255, "<|reserved_special_token_247|>"),
        ];
        for (names, place, text) in cases {
            assert_eq!(names.texts().nth(place).as_deref(), Some(text), "{names:?}");
            assert_eq!(names.texts().count(), 256);
        }
    }
}
