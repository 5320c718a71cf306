//! What can be wrong with a checkpoint or with a wish for it.

use std::path::{Path, PathBuf};

use llq_gguf::TensorType;
use llq_quant::RowError;

use crate::{
    Overflow, UnmetDemand,
    imatrix::ImatrixError,
    lora::LoraError,
    tokenizer::TokenizerError,
    transform::TransformError,
    weights::{ggml::GgmlError, safetensors::SafetensorsError, torch::TorchError},
};

/// Why a checkpoint could not be read or converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A GGUF file could not be read or written.
    #[error(transparent)]
    Gguf(#[from] llq_gguf::Error),
    /// The path holds no checkpoint of a known form.
    #[error("{path} is no checkpoint: {found}; {SUPPORTED_FORMS}", path = path.display())]
    NotACheckpoint {
        /// The file or folder.
        path: PathBuf,
        /// What was there instead.
        found: String,
    },
    /// A checkpoint lacks a file.
    #[error("{folder}: no {looked_for}", folder = folder.display())]
    MissingFile {
        /// The checkpoint.
        folder: PathBuf,
        /// The names that would have done.
        looked_for: String,
    },
    /// Git LFS did not fetch a file.
    #[error("{path}: a Git LFS pointer, not the file itself: run `git lfs pull`", path = path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A file is not JSON.
    #[error("{path}: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        source: serde_json::Error,
    },
    /// A JSON key is absent or has a value that is not allowed.
    #[error("{path}: key {key:?} is {found}, expected {expected}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What would be allowed.
        expected: String,
        /// The value, or "absent".
        found: String,
    },
    /// The checkpoint uses something that llq does not do.
    #[error("{path}: {key} {found:?} is not supported; supported: {supported}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key that says so.
        key: String,
        /// Its value.
        found: String,
        /// The values that are supported.
        supported: String,
    },
    /// A safetensors file is damaged.
    #[error("{path}: {problem}", path = path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: SafetensorsError,
    },
    /// A PyTorch file is damaged, or asks for what only Python may do.
    #[error("{path}: {problem}", path = path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: TorchError,
    },
    /// A legacy GGML file is damaged.
    #[error("{path}: {problem}", path = path.display())]
    Ggml {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: GgmlError,
    },
    /// A tokenizer is damaged or of an unknown kind.
    #[error("{path}: {problem}", path = path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: TokenizerError,
    },
    /// A LoRA adapter is damaged or does not fit its base.
    #[error("{path}: {problem}", path = path.display())]
    Lora {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Box<LoraError>,
    },
    /// An importance matrix is damaged or does not fit the model.
    #[error("{path}: {problem}", path = path.display())]
    Imatrix {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ImatrixError,
    },
    /// A model can't be transformed, or not by this importance.
    #[error("{path}: {problem}", path = path.display())]
    Transform {
        /// The model.
        path: PathBuf,
        /// What stands against it.
        problem: Box<TransformError>,
    },
    /// An adapter does not say enough of the model it belongs to.
    #[error(
        "{folder}: an adapter says too little of its model; give the model's folder, of which only \
         config.json is read",
        folder = folder.display()
    )]
    NoBase {
        /// The adapter.
        folder: PathBuf,
    },
    /// What was given beside the input is for inputs of another kind.
    #[error("{path} is {found}; only {wanted} takes {option}", path = path.display())]
    Inapplicable {
        /// The input.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// The inputs that `option` is for.
        wanted: &'static str,
        /// What was given.
        option: &'static str,
    },
    /// An adapter is written in a plain type.
    #[error("{path} is an adapter: it can be F32, F16 or BF16, and not {mix}", path = path.display())]
    QuantizedAdapter {
        /// The adapter.
        path: PathBuf,
        /// What was asked for.
        mix: &'static str,
    },
    /// The files of a checkpoint that comes in several contradict each other.
    #[error("{path}: {problem}", path = path.display())]
    Shards {
        /// The file or folder.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// A file has not the MD5 sum that its list says.
    #[error(
        "{path}: its MD5 sum is {found}, expected {expected} from {list}: the file is damaged, \
         or another one under its name", path = path.display(), list = list.display()
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The list.
        list: PathBuf,
        /// The sum in the list.
        expected: String,
        /// The file's sum.
        found: String,
    },
    /// A line of a list of MD5 sums is none.
    #[error(
        "{path}: line {line} is not an MD5 sum and the name of a file beside it", path = path.display()
    )]
    Checklist {
        /// The list.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
    },
    /// A tensor that the architecture needs is not there.
    #[error("{path}: tensor {tensor:?} is missing{}", nearest_hint(nearest), path = path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The tensor without a use whose name is nearest.
        nearest: Option<String>,
    },
    /// A tensor is there that the architecture does not have.
    #[error(
        "{path}: tensor {tensor:?} has no place in the architecture{}",
        nearest_hint(nearest), path = path.display()
    )]
    UnexpectedTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The nearest name that the architecture has.
        nearest: Option<String>,
    },
    /// A tensor's shape contradicts the hyperparameters.
    #[error("{path}: tensor {tensor:?} is {found:?}, expected {expected:?}", path = path.display())]
    Shape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that the hyperparameters ask for, rows first.
        expected: Vec<u64>,
        /// Its shape.
        found: Vec<u64>,
    },
    /// A tensor is stored in a number type that holds no weights.
    #[error(
        "{path}: tensor {tensor:?} is stored as {dtype}; supported: F32, F16, BF16",
        path = path.display()
    )]
    Dtype {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type.
        dtype: String,
    },
    /// The weights were quantized before they were published.
    #[error(
        "{path}: the weights are quantized already, by {method}: {evidence}; convert the checkpoint \
         they were made from (their model card names it as base_model), or save them as BF16 with \
         the tool that made them", path = path.display()
    )]
    QuantizedCheckpoint {
        /// The file or folder.
        path: PathBuf,
        /// The method or the tool.
        method: String,
        /// What told so.
        evidence: String,
    },
    /// The source is only a vocabulary.
    #[error("{path}: no tensors, only metadata: there is nothing to quantize", path = path.display())]
    NoTensors {
        /// The source.
        path: PathBuf,
    },
    /// A recipe is not one.
    #[error("{path}, line {line}: {problem}", path = path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A rule names a tensor that the model does not have.
    #[error("{origin}: the model has no tensor {tensor:?}")]
    RuleWithoutTensor {
        /// Where the rule was given.
        origin: String,
        /// The name.
        tensor: String,
    },
    /// A tensor cannot have the type that a rule gives it.
    #[error("{origin}: tensor {tensor:?} cannot become {tensor_type}: {problem}")]
    Rule {
        /// Where the rule was given.
        origin: String,
        /// The tensor.
        tensor: String,
        /// The rule's type.
        tensor_type: TensorType,
        /// Why not.
        problem: String,
    },
    /// A pattern takes too long to be looked for.
    #[error("{origin}: looking for it in {tensor:?} fails: {problem}")]
    RulePattern {
        /// Where the rule was given.
        origin: String,
        /// The tensor's name.
        tensor: String,
        /// What the engine says.
        problem: String,
    },
    /// The source is quantized and quantizing it again was not allowed.
    #[error(
        "tensor {tensor:?} is {from} already and would become {to}: \
         quantize from the original model, or allow quantizing again"
    )]
    AlreadyQuantized {
        /// The first such tensor.
        tensor: String,
        /// Its type.
        from: TensorType,
        /// The type it would get.
        to: TensorType,
    },
    /// llq does not read or write tensors of this type.
    #[error("tensor {tensor:?} is {tensor_type}, which llq can only copy")]
    NoFormat {
        /// The tensor.
        tensor: String,
        /// The type.
        tensor_type: TensorType,
    },
    /// A weight is NaN or infinite and its block can not be quantized.
    #[error("tensor {tensor:?}, row {row}, column {column}: weight is {value}")]
    NonFinite {
        /// The tensor, by its GGUF name.
        tensor: String,
        /// The row.
        row: u64,
        /// The column.
        column: u64,
        /// NaN or an infinity.
        value: f32,
    },
    /// Weights are too large for the output's types.
    #[error("weights are too large: {}", listed(tensors))]
    Overflow {
        /// All tensors that hold such weights, in output order.
        tensors: Vec<Overflow>,
    },
    /// A loader would refuse the output.
    #[error("{path}: loaders would refuse the model: {demand}", path = path.display())]
    Demand {
        /// The source where planning has found it, the output where writing has.
        path: PathBuf,
        /// What is not met.
        demand: UnmetDemand,
    },
    /// Bytes of a tensor are not what its type allows.
    #[error("tensor {tensor:?}, rows from {row}: {source}")]
    Row {
        /// The tensor, by its GGUF name.
        tensor: String,
        /// The first row that was looked at.
        row: u64,
        /// What is wrong.
        source: RowError,
    },
    /// A row is longer than any model has.
    #[error("tensor {tensor:?}: rows of {columns} weights are longer than the {limit} supported")]
    RowTooLong {
        /// The tensor, by its GGUF name.
        tensor: String,
        /// Weights in a row.
        columns: u64,
        /// The most that is supported.
        limit: u64,
    },
    /// The output would replace the input.
    #[error("{path} is the source of this conversion and can not be its target", path = path.display())]
    TargetIsSource {
        /// The file.
        path: PathBuf,
    },
}

const SUPPORTED_FORMS: &str = "supported: a folder with config.json and *.safetensors or \
     pytorch_model*.bin, a folder with params.json and consolidated.NN.pth or \
     consolidated*.safetensors, a LoRA adapter's folder with adapter_config.json, a GGUF file, \
     a llamafile, a legacy GGML file";

pub(crate) fn nearest_hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; the nearest is {name:?}")).unwrap_or_default()
}

fn listed(tensors: &[Overflow]) -> String {
    const SHOWN: usize = 8;
    let mut list: Vec<String> = tensors.iter().take(SHOWN).map(Overflow::to_string).collect();
    let more = tensors.len().saturating_sub(SHOWN);
    list.extend((more > 0).then(|| format!("and {more} more tensors")));
    list.join("; ")
}

impl Error {
    /// Names the file in an error of the operating system.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        |source| Error::Io { path, source }
    }
}

/// What this crate's functions return.
pub(crate) type Result<T> = std::result::Result<T, Error>;
