//! Corner cases of byte-level BPE, on small vocabularies.

#![allow(clippy::unwrap_used)] // helpers of tests

use llq_eval::{Error, Tokenizer};
use llq_fixtures::shared;
use llq_gguf::{Array, Metadata, Model, Value};

const PIECES: [&str; 12] =
    ["ab", "bc", "aa", "aaa", "abc", "Ġa", "Ġab", "<mark>", "<|end|>", "ca", "", "Ġabcab"];
const MERGES: [&str; 8] = ["b c", "a b", "a a", "aa a", "ab c", "Ġ a", "Ġ ab", "a b"];
const TYPES: [i32; 12] = [1, 1, 1, 1, 1, 1, 1, 4, 3, 1, 5, 1];

/// The letters of all bytes but 0xF0, numbered from 0 in order of the bytes, then the pieces.
fn small(pre: &str) -> Metadata {
    let letters: Vec<char> = (0..=255).filter(|&byte| byte != 0xF0).map(letter).collect();
    let tokens: Vec<String> =
        letters.iter().map(char::to_string).chain(PIECES.map(str::to_owned)).collect();
    let types = [vec![1; 255], TYPES.to_vec()].concat();
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", Value::String("gpt2".into()));
    metadata.set("tokenizer.ggml.pre", Value::String(pre.into()));
    metadata.set("tokenizer.ggml.tokens", tokens);
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    metadata.set("tokenizer.ggml.merges", MERGES.to_vec());
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(END));
    metadata
}

fn letter(byte: u8) -> char {
    let code = match byte {
        0..=32 => 0x100 + u32::from(byte),
        127..=160 => 0x121 + u32::from(byte) - 127,
        173 => 0x143,
        _ => u32::from(byte),
    };
    char::from_u32(code).unwrap()
}

fn byte(byte: u8) -> u32 {
    u32::from(byte) - u32::from(byte > 0xF0)
}

fn piece(text: &str) -> u32 {
    255 + PIECES.iter().position(|&piece| piece == text).unwrap() as u32
}

const END: u32 = 263;

fn encode(pre: &str, text: &str) -> Vec<u32> {
    Tokenizer::from_metadata(&small(pre)).unwrap().encode(text)
}

#[test]
fn earlier_merges_go_first_and_among_equals_the_leftmost() {
    assert_eq!(encode("gpt-2", ""), [0u32; 0]);
    // "b c" comes before "a b", so "ab c" is never reached.
    assert_eq!(encode("gpt-2", "abc"), [byte(b'a'), piece("bc")]);
    assert_eq!(encode("gpt-2", "abab"), [piece("ab"), piece("ab")]);
    assert_eq!(encode("gpt-2", "aaa"), [piece("aaa")]);
    assert_eq!(encode("gpt-2", "aaaa"), [piece("aa"), piece("aa")]);
    assert_eq!(encode("gpt-2", "aaaaa"), [piece("aa"), piece("aaa")]);
    // No merge makes it, though it is a token.
    assert_eq!(encode("gpt-2", "ca"), [byte(b'c'), byte(b'a')]);
    assert_eq!(encode("gpt-2", "b ab"), [byte(b'b'), piece("Ġab")]);
}

#[test]
fn a_word_that_is_a_token_stays_whole_where_merges_are_ignored() {
    assert_eq!(encode("llama-bpe", "abc"), [piece("abc")]);
    assert_eq!(encode("llama-bpe", " abcab"), [piece("Ġabcab")]);
    assert_eq!(encode("smaug-bpe", "abc"), [byte(b'a'), piece("bc")]);
}

#[test]
fn bytes_without_token_are_left_out_and_nothing_merges_across() {
    // U+10000 is F0 90 80 80.
    assert_eq!(encode("gpt-2", "\u{10000}"), [0x90, 0x80, 0x80].map(byte));
    assert_eq!(encode("gpt-2", "é\0"), [0xC3, 0xA9, 0].map(byte));
}

#[test]
fn user_defined_tokens_are_found_and_control_tokens_are_text() {
    assert_eq!(encode("gpt-2", "ab<mark>ab"), [piece("ab"), piece("<mark>"), piece("ab")]);
    let spelled: Vec<u32> = "<|end|>".bytes().map(byte).collect();
    assert_eq!(encode("llama-bpe", "<|end|>"), spelled);
}

#[test]
fn bos_follows_the_pre_tokenizer_and_then_the_flag() {
    let text_start = |metadata: &Metadata| Tokenizer::from_metadata(metadata).unwrap().text_start();
    assert_eq!(text_start(&small("llama-bpe")), Some(END));
    assert_eq!(text_start(&small("gpt-2")), None);
    let mut metadata = small("gpt-2");
    metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    assert_eq!(text_start(&metadata), Some(END));
    metadata.remove("tokenizer.ggml.bos_token_id");
    let error = Tokenizer::from_metadata(&metadata).unwrap_err().to_string();
    assert!(error.contains("tokenizer.ggml.bos_token_id"), "{error}");
}

#[test]
fn unknown_pre_tokenizers_are_refused_and_a_missing_one_is_told() {
    let error = Tokenizer::from_metadata(&small("falcon9")).unwrap_err();
    let message = error.to_string();
    let Error::PreTokenizer { found, known } = error else { panic!("{error}") };
    assert_eq!(found, "falcon9");
    assert!(message.starts_with("tokenizer.ggml.pre: expected one of llama-bpe, "), "{message}");
    for name in known {
        assert_eq!(Tokenizer::from_metadata(&small(name)).unwrap().assumption(), None);
    }
    let mut metadata = small("gpt-2");
    metadata.remove("tokenizer.ggml.pre");
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    assert!(tokenizer.assumption().unwrap().contains("tokenizer.ggml.pre is missing"));
    assert_eq!(
        tokenizer.encode("a's"),
        Tokenizer::from_metadata(&small("default")).unwrap().encode("a's")
    );
}

#[test]
fn malformed_merges_are_refused() {
    for merge in ["ab", "", " ab", "ab ", "a zz", "c b", "a b c"] {
        let mut metadata = small("gpt-2");
        metadata.set("tokenizer.ggml.merges", vec!["a b", merge]);
        assert_eq!(
            Tokenizer::from_metadata(&metadata).unwrap_err().to_string(),
            format!(
                "tokenizer.ggml.merges: expected two tokens with a space between, whose union is \
                 a token, found {merge:?}"
            )
        );
    }
    let mut metadata = small("gpt-2");
    metadata.remove("tokenizer.ggml.merges");
    let error = Tokenizer::from_metadata(&metadata).unwrap_err().to_string();
    assert!(error.contains("tokenizer.ggml.merges"), "{error}");
    metadata.set("tokenizer.ggml.merges", Value::U32(1));
    let error = Tokenizer::from_metadata(&metadata).unwrap_err().to_string();
    assert!(error.contains("an array of strings"), "{error}");
}

#[test]
fn a_word_of_a_million_letters_is_no_slower_than_prose() {
    let tokens = encode("llama-bpe", &"ab".repeat(1 << 19));
    assert_eq!(tokens, vec![piece("ab"); 1 << 19]);
}

/// Merging by the definition: each time the earliest merge, among equals the leftmost.
#[test]
fn words_of_a_real_vocabulary_merge_by_the_definition() {
    let Some(path) = shared("vocab/ggml-vocab-gpt-2.gguf") else { return };
    let model = Model::open(&path).unwrap();
    let metadata = model.metadata();
    let tokenizer = Tokenizer::from_metadata(metadata).unwrap();
    let merges: Vec<&str> = metadata.strings("tokenizer.ggml.merges").unwrap().iter().collect();
    let tokens: Vec<&str> = metadata.strings("tokenizer.ggml.tokens").unwrap().iter().collect();
    for word in
        ["internationalization", "aaaaaaaaaaaa", "nevertheless", "zzyzxqwerty", "Ärgernisse"]
    {
        let mut parts: Vec<String> = word.bytes().map(|byte| letter(byte).to_string()).collect();
        while let Some((_, left)) = (1..parts.len())
            .filter_map(|right| {
                let merge = format!("{} {}", parts[right - 1], parts[right]);
                Some((merges.iter().position(|&known| known == merge)?, right - 1))
            })
            .min()
        {
            let right = parts.remove(left + 1);
            parts[left] += &right;
        }
        let expected: Vec<u32> = parts
            .iter()
            .map(|part| tokens.iter().position(|token| token == part).unwrap() as u32)
            .collect();
        assert_eq!(tokenizer.encode(word), expected, "{word}");
    }
}
