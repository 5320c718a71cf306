//! What can be wrong with a tokenizer.

/// What can be wrong with a tokenizer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is no Protocol Buffers message.
    #[error("no SentencePiece model: it has {0}")]
    Protobuf(&'static str),
    /// The model has no pieces.
    #[error("no SentencePiece model: it has no pieces")]
    Empty,
    /// A piece is not text.
    #[error("piece {id} is not UTF-8")]
    NotUtf8 {
        /// Its index.
        id: usize,
    },
    /// A piece has a score that orders nothing.
    #[error("piece {id} has score {score}")]
    Score {
        /// Its index.
        id: usize,
        /// The score.
        score: f32,
    },
    /// A piece has a type that SentencePiece does not know.
    #[error("piece {id} has type {found}, expected 1 to 6")]
    PieceType {
        /// Its index.
        id: usize,
        /// The type.
        found: u64,
    },
    /// The model is no BPE.
    #[error("model type {found} of SentencePiece is not supported; supported: 2 (BPE)")]
    ModelType {
        /// The type.
        found: u64,
    },
    /// The tokenizer is LLaMA 3's, which a Hugging Face folder has in another form.
    #[error(
        "a tiktoken vocabulary; beside config.json it is read from tokenizer.json, which is absent"
    )]
    Tiktoken,
    /// A line is none of a tiktoken vocabulary.
    #[error("line {line} is not a token in Base64, a space and a rank")]
    TiktokenLine {
        /// Its number, from 1.
        line: usize,
    },
    /// Ranks do not count up from 0.
    #[error("line {line} has rank {found}, expected {expected}: ranks count up from 0")]
    Rank {
        /// The line's number, from 1.
        line: usize,
        /// What the numbers of lines before ask for.
        expected: usize,
        /// Its rank.
        found: u64,
    },
    /// An entry of `tekken.json` is not as Mistral's code asks for.
    #[error("entry {entry} of the vocabulary: {problem}")]
    Tekken {
        /// Its index.
        entry: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two ranks have the same bytes.
    #[error("ranks {first} and {second} are the same bytes")]
    RepeatedBytes {
        /// The lower rank.
        first: u32,
        /// The higher rank.
        second: u32,
    },
    /// A text with this byte could not be encoded.
    #[error("no token is the single byte {byte:#04x}")]
    MissingByte {
        /// The first such byte.
        byte: u8,
    },
    /// A token is longer than any vocabulary has.
    #[error("rank {rank} has {bytes} bytes, more than the {limit} that are supported")]
    LongToken {
        /// Its rank.
        rank: usize,
        /// Its length in bytes.
        bytes: usize,
        /// The most that is supported.
        limit: usize,
    },
    /// The merges that follow from the tokens are more than any vocabulary has.
    #[error("the tokens have merges of more than {limit} bytes")]
    TooManyMerges {
        /// The most that is supported.
        limit: usize,
    },
    /// `tokenizer.json` has a model of a kind that GGUF's byte-level BPE can not express.
    #[error("model.{key} is {found}, expected {expected}")]
    BpeModel {
        /// The key of `model`.
        key: &'static str,
        /// Its value.
        found: String,
        /// What would be supported.
        expected: &'static str,
    },
    /// The pre-tokenizer is none that a GGUF file has a name for.
    #[error(
        "the pre-tokenizer is unknown: {}; where another name means the same, say --pre NAME{}",
        steps.join(", then "), known_names(known)
    )]
    PreTokenizer {
        /// What it does, step by step, with its regexes.
        steps: Vec<String>,
        /// Names that are recognised.
        known: Vec<&'static str>,
    },
    /// A vocabulary with byte fallback is cut or changed before its merges in a way that GGUF's
    /// SentencePiece can not express.
    #[error(
        "a vocabulary with byte_fallback, which GGUF has as SentencePiece's, and before it {step}: \
         SentencePiece only makes \u{2581} of spaces; where there is a tokenizer.model, put it here"
    )]
    ByteFallback {
        /// The first such step.
        step: String,
    },
    /// A token has an id that is none.
    #[error("token {text:?} has id {id}, expected one below 2147483648")]
    TokenId {
        /// Its text.
        text: String,
        /// Its id.
        id: u64,
    },
    /// Two tokens have one id.
    #[error("tokens {first:?} and {second:?} both have id {id}")]
    RepeatedId {
        /// The id.
        id: u64,
        /// One text.
        first: String,
        /// The other text.
        second: String,
    },
    /// A merge is not two parts that are tokens and make one.
    #[error("merge {index} is {merge:?}: {problem}")]
    Merge {
        /// Its index.
        index: usize,
        /// Its parts.
        merge: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An added token has an id that is none.
    #[error("added token {text:?} has id {id:?}, expected a whole number")]
    AddedId {
        /// Its text.
        text: String,
        /// Its id.
        id: String,
    },
    /// Two tokens have one text: no loader of GGUF takes such a vocabulary.
    #[error("tokens {first} and {second} are both {text:?}")]
    Repeated {
        /// Their text.
        text: String,
        /// The lower id.
        first: usize,
        /// The higher id.
        second: usize,
    },
}

fn known_names(known: &[&str]) -> String {
    format!(" ({} are recognised)", known.join(", "))
}
