//! Words that end where a lower-case letter is followed by an upper-case one, as `camelCase` does.

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::{Class, class, is_line_end};

/// `P?U*L+|P?U+L*`, where `P` is `[^\r\n\p{L}\p{N}]`, `U` upper-case and `L` lower-case, both with
/// the characters that have no case, and marks.
pub(super) fn prefixed_word(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    let prefix = match class(first) {
        Class::Space | Class::Other if !is_line_end(first) => first.len_utf8(),
        _ => 0,
    };
    // A mark can be the prefix or, where nothing of a word follows, the word.
    [ends_lower as fn(&str) -> Option<usize>, starts_upper].into_iter().find_map(|word| {
        let prefixed = || Some(prefix + word(&text[prefix..])?);
        if prefix > 0 { prefixed().or_else(|| word(text)) } else { word(text) }
    })
}

/// `U*L+`. `U*` takes all it can and gives back up to the last character that is `L` too.
fn ends_lower(text: &str) -> Option<usize> {
    let mut end = None;
    let mut characters = text.char_indices().map(|(at, c)| (at + c.len_utf8(), case(c)));
    for (next, case) in characters.by_ref() {
        match case {
            Some(Case::Upper) => {}
            Some(Case::Both) => end = Some(next),
            Some(Case::Lower) => return Some(next + lower_run(&text[next..])),
            None => break,
        }
    }
    end
}

/// `U+L*`
fn starts_upper(text: &str) -> Option<usize> {
    let upper = super::run(text, |c| matches!(case(c), Some(Case::Upper | Case::Both)));
    (upper > 0).then(|| upper + lower_run(&text[upper..]))
}

fn lower_run(text: &str) -> usize {
    super::run(text, |c| matches!(case(c), Some(Case::Lower | Case::Both)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Upper,
    Lower,
    /// Letters without case, modifiers and marks count as either.
    Both,
}

fn case(character: char) -> Option<Case> {
    match character.general_category() {
        GeneralCategory::UppercaseLetter | GeneralCategory::TitlecaseLetter => Some(Case::Upper),
        GeneralCategory::LowercaseLetter => Some(Case::Lower),
        GeneralCategory::ModifierLetter
        | GeneralCategory::OtherLetter
        | GeneralCategory::NonspacingMark
        | GeneralCategory::SpacingMark
        | GeneralCategory::EnclosingMark => Some(Case::Both),
        _ => None,
    }
}
