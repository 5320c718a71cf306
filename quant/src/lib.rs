//! What the bytes of a quantized tensor mean, how to make them with the least error, and how to
//! multiply by them.
//!
//! - [`FORMATS`] lists every format; one file each under `formats/`.
//! - [`mix`] says which tensor of a model gets which format.
//! - [`kernels`] holds the instruction-set specific code; its scalar rows are the
//!   oracle of all others.
//!
//! ```
//! use llq_gguf::TensorType;
//! use llq_quant::{Encoding, format};
//!
//! let q4_k = format(TensorType::Q4_K).expect("a format llq decodes and encodes");
//! let row: Vec<f32> = (0..256).map(|i| (i as f32 / 9.0).sin()).collect();
//! let mut bytes = vec![0; 144]; // one block of 4.5 bits per weight
//! q4_k.encode_row(&row, Encoding::default(), &mut bytes)?;
//!
//! let mut decoded = vec![0.0; 256];
//! q4_k.dequantize(&bytes, &mut decoded)?;
//! assert!(row.iter().zip(&decoded).all(|(x, y)| (x - y).abs() < 0.1));
//! # Ok::<(), llq_quant::RowError>(())
//! ```

#![deny(missing_docs)]

mod activations;
mod allocation;
mod attention;
mod decoding;
mod effort;
mod format;
mod formats;
mod formats_markdown;
mod gemv;
pub mod kernels;
mod matmul;
pub mod mix;
mod packing;
mod product;
mod registry;
mod rope;
mod rounding;
mod search;

pub use activations::{Activations, ActivationsPart, Mode};
pub use allocation::{AllocationError, Candidate, allocate};
pub use attention::{AttentionScratch, Rows, causal_attention};
pub use effort::{Effort, Encoding};
pub use format::Decoded;
pub use formats_markdown::formats_markdown;
pub use gemv::{Vector, gemv, gemv_with};
pub use matmul::{Matrix, MatrixError, Scratch, matmul, matmul_with};
pub use registry::{BlockInfo, FORMATS, FormatInfo, RowError, format};
pub use rope::Rotation;
pub use rounding::{
    Curvature, INDEPENDENT_ROWS, Rounding, batch_rows, round_matrix, round_matrix_with,
};
