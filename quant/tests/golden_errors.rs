//! The K-quants against the field's standard tool: no tensor of the fixture model may have a
//! larger squared error than in the file that tool wrote, whether all weights count the same, as
//! in llq's own encoders, or as in that tool's.
//!
//! `data/golden_errors.csv`, which `make_golden_errors.py` beside it made, has the sums that
//! [`Errors`] holds for each tensor of those files.

#![allow(clippy::unwrap_used)] // a test may

use std::fs;

use llq_gguf::TensorType;
use llq_quant::{Encoding, format};
use safetensors::{SafeTensors, tensor::TensorView};

const SUPER_BLOCK: usize = 256;
const GROUP: usize = 32;

/// Sums of squared errors over a tensor, by what the error of a weight `x` counts.
#[derive(Clone, Copy, Default)]
struct Errors {
    /// 1.
    plain: f64,
    /// The mean square of its super-block.
    by_energy: f64,
    /// `x²`.
    by_square: f64,
    /// `|x|`.
    by_magnitude: f64,
    /// The root of the mean square of its 32 weights.
    by_group_rms: f64,
}

impl Errors {
    fn add(&mut self, weights: &[f32], decoded: &[f32]) {
        let energy = mean_square(weights);
        let groups = weights.chunks(GROUP).zip(decoded.chunks(GROUP));
        for (weights, decoded) in groups {
            let rms = mean_square(weights).sqrt();
            for (&x, &y) in weights.iter().zip(decoded) {
                let x = f64::from(x);
                let squared = (f64::from(y) - x).powi(2);
                self.plain += squared;
                self.by_energy += energy * squared;
                self.by_square += x * x * squared;
                self.by_magnitude += x.abs() * squared;
                self.by_group_rms += rms * squared;
            }
        }
    }
}

fn mean_square(weights: &[f32]) -> f64 {
    weights.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / weights.len() as f64
}

/// A weighting by its name.
type Weighting = (&'static str, fn(&Errors) -> f64);

const PLAIN: Weighting = ("unweighted", |e| e.plain);

/// What llq's encoders minimise.
const OWN_Q3_K: Weighting = ("own weighting", |e| 3.0 * e.by_energy + e.by_square);
const OWN_Q6_K: Weighting = ("own weighting", |e| 2.0 * e.by_energy + e.by_square);
const OWN_AFFINE: Weighting = ("own weighting", |e| 8.0 * e.by_energy + e.by_square);

/// What the standard tool's encoders minimise.
const STANDARD_SYMMETRIC: Weighting = ("standard weighting", |e| e.by_square);
const STANDARD_Q2_K: Weighting = ("standard weighting", |e| e.by_magnitude);
const STANDARD_AFFINE: Weighting = ("standard weighting", |e| e.by_group_rms + e.by_magnitude);

fn assert_no_worse(tensor_type: TensorType, weightings: [Weighting; 3]) {
    let bytes = fs::read(llq_fixtures::fixture("tiny-llama-2/hf/model.safetensors")).unwrap();
    let model = SafeTensors::deserialize(&bytes).unwrap();
    let mut compared = 0;
    for (tensor, golden) in golden_errors(tensor_type) {
        let found = errors(tensor_type, model.tensor(tensor).unwrap());
        for (name, weighting) in weightings {
            let (found, golden) = (weighting(&found), weighting(&golden));
            assert!(found <= golden, "{tensor_type} {tensor}, {name}: {found} > {golden}");
        }
        compared += 1;
    }
    assert_eq!(compared, 44);
}

/// Tensors with their errors in the standard tool's file of that type.
fn golden_errors(tensor_type: TensorType) -> impl Iterator<Item = (&'static str, Errors)> {
    let lines = include_str!("data/golden_errors.csv").lines().skip(1);
    let lines = lines.map(|line| line.split(',').collect::<Vec<_>>());
    lines.filter(move |fields| fields[0] == tensor_type.name()).map(|fields| {
        let number = |i: usize| fields[i].parse::<f64>().unwrap();
        let errors = Errors {
            plain: number(2),
            by_energy: number(3),
            by_square: number(4),
            by_magnitude: number(5),
            by_group_rms: number(6),
        };
        (fields[1], errors)
    })
}

fn errors(tensor_type: TensorType, tensor: TensorView<'_>) -> Errors {
    let format = format(tensor_type).unwrap();
    let cols = tensor.shape()[1];
    let bf16 = tensor.data().as_chunks::<2>().0.iter();
    let weights: Vec<f32> =
        bf16.map(|&b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)).collect();
    let mut encoded = vec![0; tensor_type.row_bytes(cols as u64).unwrap() as usize];
    let mut decoded = vec![0.0; cols];
    let mut errors = Errors::default();
    for row in weights.chunks(cols) {
        format.encode_row(row, Encoding::default(), &mut encoded).unwrap();
        format.validate(&encoded).unwrap();
        format.dequantize(&encoded, &mut decoded).unwrap();
        for (weights, decoded) in row.chunks(SUPER_BLOCK).zip(decoded.chunks(SUPER_BLOCK)) {
            errors.add(weights, decoded);
        }
    }
    errors
}

#[test]
fn q2_k_is_no_worse_than_golden() {
    assert_no_worse(TensorType::Q2_K, [PLAIN, OWN_AFFINE, STANDARD_Q2_K]);
}

#[test]
fn q3_k_is_no_worse_than_golden() {
    assert_no_worse(TensorType::Q3_K, [PLAIN, OWN_Q3_K, STANDARD_SYMMETRIC]);
}

#[test]
fn q4_k_is_no_worse_than_golden() {
    assert_no_worse(TensorType::Q4_K, [PLAIN, OWN_AFFINE, STANDARD_AFFINE]);
}

#[test]
fn q5_k_is_no_worse_than_golden() {
    assert_no_worse(TensorType::Q5_K, [PLAIN, OWN_AFFINE, STANDARD_AFFINE]);
}

#[test]
fn q6_k_is_no_worse_than_golden() {
    assert_no_worse(TensorType::Q6_K, [PLAIN, OWN_Q6_K, STANDARD_SYMMETRIC]);
}
