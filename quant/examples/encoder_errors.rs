//! Relative error and speed of every encoder on the fixture model:
//! `cargo run --release -p llq-quant --example encoder_errors`.

#![allow(clippy::print_stdout)] // its output

use std::{fs, time::Instant};

use llq_quant::{Encoding, FORMATS, FormatInfo};
use safetensors::SafeTensors;

/// Rows of one tensor.
struct Matrix {
    cols: usize,
    weights: Vec<f32>,
}

fn main() {
    let bytes = fs::read(llq_fixtures::fixture("tiny-llama-2/hf/model.safetensors"))
        .expect("the fixture is in every checkout");
    let matrices = matrices(&SafeTensors::deserialize(&bytes).expect("the fixture is well-formed"));
    println!("{:6} {:>8} {:>12} {:>10}", "type", "bits", "rel. RMSE", "Mweights/s");
    for format in FORMATS.iter().filter(|format| format.blocks.is_some()) {
        let (error, rate) = measure(format, &matrices);
        println!("{:6} {:8.4} {error:12.6} {rate:10.1}", format.name(), format.bits_per_weight());
    }
}

fn matrices(model: &SafeTensors<'_>) -> Vec<Matrix> {
    let views = model.tensors().into_iter().map(|(_, view)| view);
    views
        .filter(|view| view.shape().len() == 2)
        .map(|view| Matrix {
            cols: view.shape()[1],
            weights: view.data().as_chunks::<2>().0.iter().map(|&b| bf16(b)).collect(),
        })
        .collect()
}

fn bf16(bytes: [u8; 2]) -> f32 {
    half::bf16::from_le_bytes(bytes).to_f32()
}

/// Root of the squared error over the squares of the weights, and million weights per second.
fn measure(format: &FormatInfo, matrices: &[Matrix]) -> (f64, f64) {
    let (mut squared_error, mut energy, mut weights, mut seconds) = (0.0, 0.0, 0, 0.0);
    for matrix in matrices {
        let bytes = format.tensor_type.row_bytes(matrix.cols as u64).expect("whole blocks");
        let mut encoded = vec![0; bytes as usize];
        let mut decoded = vec![0.0; matrix.cols];
        for row in matrix.weights.chunks_exact(matrix.cols) {
            let start = Instant::now();
            format.encode_row(row, Encoding::default(), &mut encoded).expect("sizes agree");
            seconds += start.elapsed().as_secs_f64();
            format.dequantize(&encoded, &mut decoded).expect("sizes agree");
            for (&x, &y) in row.iter().zip(&decoded) {
                squared_error += f64::from(y - x).powi(2);
                energy += f64::from(x).powi(2);
            }
        }
        weights += matrix.weights.len();
    }
    ((squared_error / energy).sqrt(), weights as f64 / seconds / 1e6)
}
