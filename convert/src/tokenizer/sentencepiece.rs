//! `tokenizer.model` of SentencePiece: the message `ModelProto` of `sentencepiece_model.proto`.

use std::path::Path;

use super::{
    Token, TokenKind, TokenizerError,
    protobuf::{Field, Message, Wire},
    tiktoken::looks_like_tiktoken,
};
use crate::{Error, error::Result, weights::InputFile};

/// What a conversion needs of a SentencePiece model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SentencePiece {
    pub(crate) tokens: Vec<Token>,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    /// Whether a text gets a space in front.
    pub(crate) space_prefix: bool,
}

/// Size limit of a model in bytes; the largest vocabularies have five million.
pub(super) const MAX_MODEL: u64 = 16 << 20;

impl SentencePiece {
    pub(crate) fn open(path: &Path) -> Result<SentencePiece> {
        let bytes = InputFile::read_small(path, MAX_MODEL)?;
        Self::parse(&bytes)
            .map_err(|problem| Error::Tokenizer { path: path.to_path_buf(), problem })
    }

    pub(crate) fn parse(bytes: &[u8]) -> std::result::Result<SentencePiece, TokenizerError> {
        if looks_like_tiktoken(bytes) {
            return Err(TokenizerError::Tiktoken);
        }
        // The defaults of the schema.
        let mut trainer = Trainer { model_type: UNIGRAM, bos: 1, eos: 2 };
        let mut space_prefix = true;
        let mut tokens = Vec::new();
        let mut message = Message::new(bytes);
        while let Some(field) = message.next()? {
            match field {
                Field { number: 1, value: Wire::Bytes(piece) } => {
                    tokens.push(parse_piece(piece, tokens.len())?);
                }
                Field { number: 2, value: Wire::Bytes(spec) } => trainer.parse(spec)?,
                Field { number: 3, value: Wire::Bytes(spec) } => {
                    space_prefix = parse_dummy_prefix(spec)?.unwrap_or(space_prefix);
                }
                _ => {}
            }
        }
        if tokens.is_empty() {
            return Err(TokenizerError::Empty);
        }
        if trainer.model_type != BPE {
            return Err(TokenizerError::ModelType { found: trainer.model_type });
        }
        let id = |id: i32| u32::try_from(id).ok().filter(|&id| (id as usize) < tokens.len());
        let (bos, eos) = (id(trainer.bos), id(trainer.eos));
        Ok(SentencePiece { tokens, bos, eos, space_prefix })
    }
}

/// Values of `TrainerSpec.model_type`.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

struct Trainer {
    model_type: u64,
    bos: i32,
    eos: i32,
}

impl Trainer {
    fn parse(&mut self, spec: &[u8]) -> std::result::Result<(), TokenizerError> {
        let mut message = Message::new(spec);
        while let Some(field) = message.next()? {
            match field {
                Field { number: 3, value: Wire::Varint(value) } => self.model_type = value,
                // An int32: negative ones are sign-extended to 64 bits.
                Field { number: 41, value: Wire::Varint(value) } => self.bos = value as i32,
                Field { number: 42, value: Wire::Varint(value) } => self.eos = value as i32,
                _ => {}
            }
        }
        Ok(())
    }
}

/// `NormalizerSpec.add_dummy_prefix`.
fn parse_dummy_prefix(spec: &[u8]) -> std::result::Result<Option<bool>, TokenizerError> {
    let mut found = None;
    let mut message = Message::new(spec);
    while let Some(field) = message.next()? {
        if let Field { number: 3, value: Wire::Varint(value) } = field {
            found = Some(value != 0);
        }
    }
    Ok(found)
}

fn parse_piece(piece: &[u8], id: usize) -> std::result::Result<Token, TokenizerError> {
    let mut text = "";
    let mut score = 0.0;
    let mut kind = TokenKind::Normal;
    let mut message = Message::new(piece);
    while let Some(field) = message.next()? {
        match field {
            Field { number: 1, value: Wire::Bytes(bytes) } => {
                text = str::from_utf8(bytes).map_err(|_| TokenizerError::NotUtf8 { id })?;
            }
            Field { number: 2, value: Wire::Fixed32(bits) } => score = f32::from_bits(bits),
            Field { number: 3, value: Wire::Varint(value) } => kind = kind_of(value, id)?,
            _ => {}
        }
    }
    if !score.is_finite() {
        return Err(TokenizerError::Score { id, score });
    }
    Ok(Token { text: text.to_owned(), score, kind })
}

/// The kind behind `SentencePiece.Type`. llama.cpp's converter writes user-defined pieces of the
/// model as normal ones, and files are compared with its.
fn kind_of(value: u64, id: usize) -> std::result::Result<TokenKind, TokenizerError> {
    Ok(match value {
        1 | 4 => TokenKind::Normal,
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        found => return Err(TokenizerError::PieceType { id, found }),
    })
}
