//! Weights that are too large for the type they are to have.

use std::fmt;

use llq_gguf::TensorType;

use super::tally::Census;
use crate::{OnOverflow, TensorPlan};

/// Weights of a tensor that are too large for its type. Weights that are infinite are not meant.
#[derive(Clone, Debug, PartialEq)]
pub struct Overflow {
    /// The tensor, by its GGUF name.
    pub tensor: String,
    /// The type they do not fit.
    pub to: TensorType,
    /// How many there are.
    pub weights: u64,
    /// The largest magnitude.
    pub largest: f32,
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Overflow { tensor, to, weights, largest } = self;
        let those = if *weights == 1 { "weight" } else { "weights" };
        write!(f, "tensor {tensor:?}: {weights} {those} up to {largest:e} do not fit {to}")
    }
}

/// The largest magnitude that every type can take: that of an F16, which is also what the scales
/// of quantized types are stored as.
pub(super) const LARGEST_HALF: f32 = 65504.0;

/// The smallest magnitude that a plain type rounds to infinity.
pub(super) fn first_that_rounds_to_infinity(plain: TensorType) -> f32 {
    match plain {
        TensorType::F16 => 65520.0,
        // Halfway between the largest BF16 and the next power of two.
        TensorType::BF16 => f32::from_bits(0x7f7f_8000),
        _ => f32::INFINITY,
    }
}

/// The largest magnitude of a plain type.
pub(super) fn largest(plain: TensorType) -> f32 {
    match plain {
        TensorType::F16 => LARGEST_HALF,
        TensorType::BF16 => f32::from_bits(0x7f7f_0000),
        _ => f32::MAX,
    }
}

/// Whether the source's type has values that the output's lacks.
pub(super) fn is_possible(tensor: &TensorPlan) -> bool {
    use TensorType::{F16, F32};
    tensor.from != tensor.to && tensor.from != F16 && tensor.to != F32
}

/// Whether a tensor with such weights may be written, or be written and then kept as BF16.
pub(super) fn is_allowed(tensor: &TensorPlan, census: &Census, on_overflow: OnOverflow) -> bool {
    let fits_bf16 = census.largest < first_that_rounds_to_infinity(TensorType::BF16);
    census.too_large == 0
        || match on_overflow {
            OnOverflow::Error => false,
            OnOverflow::Clamp => true,
            OnOverflow::KeepBf16 => tensor.to == TensorType::F16 && fits_bf16,
        }
}
