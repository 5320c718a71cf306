//! The hand-written stages against the regular expressions that they stand for.

use fancy_regex::Regex;
use proptest::prelude::*;

use super::*;

const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA_3: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The pieces of `text` and what lies between them.
fn pieces<'t>(regex: &Regex, text: &'t str) -> Vec<&'t str> {
    let (mut pieces, mut end) = (Vec::new(), 0);
    for found in regex.find_iter(text) {
        let found = found.expect("the texts are short");
        pieces.extend((end < found.start()).then(|| &text[end..found.start()]));
        pieces.push(found.as_str());
        end = found.end();
    }
    pieces.extend((end < text.len()).then(|| &text[end..]));
    pieces
}

/// Texts of the characters that rules treat differently.
fn texts() -> impl Strategy<Value = String> {
    let characters: Vec<char> =
        " \n\r\t\u{A0}\u{85}\u{3000}'sStTrRveEmMlLdDaAéÉ中ǅʰ\u{301}\u{903}019½٣Ⅷ.,$+/`|_€🦙\u{200B}\0"
            .chars()
            .collect();
    prop::collection::vec(prop::sample::select(characters), 0..40)
        .prop_map(|characters| characters.into_iter().collect())
}

fn assert_equal(stage: Stage, pattern: &str) {
    let regex = Regex::new(pattern).expect("a published pattern");
    let config = ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() };
    proptest!(config, |(text in texts())| {
        let mut words = Vec::new();
        split(&text, &[stage], &mut |word| words.push(word));
        prop_assert_eq!(words, pieces(&regex, &text));
    });
}

#[test]
fn gpt_2_is_its_pattern() {
    assert_equal(gpt2, GPT_2);
}

#[test]
fn llama_3_is_its_pattern() {
    assert_equal(llama3, LLAMA_3);
}

#[test]
fn qwen_2_is_its_pattern() {
    assert_equal(qwen2, &LLAMA_3.replace("{1,3}", ""));
}

#[test]
fn tekken_is_its_pattern() {
    assert_equal(tekken, TEKKEN);
}

#[test]
fn the_isolating_stages_are_their_patterns() {
    assert_equal(single_numbers, r"\p{N}");
    assert_equal(number_runs, r"\p{N}+");
    assert_equal(digit_triples, "[0-9][0-9][0-9]");
    assert_equal(punctuation_runs, r"[\p{P}$+<=>^~|]+");
}
