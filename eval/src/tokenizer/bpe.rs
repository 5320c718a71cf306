//! Byte-level BPE: text is cut into words, a word into bytes, and the neighbours that the
//! vocabulary merges first are joined first.
//!
//! Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016;
//! over bytes as in GPT-2 (Radford et al., 2019).

use std::{cmp::Reverse, collections::BinaryHeap};

use llq_gguf::Metadata;

use super::{
    byte_alphabet::ByteAlphabet,
    merges::{Merge, Merges},
    pre_tokenizer::{KnownWords, PreTokenizer},
    split::split,
    vocabulary::Vocabulary,
};
use crate::error::Result;

/// What a byte-level BPE vocabulary has beside its tokens.
#[derive(Clone, Debug)]
pub(super) struct Bpe {
    pre_tokenizer: &'static PreTokenizer,
    alphabet: ByteAlphabet,
    /// The token of each byte. Some vocabularies lack bytes that their training text did not have;
    /// those are left out of the tokens, as by the field's standard tool.
    bytes: Box<[Option<u32>; 256]>,
    merges: Merges,
}

impl Bpe {
    pub(super) fn from_metadata(
        metadata: &Metadata,
        vocabulary: &Vocabulary,
        pre_tokenizer: &'static PreTokenizer,
    ) -> Result<Bpe> {
        let merges = Merges::from_metadata(metadata, vocabulary)?;
        let alphabet = ByteAlphabet::new();
        let mut bytes = Box::new([None; 256]);
        for (byte, token) in (0..=255).zip(bytes.iter_mut()) {
            *token = vocabulary.id(alphabet.letter(byte).encode_utf8(&mut [0; 4]));
        }
        Ok(Bpe { pre_tokenizer, alphabet, bytes, merges })
    }

    /// Appends the bytes that a token stands for to `out`.
    pub(super) fn decode(&self, token: &str, out: &mut Vec<u8>) {
        self.alphabet.read(token, out);
    }

    /// Appends the tokens of `text` to `out`.
    pub(super) fn encode(&self, text: &str, vocabulary: &Vocabulary, out: &mut Vec<u32>) {
        let mut spelled = String::new();
        let mut chain = Chain::default();
        split(text, self.pre_tokenizer.stages, &mut |word| {
            if self.pre_tokenizer.known_words == KnownWords::Whole {
                self.alphabet.spell(word.as_bytes(), &mut spelled);
                if let Some(token) = vocabulary.id(&spelled) {
                    return out.push(token);
                }
            }
            for bytes in word.as_bytes().split(|&byte| self.token(byte).is_none()) {
                chain.fill(bytes.iter().filter_map(|&byte| self.token(byte)));
                chain.merge(&self.merges);
                out.extend(chain.tokens());
            }
        });
    }

    fn token(&self, byte: u8) -> Option<u32> {
        self.bytes[usize::from(byte)]
    }
}

/// A word as a chain of tokens, and the merges that its neighbours allow. Reused from word to word.
#[derive(Default)]
struct Chain {
    links: Vec<Link>,
    /// By rank, then from the left. A proposal is void once one of its sides has changed.
    proposals: BinaryHeap<Reverse<Proposal>>,
}

#[derive(Clone, Copy)]
struct Link {
    /// `None` once the link is part of its left neighbour.
    token: Option<u32>,
    previous: Option<usize>,
    next: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Proposal {
    rank: u32,
    left: usize,
    pair: (u32, u32),
    union: u32,
}

impl Chain {
    fn fill(&mut self, tokens: impl Iterator<Item = u32>) {
        self.links.clear();
        self.links.extend(tokens.enumerate().map(|(index, token)| Link {
            token: Some(token),
            previous: index.checked_sub(1),
            next: Some(index + 1),
        }));
        if let Some(last) = self.links.last_mut() {
            last.next = None;
        }
    }

    /// Joins until no two neighbours are a merge.
    fn merge(&mut self, merges: &Merges) {
        self.proposals.clear();
        for left in 0..self.links.len() {
            self.propose(left, merges);
        }
        while let Some(Reverse(proposal)) = self.proposals.pop() {
            if self.pair(proposal.left) != Some(proposal.pair) {
                continue;
            }
            self.join(proposal.left, proposal.union);
            if let Some(previous) = self.links[proposal.left].previous {
                self.propose(previous, merges);
            }
            self.propose(proposal.left, merges);
        }
    }

    fn propose(&mut self, left: usize, merges: &Merges) {
        let Some(pair) = self.pair(left) else { return };
        if let Some(Merge { rank, token }) = merges.of(pair.0, pair.1) {
            self.proposals.push(Reverse(Proposal { rank, left, pair, union: token }));
        }
    }

    /// The tokens of `left` and of its right neighbour.
    fn pair(&self, left: usize) -> Option<(u32, u32)> {
        let link = self.links[left];
        Some((link.token?, self.links[link.next?].token?))
    }

    /// Makes the right neighbour of `left` a part of it.
    fn join(&mut self, left: usize, union: u32) {
        let Some(right) = self.links[left].next else { return };
        let next = self.links[right].next;
        self.links[right].token = None;
        self.links[left].token = Some(union);
        self.links[left].next = next;
        if let Some(next) = next {
            self.links[next].previous = Some(left);
        }
    }

    fn tokens(&self) -> impl Iterator<Item = u32> {
        self.links.iter().filter_map(|link| link.token)
    }
}
