//! Encoding from f32, in weights per second.

use criterion::Criterion;
use llq_benches::{Case, ProcessorTime, bench, numbers, run};
use llq_quant::{
    Encoding, FormatInfo,
    kernels::{Isa, Kernels},
};

const COLS: usize = 16384;

fn main() {
    run(encode);
}

fn encode(criterion: &mut Criterion<ProcessorTime>) {
    let scalar = Kernels::for_isa(Isa::Scalar).expect("every machine has it");
    for (kernels, format, name) in Case::grid() {
        let case = Case { operation: "encode", kernels, name: &name, elements: COLS };
        let prepare = || {
            let row = numbers(3, COLS);
            let bytes = encoded(kernels, format, &row);
            assert_eq!(bytes, encoded(scalar, format, &row));
            assert_close(format, &row, &bytes);
            (row, bytes)
        };
        bench(criterion, &case, prepare, |(row, bytes)| {
            format.encode_row_with(kernels, row, Encoding::default(), bytes).expect("whole rows");
        });
    }
}

fn encoded(kernels: &Kernels, format: &FormatInfo, row: &[f32]) -> Vec<u8> {
    let bytes = format.tensor_type.row_bytes(row.len() as u64).expect("whole blocks") as usize;
    let mut encoded = vec![0; bytes];
    format.encode_row_with(kernels, row, Encoding::default(), &mut encoded).expect("whole rows");
    encoded
}

/// The error of numbers in -1..1 is below the distance of two codes that have one bit less.
fn assert_close(format: &FormatInfo, row: &[f32], bytes: &[u8]) {
    let mut decoded = vec![0.0; row.len()];
    format.dequantize(bytes, &mut decoded).expect("whole rows");
    let squares: f32 = row.iter().zip(&decoded).map(|(a, b)| (a - b) * (a - b)).sum();
    let error = (squares / row.len() as f32).sqrt();
    let step = 2.0 / 2f32.powf(format.bits_per_weight().min(8.0) as f32 - 1.0);
    assert!(error < step, "{}: an error of {error}", format.name());
}
