//! More effort: never a larger error, by what the encoder minimises.

#![allow(clippy::unwrap_used)] // a test may

use std::fs;

use llq_quant::{Effort, Encoding, FORMATS, FormatInfo};
use safetensors::SafeTensors;

const EFFORTS: [Effort; 3] = [Effort::Fast, Effort::Default, Effort::Best];

/// Sums in f32 leave this much of an error undetermined.
const ROUNDING: f64 = 1.0 + 1e-5;

/// Rows of a tensor that are encoded.
const ROWS: usize = 48;

fn searched() -> impl Iterator<Item = &'static FormatInfo> {
    let blocks = FORMATS.iter().copied().filter(|format| format.blocks.is_some());
    blocks.filter(|format| format.tensor_type.name() != "Q8_0")
}

/// What an error counts without importance: as much as so many mean squares of the block and its
/// own square.
fn weighting(format: &FormatInfo, row: &[f32]) -> Vec<f64> {
    let floor = match format.tensor_type.name() {
        "Q3_K" => 3.0,
        "Q6_K" => 2.0,
        _ => 8.0,
    };
    let blocks = row.chunks(format.tensor_type.block_weights());
    blocks.flat_map(|block| weighting_of_block(block, floor)).collect()
}

fn weighting_of_block(block: &[f32], floor: f64) -> impl Iterator<Item = f64> {
    let square = |&x: &f32| f64::from(x).powi(2);
    let mean = block.iter().map(square).sum::<f64>() / block.len() as f64;
    block.iter().map(move |x| floor * mean + square(x))
}

fn error(format: &FormatInfo, row: &[f32], encoding: Encoding<'_>, counts: &[f64]) -> f64 {
    let bytes = format.tensor_type.row_bytes(row.len() as u64).unwrap();
    let (mut encoded, mut decoded) = (vec![0; bytes as usize], vec![0.0; row.len()]);
    format.encode_row(row, encoding, &mut encoded).unwrap();
    format.dequantize(&encoded, &mut decoded).unwrap();
    let off = row.iter().zip(&decoded).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2));
    off.zip(counts).map(|(off, count)| off * count).sum()
}

#[test]
fn more_effort_is_no_worse_on_any_tensor() {
    let bytes = fs::read(llq_fixtures::fixture("tiny-llama-2/hf/model.safetensors")).unwrap();
    let model = SafeTensors::deserialize(&bytes).unwrap();
    let matrices = model.tensors().into_iter().filter(|(_, tensor)| tensor.shape().len() == 2);
    for (name, tensor) in matrices {
        let bf16 = tensor.data().as_chunks::<2>().0.iter().map(|&b| half::bf16::from_le_bytes(b));
        let weights: Vec<f32> = bf16.map(|b| b.to_f32()).collect();
        for format in searched() {
            let [fast, default, best] = EFFORTS.map(|effort| {
                let rows = weights.chunks(tensor.shape()[1]).take(ROWS);
                rows.map(|row| {
                    let encoding = Encoding { importance: None, effort };
                    error(format, row, encoding, &weighting(format, row))
                })
                .sum::<f64>()
            });
            let of = format!("{name} as {}", format.name());
            assert!(default <= fast * ROUNDING, "{of}: {default} > {fast}");
            assert!(best <= default * ROUNDING, "{of}: {best} > {default}");
        }
    }
}

/// Groups of every shape: flat, one-sided, with outliers, with a single weight.
#[test]
fn more_effort_is_no_worse_on_any_block() {
    let wave = |i: usize| (i as f32 * 0.7).sin();
    let shapes: [fn(f32, usize) -> f32; 6] = [
        |w, _| w,
        |w, _| w.powi(3),
        |w, _| 1.0 + 0.2 * w,
        |w, i| if i % 32 == 5 { -9.0 } else { w },
        |w, i| if i % 32 == 31 { w } else { 0.0 },
        |_, i| if i % 2 == 0 { 1.0 } else { -1.0 },
    ];
    for (shape, of) in shapes.iter().enumerate() {
        let row: Vec<f32> = (0..256).map(|i| of(wave(i), i)).collect();
        for format in searched() {
            let counts = weighting(format, &row);
            let [fast, default, best] = EFFORTS
                .map(|effort| error(format, &row, Encoding { importance: None, effort }, &counts));
            let of = format!("shape {shape} as {}", format.name());
            let floor = 1e-9 * counts.iter().sum::<f64>();
            assert!(default <= fast * ROUNDING + floor, "{of}: {default} > {fast}");
            assert!(best <= default * ROUNDING + floor, "{of}: {best} > {default}");
        }
    }
}

#[test]
fn legacy_blocks_gain_by_the_search() {
    let row: Vec<f32> = (0..4096).map(|i| (i as f32 * 0.7).sin().powi(3)).collect();
    for format in searched().filter(|format| format.tensor_type.block_weights() == 32) {
        let counts = weighting(format, &row);
        let [fast, default] = [Effort::Fast, Effort::Default]
            .map(|effort| error(format, &row, Encoding { importance: None, effort }, &counts));
        assert!(default < 0.99 * fast, "{}: {default} >= 0.99 * {fast}", format.name());
    }
}
