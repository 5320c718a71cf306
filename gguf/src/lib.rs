//! GGUF, the model file format of ggml: read strictly and without copying, written
//! deterministically and atomically.
//!
//! [`Model`] opens a file, or all files of a split model, or the model inside a llamafile, in a
//! memory map; tensor data is never copied. Versions 1 to 3 and both byte orders are read. What a
//! file claims is checked before it is believed: no input makes the reader panic or allocate more
//! than a small multiple of its size.
//!
//! [`Layout`] plans a file, version 3, before its first byte is written. [`StreamWriter`] then
//! writes it front to back, [`FileWriter`] at positions from several threads. [`ModelLayout`] and
//! [`ModelWriter`] do the same for a model that may be split into several files.
//!
//! ```
//! use llq_gguf::{Metadata, Model, TensorSpec, TensorType, to_bytes};
//!
//! let mut metadata = Metadata::new();
//! metadata.set("general.architecture", "llama");
//! metadata.set("llama.block_count", 1u32);
//! let norm = TensorSpec::new("output_norm.weight", [2], TensorType::F32);
//! let file = to_bytes(&metadata, [(norm, [0, 0, 128, 63, 0, 0, 0, 64])])?;
//!
//! let model = Model::from_bytes(file)?;
//! assert_eq!(model.metadata().count("llama.block_count")?, 1);
//! let norm = model.tensor("output_norm.weight").unwrap();
//! assert_eq!((norm.rows(), norm.cols()), (1, 2));
//! assert_eq!(model.data(norm)[4..], 2f32.to_le_bytes());
//! # Ok::<(), llq_gguf::Error>(())
//! ```

#![deny(missing_docs)]

mod container;
mod coverage;
mod disk;
mod edit;
mod error;
mod file_writer;
mod forward_file;
mod header;
mod journal;
mod layout;
mod limits;
mod map;
mod metadata;
mod model;
mod model_layout;
mod model_writer;
mod number;
mod page_cache;
mod partial;
mod resume;
mod split;
mod stream_writer;
mod tensor_type;
mod value;
pub mod zip;

pub use disk::free_bytes;
pub use edit::{Rewritten, rewrite_metadata};
pub use error::Error;
pub use file_writer::{FileWriter, Overwrite, SealedFile, write_whole};
pub use forward_file::ForwardFile;
pub use header::{Endian, Header, TensorInfo};
pub use journal::{Earlier, Fingerprint};
pub use layout::{Layout, TensorSpec};
pub use metadata::Metadata;
pub use model::Model;
pub use model_layout::{ModelLayout, Split};
pub use model_writer::{ModelWriter, SealedModel};
pub use partial::create_partial;
pub use resume::unfinished;
pub use stream_writer::{StreamWriter, to_bytes};
pub use tensor_type::{TensorType, UnknownTensorType};
pub use value::{Array, Strings, Value};
