//! A SentencePiece vocabulary that was published as `tokenizer.json` only: a BPE over characters
//! with byte tokens for the rest.
//!
//! SentencePiece merges the pair whose union has the best score, `tokenizer.json` the pair that
//! comes first in a list. The list is sorted by the scores that it was made from, so the order in
//! which tokens are first made gives scores of the same effect.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use super::{
    Token, TokenKind, TokenizerError,
    tokenizer_json::{Bpe, TokenizerJson},
};

/// The tokens of the model by rising id, and whether a text gets a space in front.
#[derive(Debug)]
pub(super) struct ByteFallback {
    pub(super) tokens: Vec<(u32, Token)>,
    pub(super) space_prefix: bool,
    /// Tokens that SentencePiece could make where the list of merges would not, or at another
    /// time.
    pub(super) inexact: usize,
}

impl ByteFallback {
    pub(super) fn of(json: &TokenizerJson) -> Result<ByteFallback, TokenizerError> {
        let space_prefix = space_prefix(&json.normalizer, &json.pre_tokenizer)?;
        let texts = json.model.tokens()?;
        let control: HashSet<&str> = json.added_tokens.iter().map(|t| t.content.as_str()).collect();
        let kind = |text: &str| match text {
            _ if json.model.unknown() == Some(text) => TokenKind::Unknown,
            _ if control.contains(text) => TokenKind::Control,
            _ if is_byte(text) => TokenKind::Byte,
            _ => TokenKind::Normal,
        };
        let kinds: HashMap<&str, TokenKind> =
            texts.iter().map(|&(_, text)| (text, kind(text))).collect();
        let Order { ranks, inexact } = order(&json.model, &kinds)?;
        // What no merge makes comes after all that one makes.
        let mut last = ranks.len();
        let tokens = texts.iter().map(|&(id, text)| {
            let kind = kinds[text];
            let rank = match (ranks.get(text), kind) {
                (Some(&rank), _) => rank,
                (None, TokenKind::Normal) => {
                    last += 1;
                    last - 1
                }
                (None, _) => 0,
            };
            (id, Token { text: text.to_owned(), score: score(rank), kind })
        });
        Ok(ByteFallback { tokens: tokens.collect(), space_prefix, inexact })
    }
}

/// As SentencePiece numbers them; the best is zero.
fn score(rank: usize) -> f32 {
    if rank == 0 { 0.0 } else { -(rank as f32) }
}

/// When each token is first made.
struct Order<'a> {
    ranks: HashMap<&'a str, usize>,
    inexact: usize,
}

fn order<'a>(
    model: &Bpe,
    kinds: &HashMap<&'a str, TokenKind>,
) -> Result<Order<'a>, TokenizerError> {
    let mut ranks = HashMap::new();
    let mut inexact = HashSet::new();
    let mut listed: HashSet<(&str, &str)> = HashSet::new();
    let mut whole = String::new();
    for merge in model.merged_pairs() {
        let (index, (left, right)) = merge?;
        let fail = |problem| {
            let merge = format!("{left} {right}");
            Err(TokenizerError::Merge { index, merge, problem })
        };
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        let known = |text: &str| kinds.get_key_value(text).map(|(&text, _)| text);
        let (Some(left), Some(right)) = (known(left), known(right)) else {
            return fail("a part is no token");
        };
        let Some(made) = known(&whole) else { return fail("what it makes is no token") };
        let latest = ranks.len();
        let rank = *ranks.entry(made).or_insert(latest);
        // Other tokens were first made since.
        if rank + 1 < latest {
            inexact.insert(made);
        }
        listed.insert((left, right));
    }
    let unlisted = |text: &str| splits(text, kinds).any(|split| !listed.contains(&split));
    let normal = kinds.iter().filter(|&(_, &kind)| kind == TokenKind::Normal);
    inexact.extend(normal.map(|(&text, _)| text).filter(|text| unlisted(text)));
    Ok(Order { ranks, inexact: inexact.len() })
}

/// The pairs of normal tokens that `text` is the union of. Of a text longer than tokens are there
/// are none: looking at each costs its length once more.
fn splits<'t>(
    text: &'t str,
    kinds: &HashMap<&str, TokenKind>,
) -> impl Iterator<Item = (&'t str, &'t str)> {
    const LONGEST: usize = 512;
    let is_normal = |part: &str| kinds.get(part) == Some(&TokenKind::Normal);
    let cuts = if text.len() > LONGEST { "" } else { text }.char_indices().skip(1);
    cuts.map(|(cut, _)| text.split_at(cut))
        .filter(move |(left, right)| is_normal(left) && is_normal(right))
}

/// `<0x00>` to `<0xFF>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| {
        digits.len() == 2 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'))
    })
}

/// Whether a space is put in front; an error where the steps before the model are more than what
/// SentencePiece does: `▁` for each space.
fn space_prefix(normalizer: &Json, pre_tokenizer: &Json) -> Result<bool, TokenizerError> {
    let mut state = Spaces { escaped: false, prefix: false };
    for step in steps(normalizer, "normalizers").chain(steps(pre_tokenizer, "pretokenizers")) {
        if !state.take(step) {
            return Err(TokenizerError::ByteFallback { step: step.to_string() });
        }
    }
    if !state.escaped {
        let step = "no step that makes \u{2581} of spaces".to_owned();
        return Err(TokenizerError::ByteFallback { step });
    }
    Ok(state.prefix)
}

/// The steps of a sequence, or the only one.
fn steps<'a>(step: &'a Json, key: &str) -> impl Iterator<Item = &'a Json> {
    let sequence = step.get(key).and_then(Json::as_array);
    let steps = sequence.map_or(std::slice::from_ref(step), Vec::as_slice);
    steps.iter().filter(|step| !step.is_null())
}

struct Spaces {
    escaped: bool,
    prefix: bool,
}

impl Spaces {
    /// Whether the step is one of SentencePiece's.
    fn take(&mut self, step: &Json) -> bool {
        const SPACE: &str = "\u{2581}";
        let text = |key: &str| step.get(key).and_then(Json::as_str);
        let pattern = step.get("pattern").and_then(|p| p.get("String")).and_then(Json::as_str);
        match text("type") {
            Some("Prepend") if text("prepend") == Some(SPACE) => self.prefix = true,
            Some("Replace") if (pattern, text("content")) == (Some(" "), Some(SPACE)) => {
                self.escaped = true;
            }
            Some("Metaspace") => {
                let cuts = step.get("split").and_then(Json::as_bool) != Some(false);
                if text("replacement") != Some(SPACE) || cuts {
                    return false;
                }
                self.escaped = true;
                // Early files have a flag for the scheme.
                let flag = step.get("add_prefix_space").and_then(Json::as_bool);
                self.prefix |= match text("prepend_scheme") {
                    Some(scheme) => scheme != "never",
                    None => flag != Some(false),
                };
            }
            // Finds nothing where each space was replaced.
            Some("Split") => return self.escaped && pattern == Some(" "),
            _ => return false,
        }
        true
    }
}
