//! Quantizes a matrix to every format and prints what that costs.
//!
//! `cargo run --release -p llq-quant --example quantize_tensor`

#![allow(clippy::print_stdout)] // that is what it is for

use std::error::Error;

use llq_quant::{Encoding, FORMATS};

const ROWS: usize = 64;
const COLUMNS: usize = 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let matrix = weights(ROWS * COLUMNS);
    let square = |values: &[f32]| values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
    for format in FORMATS {
        let tensor_type = format.tensor_type;
        let row_bytes = tensor_type.row_bytes(COLUMNS as u64).ok_or("rows do not fit")? as usize;
        let mut bytes = vec![0; row_bytes * ROWS];
        for (row, out) in matrix.chunks(COLUMNS).zip(bytes.chunks_mut(row_bytes)) {
            format.encode_row(row, Encoding::default(), out)?;
        }
        let mut decoded = vec![0.0; matrix.len()];
        format.dequantize(&bytes, &mut decoded)?;
        let errors: Vec<f32> = matrix.iter().zip(&decoded).map(|(a, b)| a - b).collect();
        let relative = (square(&errors) / square(&matrix)).sqrt();
        let bits = bytes.len() as f64 * 8.0 / matrix.len() as f64;
        println!("{tensor_type:<5} {bits:>6.3} bits per weight, error {:>6.3} %", 100.0 * relative);
    }
    Ok(())
}

/// Sums of four uniform numbers, which are about normal.
fn weights(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| 0.05 * (uniform() + uniform() + uniform() + uniform())).collect()
}
