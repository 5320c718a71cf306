//! Tokens that stand around a gap in a text, as Code Llama's vocabulary has them.

use super::Token;

/// Metadata keys and the texts of Code Llama's tokenizer: ids 32007 to 32010 of its 32016.
const INFILL: [(&str, &str); 4] = [
    ("prefix_token_id", "\u{2581}<PRE>"),
    ("suffix_token_id", "\u{2581}<SUF>"),
    ("middle_token_id", "\u{2581}<MID>"),
    ("eot_token_id", "\u{2581}<EOT>"),
];

/// Keys and ids where all of them are there: a vocabulary without cannot fill gaps.
pub(super) fn infill_ids(tokens: &[Token]) -> Vec<(&'static str, u32)> {
    let id = |(key, text)| {
        let id = tokens.iter().position(|token| token.text == text)?;
        Some((key, u32::try_from(id).ok()?))
    };
    INFILL.into_iter().map(id).collect::<Option<_>>().unwrap_or_default()
}
