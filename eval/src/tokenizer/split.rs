//! Text to the words that byte-level BPE never merges across.
//!
//! The published rules are regular expressions with look-ahead; here each is a function that says
//! how long the first piece of a text is. It looks at every character a bounded number of times,
//! whatever the text.

mod cased;

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// The length in bytes of the first piece of a text that is not empty: at least one character, at
/// most the text. What a rule does not match is a piece of its own, up to the next match.
pub(super) type Stage = fn(&str) -> usize;

/// Calls `word` with each piece of `text` in order. A later stage cuts the pieces of an earlier one
/// and sees nothing beyond them.
pub(super) fn split<'t>(text: &'t str, stages: &[Stage], word: &mut impl FnMut(&'t str)) {
    let Some((stage, later)) = stages.split_first() else { return word(text) };
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(stage(rest));
        split(piece, later, word);
        rest = tail;
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
pub(super) fn gpt2(text: &str) -> usize {
    if let Some(len) = contraction(text, Letters::Lower) {
        return len;
    }
    let space = usize::from(text.starts_with(' '));
    match text[space..].chars().next().map(class) {
        Some(class) if class != Class::Space => {
            space + run(&text[space..], |character| self::class(character) == class)
        }
        _ => spaces(text),
    }
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|`
/// `\s*[\r\n]+|\s+(?!\S)|\s+`
pub(super) fn llama3(text: &str) -> usize {
    tiktoken::<3>(text)
}

/// [`llama3`] with `\p{N}` for `\p{N}{1,3}`.
pub(super) fn qwen2(text: &str) -> usize {
    tiktoken::<1>(text)
}

fn tiktoken<const DIGITS: usize>(text: &str) -> usize {
    contraction(text, Letters::AnyCase)
        .or_else(|| prefixed_letters(text))
        .or_else(|| numbers(text, DIGITS))
        .or_else(|| symbols_and(text, is_line_end))
        .or_else(|| through_last_line_end(text))
        .unwrap_or_else(|| spaces(text))
}

/// `[^\r\n\p{L}\p{N}]?U*L+|[^\r\n\p{L}\p{N}]?U+L*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|`
/// `\s*[\r\n]+|\s+(?!\S)|\s+` with `U` for `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]` and `L` for
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
pub(super) fn tekken(text: &str) -> usize {
    cased::prefixed_word(text)
        .or_else(|| numbers(text, 1))
        .or_else(|| symbols_and(text, |end| is_line_end(end) || end == '/'))
        .or_else(|| through_last_line_end(text))
        .unwrap_or_else(|| spaces(text))
}

/// `\p{N}`, each on its own.
pub(super) fn single_numbers(text: &str) -> usize {
    numbers(text, 1).unwrap_or_else(|| run(text, |character| class(character) != Class::Number))
}

/// `\p{N}+`
pub(super) fn number_runs(text: &str) -> usize {
    let first = text.chars().next().map(class);
    run(text, |character| (class(character) == Class::Number) == (first == Some(Class::Number)))
}

/// `[0-9][0-9][0-9]`
pub(super) fn digit_triples(text: &str) -> usize {
    let is_triple = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_digit);
    match text.as_bytes().windows(3).position(is_triple) {
        Some(0) => 3,
        Some(start) => start,
        None => text.len(),
    }
}

/// `[\p{P}$+<=>^~|]+`
pub(super) fn punctuation_runs(text: &str) -> usize {
    let is_punctuation = |character: char| {
        matches!(character, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
            || character.general_category_group() == GeneralCategoryGroup::Punctuation
    };
    let first = text.chars().next().is_some_and(is_punctuation);
    run(text, |character| is_punctuation(character) == first)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
    Other,
}

fn class(character: char) -> Class {
    if character.is_ascii() {
        return match character {
            'a'..='z' | 'A'..='Z' => Class::Letter,
            '0'..='9' => Class::Number,
            ' ' | '\t'..='\r' => Class::Space,
            _ => Class::Other,
        };
    }
    match character.general_category_group() {
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Number => Class::Number,
        _ if character.is_whitespace() => Class::Space,
        _ => Class::Other,
    }
}

fn is_line_end(character: char) -> bool {
    matches!(character, '\r' | '\n')
}

/// Bytes of the longest start of `text` whose characters all are `in_run`.
fn run(text: &str, in_run: impl Fn(char) -> bool) -> usize {
    text.find(|character| !in_run(character)).unwrap_or(text.len())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Letters {
    Lower,
    AnyCase,
}

/// An apostrophe and one of the endings of English.
fn contraction(text: &str, letters: Letters) -> Option<usize> {
    let rest = text.as_bytes().strip_prefix(b"'")?;
    let ending = [b"s".as_slice(), b"t", b"re", b"ve", b"m", b"ll", b"d"].into_iter().find(
        |ending| match (rest.get(..ending.len()), letters) {
            (Some(found), Letters::Lower) => found == *ending,
            (Some(found), Letters::AnyCase) => found.eq_ignore_ascii_case(ending),
            (None, _) => false,
        },
    )?;
    Some(1 + ending.len())
}

/// `[^\r\n\p{L}\p{N}]?\p{L}+`
fn prefixed_letters(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    let prefix = match class(first) {
        Class::Letter => 0,
        Class::Space | Class::Other if !is_line_end(first) => first.len_utf8(),
        _ => return None,
    };
    let letters = run(&text[prefix..], |character| class(character) == Class::Letter);
    (letters > 0).then_some(prefix + letters)
}

/// `\p{N}{1,most}`
fn numbers(text: &str, most: usize) -> Option<usize> {
    let bytes = text
        .chars()
        .take(most)
        .take_while(|&character| class(character) == Class::Number)
        .map(char::len_utf8)
        .sum();
    (bytes > 0).then_some(bytes)
}

/// ` ?[^\s\p{L}\p{N}]+` and the `tail` characters after it.
fn symbols_and(text: &str, tail: fn(char) -> bool) -> Option<usize> {
    let space = usize::from(text.starts_with(' '));
    let symbols = run(&text[space..], |character| class(character) == Class::Other);
    let end = space + symbols;
    (symbols > 0).then(|| end + run(&text[end..], tail))
}

/// `\s*[\r\n]+`: the first `\s` may be line ends too, so it is the last one that counts.
fn through_last_line_end(text: &str) -> Option<usize> {
    let spaces = &text[..run(text, |character| class(character) == Class::Space)];
    spaces.rfind(is_line_end).map(|last| last + 1)
}

/// `\s+(?!\S)|\s+`: leaves the last space to a word that follows.
fn spaces(text: &str) -> usize {
    let all = run(text, |character| class(character) == Class::Space);
    let last = text[..all].chars().next_back().map_or(0, char::len_utf8);
    if all == text.len() || all == last { all } else { all - last }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod oracle;
