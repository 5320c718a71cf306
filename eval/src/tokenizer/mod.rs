//! Text to tokens, from the vocabulary in a GGUF file's metadata.

mod bpe;
mod byte_alphabet;
mod merges;
mod pre_tokenizer;
mod split;
mod spm;
mod user_defined;
mod vocabulary;

use llq_gguf::Metadata;

use self::{
    bpe::Bpe,
    pre_tokenizer::{Origin, PreTokenizer},
    spm::Spm,
    user_defined::{Fragment, UserDefined},
    vocabulary::{Defaults, TextStart, TokenType, Vocabulary},
};
use crate::{Error, error::Result};

/// As SentencePiece's own LLaMA vocabulary has it.
const SPM_DEFAULTS: Defaults = Defaults { text_start: TextStart::Bos, bos: Some(1), eos: Some(2) };

/// A vocabulary, and how it splits text.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    user_defined: UserDefined,
    algorithm: Algorithm,
    pre_tokenizer: Origin,
}

/// How text between user-defined tokens is split.
#[derive(Clone, Debug)]
enum Algorithm {
    Spm(Spm),
    Bpe(Bpe),
}

impl Tokenizer {
    /// Reads and checks the `tokenizer.ggml.*` keys.
    ///
    /// # Errors
    ///
    /// A tokenizer model other than `llama` (SentencePiece) and `gpt2` (byte-level BPE); a
    /// pre-tokenizer that llq does not know; a key that is absent, of another type or out of range;
    /// repeated tokens; neither byte tokens nor an unknown token; a merge that is not two tokens
    /// whose union is a token.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer> {
        match metadata.string("tokenizer.ggml.model")? {
            "llama" => Tokenizer::spm(metadata),
            "gpt2" => Tokenizer::bpe(metadata),
            other => Err(Error::TokenizerModel { found: other.to_owned() }),
        }
    }

    fn spm(metadata: &Metadata) -> Result<Tokenizer> {
        let vocabulary = Vocabulary::from_metadata(metadata, SPM_DEFAULTS)?;
        let algorithm = Algorithm::Spm(Spm::from_metadata(metadata, &vocabulary)?);
        Ok(Tokenizer::new(vocabulary, algorithm, Origin::Named))
    }

    fn bpe(metadata: &Metadata) -> Result<Tokenizer> {
        let (pre_tokenizer, origin) = PreTokenizer::from_metadata(metadata)?;
        let defaults = Defaults { text_start: pre_tokenizer.text_start, bos: None, eos: None };
        let vocabulary = Vocabulary::from_metadata(metadata, defaults)?;
        let bpe = Bpe::from_metadata(metadata, &vocabulary, pre_tokenizer)?;
        Ok(Tokenizer::new(vocabulary, Algorithm::Bpe(bpe), origin))
    }

    fn new(vocabulary: Vocabulary, algorithm: Algorithm, pre_tokenizer: Origin) -> Tokenizer {
        let user_defined = UserDefined::of(&vocabulary);
        Tokenizer { vocabulary, user_defined, algorithm, pre_tokenizer }
    }

    /// What had to be assumed, and can make the tokens others than the model was trained with: a
    /// byte-level vocabulary without `tokenizer.ggml.pre` splits text as old files do.
    pub fn assumption(&self) -> Option<&'static str> {
        match self.pre_tokenizer {
            Origin::Named => None,
            Origin::Assumed => Some(
                "tokenizer.ggml.pre is missing: text is split as by the pre-tokenizer default, \
                 which may not be the model's own",
            ),
        }
    }

    /// Number of tokens in the vocabulary.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The token that a text starts with, where the vocabulary asks for one.
    pub fn text_start(&self) -> Option<u32> {
        self.vocabulary.text_start()
    }

    /// The token that a text ends with, where the vocabulary asks for one.
    pub fn text_end(&self) -> Option<u32> {
        self.vocabulary.text_end()
    }

    /// The token that training put before a text, as far as one can tell: the one that a text starts
    /// with, else BOS, else EOS, which then stood between texts. `None` where the vocabulary names none.
    pub fn sequence_start(&self) -> Option<u32> {
        self.vocabulary.sequence_start()
    }

    /// The tokens that training put behind a text: EOS, and the ends of a turn and of a message.
    pub fn sequence_ends(&self) -> &[u32] {
        self.vocabulary.sequence_ends()
    }

    /// The tokens of `text`, without BOS or EOS. Control tokens' names in the text are just text;
    /// user-defined tokens are found.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        for fragment in self.user_defined.partition(text) {
            match (fragment, &self.algorithm) {
                (Fragment::Token(token), _) => tokens.push(token),
                (Fragment::Text(text), Algorithm::Spm(spm)) => {
                    spm.encode(text, &self.vocabulary, &mut tokens);
                }
                (Fragment::Text(text), Algorithm::Bpe(bpe)) => {
                    bpe.encode(text, &self.vocabulary, &mut tokens);
                }
            }
        }
        tokens
    }

    /// A token as the vocabulary has it; `None` where it has no such token.
    pub fn token(&self, id: u32) -> Option<&str> {
        Some(self.vocabulary.token(id)?.0)
    }

    /// The text that tokens stand for, as bytes: tokens may end inside of a character. Control tokens
    /// stand for nothing, and so do ids that are no tokens. A space that [`encode`](Self::encode)
    /// puts in front is taken away.
    pub fn decode(&self, tokens: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        for (text, token_type) in tokens.iter().filter_map(|&id| self.vocabulary.token(id)) {
            match (token_type, &self.algorithm) {
                (TokenType::Control, _) => {}
                (TokenType::UserDefined, _) => out.extend_from_slice(text.as_bytes()),
                (_, Algorithm::Spm(spm)) => spm.decode(text, token_type, &mut out),
                (_, Algorithm::Bpe(bpe)) => bpe.decode(text, &mut out),
            }
        }
        if matches!(&self.algorithm, Algorithm::Spm(spm) if spm.adds_space())
            && out.first() == Some(&b' ')
        {
            out.remove(0);
        }
        out
    }
}
