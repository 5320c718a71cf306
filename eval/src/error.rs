//! What can be wrong with a model or a text that is to be evaluated.

use std::{io, path::PathBuf};

use llq_gguf::TensorType;

/// Why a model could not be loaded or a text not be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file itself is wrong, or a key is absent or of another type.
    #[error(transparent)]
    Gguf(#[from] llq_gguf::Error),
    /// A key has a value that can't be used.
    #[error("{key}: expected {expected}, found {found}")]
    Key {
        /// The metadata key.
        key: String,
        /// What the value has to be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The model is of a family that llq does not evaluate.
    #[error("general.architecture: expected one of llama, found {found}")]
    Architecture {
        /// The architecture the file names.
        found: String,
    },
    /// The file is only a vocabulary.
    #[error("the file holds no tensors, only metadata")]
    NoTensors,
    /// The vocabulary is of a kind that llq does not tokenize with.
    #[error(
        "tokenizer.ggml.model: expected llama (SentencePiece) or gpt2 (byte-level BPE), found {found}"
    )]
    TokenizerModel {
        /// The tokenizer the file names.
        found: String,
    },
    /// The vocabulary splits text in a way that llq does not know.
    #[error("tokenizer.ggml.pre: expected one of {}, found {found}", known.join(", "))]
    PreTokenizer {
        /// The pre-tokenizer the file names.
        found: String,
        /// Those that llq has.
        known: Vec<&'static str>,
    },
    /// A token of the vocabulary is malformed, repeated or absent.
    #[error("tokenizer.ggml.tokens: {problem}")]
    Vocabulary {
        /// Which token, and what is wrong.
        problem: String,
    },
    /// The file has the other byte order.
    #[error("llq evaluates little-endian models only; `llq quantize` writes them")]
    BigEndian,
    /// A tensor that the architecture needs is absent.
    #[error("tensor {tensor} is missing")]
    MissingTensor {
        /// The name.
        tensor: String,
    },
    /// A tensor has other extents than the hyperparameters demand.
    #[error("tensor {tensor}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The name.
        tensor: String,
        /// Extents that the hyperparameters demand, the fastest first.
        expected: Vec<u64>,
        /// Extents in the file.
        found: Vec<u64>,
    },
    /// A tensor is stored in a type that llq can't multiply by.
    #[error("tensor {tensor}: llq can't evaluate type {found}")]
    Type {
        /// The name.
        tensor: String,
        /// How it is stored.
        found: TensorType,
    },
    /// A tensor changes the model in a way llq does not compute.
    #[error("tensor {tensor} belongs to a model variant that llq can't evaluate")]
    UnsupportedTensor {
        /// The name.
        tensor: String,
    },
    /// The weights of a tensor can't be used.
    #[error("tensor {tensor}: {problem}")]
    Weights {
        /// The name.
        tensor: String,
        /// What is wrong with its bytes.
        problem: String,
    },
    /// A window length that can't be evaluated.
    #[error("a window needs at least {least} tokens, found {found}")]
    Context {
        /// The shortest window that has a scored token.
        least: usize,
        /// The length asked for.
        found: usize,
    },
    /// A temperature that nothing can be sampled at.
    #[error("temperature: expected a positive number, found {found}")]
    Temperature {
        /// The temperature asked for.
        found: f64,
    },
    /// Keys and values of one sequence are more than they may take.
    #[error(
        "keys and values of {context} tokens take {} bytes, expected at most {most}",
        needed.map_or("more than 2^64".to_owned(), |bytes| bytes.to_string())
    )]
    SequenceMemory {
        /// Tokens of a sequence.
        context: usize,
        /// Bytes that they take; `None` where 64 bits do not hold the number.
        needed: Option<u64>,
        /// Bytes that they may take.
        most: u64,
    },
    /// No window was asked for.
    #[error("at least one window has to be evaluated")]
    NoWindows,
    /// The text does not fill one window.
    #[error("the text has {found} tokens, one window needs {expected}")]
    CorpusTooShort {
        /// Tokens in a window.
        expected: usize,
        /// Tokens in the text.
        found: usize,
    },
    /// The text was tokenized with a vocabulary that the model does not have.
    #[error("token {token} is not in the model's vocabulary of {vocabulary_size}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens that the model knows.
        vocabulary_size: usize,
    },
    /// Two models that predict different sets of tokens can't be compared.
    #[error("the base model has a vocabulary of {base} tokens, the evaluated one of {subject}")]
    VocabularyMismatch {
        /// Tokens of the base model.
        base: usize,
        /// Tokens of the evaluated model.
        subject: usize,
    },
    /// A recording of the base model was made with other options or of another text.
    #[error("the base model was recorded with another {what}")]
    Recording {
        /// What differs.
        what: &'static str,
    },
    /// What a calibration has finished can't be kept.
    #[error("{name} cannot be stored: {source}")]
    Finished {
        /// The tensor, or what else it is.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file of logits is damaged, or was made of another text or vocabulary.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    LogitsFile {
        /// The file.
        path: PathBuf,
        /// What of the file.
        what: String,
        /// What it has to be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Logits cannot be written.
    #[error("cannot write logits: {0}")]
    Save(#[source] io::Error),
    /// A model predicts NaN or infinity.
    #[error("window {window}: the model's prediction is not a finite number")]
    NotFinite {
        /// Index of the window.
        window: usize,
    },
    /// A model predicts NaN or infinity beside text of its own.
    #[error("sequence {sequence}, token {token}: the model's prediction is not a finite number")]
    SampleNotFinite {
        /// Number of the sequence, the first being 0.
        sequence: usize,
        /// Number of the token in it, the first being 0.
        token: usize,
    },
    /// A matrix is multiplied by NaN or infinity.
    #[error("tensor {tensor}: column {column} of what it is multiplied by is not a finite number")]
    InputNotFinite {
        /// The matrix.
        tensor: String,
        /// The first such column.
        column: usize,
    },
}

/// What this crate's functions return.
pub(crate) type Result<T> = std::result::Result<T, Error>;
