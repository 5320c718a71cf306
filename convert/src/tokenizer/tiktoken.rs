//! LLaMA 3's `tokenizer.model`: a line per token, its bytes in Base64, a space and its rank.

use std::collections::HashMap;

use llq_gguf::Strings;

use super::{TokenizerError, byte_alphabet::spell};

/// The tokens of the file by rank, each as its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tiktoken {
    tokens: Vec<Vec<u8>>,
}

type Result<T> = std::result::Result<T, TokenizerError>;

/// The most bytes of a token that is supported; LLaMA 3's longest are 128 spaces. Finding the
/// merges takes time with its square.
const MAX_TOKEN: usize = 256;

/// The most bytes that all merges together may have; those of LLaMA 3 have 3 million.
const MAX_MERGES: usize = 256 << 20;

impl Tiktoken {
    pub(super) fn parse(file: &[u8]) -> Result<Tiktoken> {
        let mut tokens = Vec::new();
        let lines = file.strip_suffix(b"\n").unwrap_or(file).split(|&byte| byte == b'\n');
        for (index, line) in lines.enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            tokens.push(parse_line(line, index)?);
        }
        Tiktoken::of(tokens)
    }

    /// The tokens by rank.
    pub(super) fn of(tokens: Vec<Vec<u8>>) -> Result<Tiktoken> {
        let tiktoken = Tiktoken { tokens };
        tiktoken.check()?;
        Ok(tiktoken)
    }

    /// Bytes are one token's and not too many, and each byte has one.
    fn check(&self) -> Result<()> {
        let long = self.tokens.iter().position(|bytes| bytes.len() > MAX_TOKEN);
        if let Some(rank) = long {
            let (bytes, limit) = (self.tokens[rank].len(), MAX_TOKEN);
            return Err(TokenizerError::LongToken { rank, bytes, limit });
        }
        let mut ranks = HashMap::with_capacity(self.tokens.len());
        for (second, bytes) in (0..).zip(&self.tokens) {
            if let Some(first) = ranks.insert(&bytes[..], second) {
                return Err(TokenizerError::RepeatedBytes { first, second });
            }
        }
        match (0..=u8::MAX).find(|&byte| !ranks.contains_key(&[byte][..])) {
            None => Ok(()),
            Some(byte) => Err(TokenizerError::MissingByte { byte }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens in GPT-2's alphabet, by rank.
    pub(super) fn texts(&self) -> impl Iterator<Item = String> {
        self.tokens.iter().map(|bytes| {
            let mut text = String::new();
            spell(bytes, &mut text);
            text
        })
    }

    /// The merges behind the ranks, which tiktoken does without: it merges the pair that makes the
    /// token of lowest rank. So a token's rank orders all the pairs that make it; among themselves
    /// these have the order of their parts' ranks, as in Hugging Face's conversion of the same
    /// file, whose merges every published GGUF has.
    pub(super) fn merges(&self) -> Result<Strings> {
        let ranks: HashMap<&[u8], u32> =
            (0..).zip(&self.tokens).map(|(r, t)| (&t[..], r)).collect();
        let mut merges = Strings::default();
        let mut merge = String::new();
        let mut bytes = 0;
        for token in &self.tokens {
            for (left, right) in splits(token, &ranks) {
                merge.clear();
                spell(left, &mut merge);
                merge.push(' ');
                spell(right, &mut merge);
                bytes += merge.len();
                if bytes > MAX_MERGES {
                    return Err(TokenizerError::TooManyMerges { limit: MAX_MERGES });
                }
                merges.push(&merge);
            }
        }
        Ok(merges)
    }
}

/// The pairs of tokens that make `token`, by the ranks of the first and of the second.
fn splits<'a>(token: &'a [u8], ranks: &HashMap<&[u8], u32>) -> Vec<(&'a [u8], &'a [u8])> {
    let pairs = (1..token.len()).map(|at| token.split_at(at));
    let mut ranked: Vec<_> =
        pairs.filter_map(|pair| Some(((*ranks.get(pair.0)?, *ranks.get(pair.1)?), pair))).collect();
    ranked.sort_unstable_by_key(|&(ranks, _)| ranks);
    ranked.into_iter().map(|(_, pair)| pair).collect()
}

/// The bytes of line `index`, whose rank must be that.
fn parse_line(line: &[u8], index: usize) -> Result<Vec<u8>> {
    let number = index + 1;
    let malformed = || TokenizerError::TiktokenLine { line: number };
    let space = line.iter().position(|&byte| byte == b' ').ok_or_else(malformed)?;
    let (base64, rank) = (&line[..space], &line[space + 1..]);
    let bytes = decode_base64(base64).filter(|bytes| !bytes.is_empty()).ok_or_else(malformed)?;
    let found = parse_rank(rank).ok_or_else(malformed)?;
    if found != index as u64 {
        return Err(TokenizerError::Rank { line: number, expected: index, found });
    }
    Ok(bytes)
}

/// Digits and nothing else, not even a sign.
fn parse_rank(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// RFC 4648 with padding; `None` where a bit is not as an encoder would have it.
pub(super) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let (groups, rest) = text.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(3 * groups.len());
    for (index, group) in groups.iter().enumerate() {
        let padding = match group {
            [_, _, b'=', b'='] => 2,
            [_, _, _, b'='] => 1,
            _ => 0,
        };
        if padding > 0 && index + 1 < groups.len() {
            return None;
        }
        let digits = &group[..4 - padding];
        let value = digits.iter().try_fold(0u32, |value, &d| Some(value << 6 | sextet(d)?))?;
        let [_, decoded @ ..] = (value << (6 * padding)).to_be_bytes();
        let (kept, dropped) = decoded.split_at(3 - padding);
        if dropped.iter().any(|&byte| byte != 0) {
            return None;
        }
        bytes.extend(kept);
    }
    Some(bytes)
}

fn sextet(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

/// Whether the bytes start with a line of such a file. A SentencePiece model has the same name.
pub(super) fn looks_like_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let base64 = |byte: &u8| *byte == b'=' || sextet(*byte).is_some();
    match (words.next(), words.next(), words.next()) {
        (Some(token), Some(rank), None) => {
            !token.is_empty()
                && token.iter().all(base64)
                && parse_rank(rank.trim_ascii_end()).is_some()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::byte_alphabet::letter;

    fn encode_base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let mut padded = [0; 4];
            padded[1..=chunk.len()].copy_from_slice(chunk);
            let value = u32::from_be_bytes(padded);
            let digits = [18, 12, 6, 0].map(|shift| DIGITS[(value >> shift & 63) as usize]);
            text.extend(digits.iter().take(chunk.len() + 1).map(|&digit| char::from(digit)));
            text.extend(std::iter::repeat_n('=', 3 - chunk.len()));
        }
        text
    }

    #[test]
    fn the_published_merges_of_llama_3_are_recovered() {
        let Some(path) = llq_fixtures::shared("vocab/ggml-vocab-llama-bpe.gguf") else { return };
        let golden = llq_gguf::Model::open(&path).unwrap();
        let texts = golden.metadata().strings("tokenizer.ggml.tokens").unwrap();
        let bytes: HashMap<char, u8> = (0..=255).map(|byte| (letter(byte), byte)).collect();
        let mut file = String::new();
        for (rank, text) in texts.iter().take(128_000).enumerate() {
            let token: Vec<u8> = text.chars().map(|letter| bytes[&letter]).collect();
            file += &format!("{} {rank}\n", encode_base64(&token));
        }
        // The size of the file that Meta publishes.
        assert_eq!(file.len(), 2_183_982);

        let tiktoken = Tiktoken::parse(file.as_bytes()).unwrap();
        assert!(tiktoken.texts().zip(texts.iter()).all(|(found, expected)| found == expected));
        let merges = tiktoken.merges().unwrap();
        assert_eq!(merges.len(), 280_147);
        assert!(&merges == golden.metadata().strings("tokenizer.ggml.merges").unwrap());
    }

    #[test]
    fn base64_is_read_strictly() {
        let decode = |text: &str| decode_base64(text.as_bytes());
        assert_eq!(decode("SGVsbG8=").as_deref(), Some(&b"Hello"[..]));
        assert_eq!(decode("/+8A").as_deref(), Some(&[0xff, 0xef, 0][..]));
        assert_eq!(decode("IQ==").as_deref(), Some(&b"!"[..]));
        for damaged in ["IQ=", "IQ", "I===", "IR==", "IQ==IQ==", "I Q=", "SGVsbG9=", "=AAA"] {
            assert_eq!(decode(damaged), None, "{damaged}");
        }
    }
}
