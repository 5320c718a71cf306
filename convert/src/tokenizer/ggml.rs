//! The vocabulary inside a legacy GGML file: texts with plain spaces, bytes as they are, nothing
//! for BOS and EOS.
//!
//! Source: llama.cpp's `convert_llama_ggml_to_gguf.py`, but for files without scores.

use std::path::Path;

use super::{Encoding, Token, TokenKind, TokenizerError, Vocabulary, fit, note_size};
use crate::{Error, Note, error::Result, weights::ggml::Piece};

/// The vocabulary of `pieces` for an embedding of `size` rows; `path` is the file they are from.
pub(crate) fn open(
    path: &Path,
    pieces: &[Piece],
    size: usize,
    notes: &mut Vec<Note>,
) -> Result<Vocabulary> {
    let tokens = pieces.iter().enumerate().map(|(id, piece)| token(id, piece));
    let tokens = tokens.collect::<std::result::Result<Vec<Token>, _>>();
    let tokens =
        tokens.map_err(|problem| Error::Tokenizer { path: path.to_path_buf(), problem })?;
    if pieces.iter().any(|piece| piece.score.is_none()) {
        let note = "the file has no scores of tokens: they get those of LLaMA's vocabulary, \
             which follow from the order";
        notes.push(Note(note.to_owned()));
    }
    let tokens = fit(tokens, size);
    note_size(pieces.len(), &tokens, notes);
    Vocabulary {
        encoding: Encoding::SentencePiece,
        tokens,
        special: vec![("bos_token_id", 1), ("eos_token_id", 2), ("unknown_token_id", 0)],
        add_bos: Some(true),
        add_eos: Some(false),
        add_sep: None,
        add_space_prefix: None,
        chat_templates: Vec::new(),
    }
    .checked(path)
}

/// The ids of LLaMA's tokens for single bytes.
const BYTES: std::ops::RangeInclusive<usize> = 3..=258;

fn token(id: usize, piece: &Piece) -> std::result::Result<Token, TokenizerError> {
    let (text, kind) = match (id, piece.bytes.as_slice()) {
        (0, _) => ("<unk>".to_owned(), TokenKind::Unknown),
        (1, _) => ("<s>".to_owned(), TokenKind::Control),
        (2, _) => ("</s>".to_owned(), TokenKind::Control),
        (_, []) => (String::new(), TokenKind::Control),
        (_, [byte]) if BYTES.contains(&id) => (format!("<0x{byte:02X}>"), TokenKind::Byte),
        (_, bytes) => {
            let text = str::from_utf8(bytes).map_err(|_| TokenizerError::NotUtf8 { id })?;
            (text.replace(' ', "▁"), TokenKind::Normal)
        }
    };
    let score = piece.score.unwrap_or_else(|| score_by_order(id, &text));
    if !score.is_finite() {
        return Err(TokenizerError::Score { id, score });
    }
    Ok(Token { text, score, kind })
}

/// The score that LLaMA's vocabulary has: merges come first to last, runs of spaces last of all.
/// It holds for all of its 32000 tokens.
fn score_by_order(id: usize, text: &str) -> f32 {
    match id.checked_sub(BYTES.end() + 1) {
        None => 0.0,
        Some(_) if text.chars().all(|letter| letter == '▁') => -1e9,
        Some(rank) => -(rank as f32),
    }
}
