//! SentencePiece's BPE: the neighbouring pieces whose union has the best score are merged first.
//!
//! Kudo and Richardson, "SentencePiece", 2018; what a GGUF file can't say (normalisation) is as the
//! field's standard tool does it: spaces become U+2581 and nothing else changes.

use std::{cmp::Ordering, collections::BinaryHeap};

use llq_gguf::{Array, Metadata};

use super::vocabulary::{TokenType, Vocabulary};
use crate::{
    Error,
    error::Result,
    keys::{optional, unusable},
};

const SCORES: &str = "tokenizer.ggml.scores";
const SPACE: &str = "\u{2581}";

/// Scores and fallbacks of a SentencePiece vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Spm {
    scores: Vec<f32>,
    /// What each byte of a character without token becomes.
    bytes: Box<[u32; 256]>,
    space_prefix: SpacePrefix,
}

/// Whether a text gets a space in front, so that its first word is as any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpacePrefix {
    Added,
    None,
}

impl Spm {
    pub(super) fn from_metadata(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Spm> {
        let space_prefix =
            match optional(metadata, "tokenizer.ggml.add_space_prefix", Metadata::bool)? {
                Some(false) => SpacePrefix::None,
                Some(true) | None => SpacePrefix::Added,
            };
        let scores = scores(metadata, vocabulary.len())?;
        Ok(Spm { scores, bytes: byte_tokens(vocabulary)?, space_prefix })
    }

    /// Whether a text gets a space in front.
    pub(super) fn adds_space(&self) -> bool {
        self.space_prefix == SpacePrefix::Added
    }

    /// Appends what a token of this text and type stands for to `out`.
    pub(super) fn decode(&self, text: &str, token_type: TokenType, out: &mut Vec<u8>) {
        let byte = text.strip_prefix("<0x").and_then(|text| text.strip_suffix('>'));
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if token_type == TokenType::Byte => out.push(byte),
            _ => out.extend_from_slice(text.replace(SPACE, " ").as_bytes()),
        }
    }

    /// Appends the tokens of `text` to `out`.
    pub(super) fn encode(&self, text: &str, vocabulary: &Vocabulary, out: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 2 + SPACE.len());
        if self.space_prefix == SpacePrefix::Added {
            escaped.push_str(SPACE);
        }
        for (i, word) in text.split(' ').enumerate() {
            if i > 0 {
                escaped.push_str(SPACE);
            }
            escaped.push_str(word);
        }
        let mut pieces = Pieces::characters(&escaped);
        self.merge(&mut pieces, vocabulary);
        for piece in pieces.iter() {
            match vocabulary.id(piece) {
                Some(token) => out.push(token),
                None => out.extend(piece.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }

    /// Merges until no two neighbours make up a token.
    fn merge(&self, pieces: &mut Pieces<'_>, vocabulary: &Vocabulary) {
        let mut merges = BinaryHeap::new();
        for left in 0..pieces.spans.len() {
            self.propose(pieces, left, vocabulary, &mut merges);
        }
        while let Some(merge) = merges.pop() {
            if !pieces.holds(&merge) {
                continue;
            }
            pieces.join(merge.left);
            if let Some(previous) = pieces.spans[merge.left].previous {
                self.propose(pieces, previous, vocabulary, &mut merges);
            }
            self.propose(pieces, merge.left, vocabulary, &mut merges);
        }
    }

    /// Adds the union of `left` and its right neighbour, if it is a token.
    fn propose(
        &self,
        pieces: &Pieces<'_>,
        left: usize,
        vocabulary: &Vocabulary,
        merges: &mut BinaryHeap<Merge>,
    ) {
        let Some(right) = pieces.spans[left].next else { return };
        let (start, end) = (pieces.spans[left].start, pieces.spans[right].end);
        if let Some(token) = vocabulary.id(&pieces.text[start..end]) {
            merges.push(Merge { score: self.scores[token as usize], left, end });
        }
    }
}

/// A text as a chain of neighbouring pieces; a piece is known by the index of its first character.
struct Pieces<'t> {
    text: &'t str,
    spans: Vec<Span>,
}

#[derive(Clone, Copy)]
struct Span {
    start: usize,
    /// Equal to `start` once the piece is part of its left neighbour.
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

impl<'t> Pieces<'t> {
    fn characters(text: &'t str) -> Pieces<'t> {
        let mut spans: Vec<Span> = text
            .char_indices()
            .enumerate()
            .map(|(index, (start, character))| Span {
                start,
                end: start + character.len_utf8(),
                previous: index.checked_sub(1),
                next: Some(index + 1),
            })
            .collect();
        if let Some(last) = spans.last_mut() {
            last.next = None;
        }
        Pieces { text, spans }
    }

    /// Whether both sides of `merge` are still what they were when it was proposed: the left one
    /// not swallowed, and the right one ending at the same place.
    fn holds(&self, merge: &Merge) -> bool {
        let left = self.spans[merge.left];
        let right = left.next.map(|right| self.spans[right].end);
        left.start < left.end && right == Some(merge.end)
    }

    /// Makes the right neighbour of `left` a part of it.
    fn join(&mut self, left: usize) {
        let Some(right) = self.spans[left].next else { return };
        let Span { start, end, next, .. } = self.spans[right];
        self.spans[left].end = end;
        self.spans[left].next = next;
        self.spans[right].end = start;
        if let Some(next) = next {
            self.spans[next].previous = Some(left);
        }
    }

    fn iter(&self) -> impl Iterator<Item = &'t str> {
        let text = self.text;
        self.spans.iter().filter(|s| s.start < s.end).map(move |s| &text[s.start..s.end])
    }
}

/// A merge of the piece `left` with its right neighbour, that ends at byte `end`.
struct Merge {
    score: f32,
    left: usize,
    end: usize,
}

/// The best score is greatest, among equals the leftmost.
impl Ord for Merge {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Merge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Merge {}

fn scores(metadata: &Metadata, tokens: usize) -> Result<Vec<f32>> {
    let Array::F32(scores) = metadata.array(SCORES)? else {
        return Err(unusable(SCORES, "an array of f32", "another element type"));
    };
    if scores.len() != tokens {
        return Err(unusable(SCORES, format!("{tokens} entries"), scores.len()));
    }
    if let Some(token) = scores.iter().position(|score| score.is_nan()) {
        return Err(unusable(SCORES, "numbers", format!("NaN for token {token}")));
    }
    // Negative zero would rank below zero.
    Ok(scores.iter().map(|score| score + 0.0).collect())
}

/// The token of each byte: `<0xXX>`, or else the unknown token.
fn byte_tokens(vocabulary: &Vocabulary) -> Result<Box<[u32; 256]>> {
    for (text, id) in vocabulary.of_type(TokenType::Byte) {
        if parse_byte_token(text).is_none() {
            let problem = format!("byte token {id}: expected <0x00> to <0xFF>, found {text:?}");
            return Err(Error::Vocabulary { problem });
        }
    }
    let unknown = vocabulary.of_type(TokenType::Unknown).map(|(_, id)| id).min();
    let mut tokens = Box::new([0; 256]);
    for (byte, token) in (0..=255).zip(tokens.iter_mut()) {
        let text = byte_token(byte);
        *token = vocabulary.id(&text).or(unknown).ok_or_else(|| {
            let problem = format!("neither {text} nor an unknown token");
            Error::Vocabulary { problem }
        })?;
    }
    Ok(tokens)
}

fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

fn parse_byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let byte = u8::from_str_radix(digits, 16).ok()?;
    (text == byte_token(byte)).then_some(byte)
}
