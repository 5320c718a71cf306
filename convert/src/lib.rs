//! Published LLaMA checkpoints to GGUF: readers, tokenizer import, architecture maps and the
//! streaming pipeline.
//!
//! [`open`] makes a [`Source`] of a checkpoint or a GGUF file, [`Plan::new`] decides every
//! tensor's type and place, and [`write()`] streams the file. Quantizing a GGUF file is the same
//! pipeline with another source.
//!
//! ```
//! use llq_convert::{Output, Overwrite, Plan, Request, Silent, open, write};
//! use llq_quant::mix::{Mix, Recipe};
//!
//! # let checkpoint = llq_fixtures::fixture("tiny-llama-2/hf");
//! # let folder = tempfile::tempdir()?;
//! # let target = folder.path().join("model.gguf");
//! let source = open(&checkpoint)?; // such as Llama-2-7b-hf
//! let output = Output::Recipe(Recipe::new(Mix::Q4_K_M));
//! let plan = Plan::new(&*source, &Request { output, ..Request::default() })?;
//! write(&*source, &plan, &target, Overwrite::Forbid, &Silent)?;
//! # assert_eq!(open(&target)?.tensors().len(), source.tensors().len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod arch;
mod checklist;
mod compare;
mod demands;
mod digest;
mod edit;
mod error;
mod fingerprint;
mod imatrix;
mod json;
mod lora;
mod naming;
mod overrides;
mod plan;
mod readers;
mod recipe;
mod source;
mod spread;
mod tokenizer;
mod transform;
mod type_rules;
mod verify;
mod weights;
mod write;

pub use checklist::{has_checksums, verify_checksums};
pub use compare::{Differences, Distance, Reshaped, TensorDifference, compare};
pub use demands::UnmetDemand;
pub use digest::{Digest, digests, hexadecimal, whole as whole_digest};
pub use edit::Edit;
pub use error::Error;
pub use imatrix::{Entry, EntryStatistics, Imatrix, ImatrixError, ImatrixFormat};
pub use llq_gguf::{Earlier, Endian, Overwrite, Rewritten, Split};
pub use lora::{LoraAdapter, LoraError};
pub use naming::file_name;
pub use overrides::Overrides;
pub use plan::{OnOverflow, Output, Plan, Requantize, Request, TensorPlan};
pub use readers::{OpenOptions, ReadyTensor, open, open_with, with_ready};
pub use recipe::{TypeRecipe, TypeTable};
pub use source::{Note, Source, SourceKind};
pub use spread::{BINS, Spread, spread};
pub use tokenizer::{PreName, TokenizerError, UnknownPreName};
pub use transform::{Transform, TransformError, transformed};
pub use type_rules::{Tensors, TypeRule, TypeRuleError, TypeRules, parse_tensor_type};
pub use verify::{Findings, TensorDefect, verify};
pub use weights::{
    ggml::{GgmlError, Withdrawn},
    safetensors::SafetensorsError,
    torch::{PickleError, TorchError, ZipError},
};
pub use write::{NonFinite, Overflow, Progress, Report, Silent, write, write_resumably};
