//! Decoding to f32, in weights per second.

use criterion::Criterion;
use llq_benches::{Case, ProcessorTime, Weights, bench, run};
use llq_quant::{
    Decoded, FormatInfo,
    kernels::{Isa, Kernels},
};

/// Both sides of a run fit the second-level cache.
const ROWS: usize = 16;
const COLS: usize = 2048;

fn main() {
    run(decode);
}

fn decode(criterion: &mut Criterion<ProcessorTime>) {
    for (kernels, format, name) in Case::grid() {
        let case = Case { operation: "decode", kernels, name: &name, elements: ROWS * COLS };
        let prepare = || {
            let bytes = Weights::new(format, ROWS, COLS).bytes;
            let out = decoded(kernels, format, &bytes);
            assert_eq!(out, definition(format, &bytes));
            (bytes, out)
        };
        bench(criterion, &case, prepare, |(bytes, out)| {
            format.dequantize_with(kernels, bytes, out).expect("whole rows");
        });
    }
}

fn decoded(kernels: &Kernels, format: &FormatInfo, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; ROWS * COLS];
    format.dequantize_with(kernels, bytes, &mut out).expect("whole rows");
    out
}

/// What the codes and scales of the blocks say; of plain formats, what the scalar row says.
fn definition(format: &FormatInfo, bytes: &[u8]) -> Vec<f32> {
    let Some(blocks) = &format.blocks else {
        let scalar = Kernels::for_isa(Isa::Scalar).expect("every machine has it");
        return decoded(scalar, format, bytes);
    };
    let mut view = Decoded::ZERO;
    let mut weights = Vec::new();
    for block in bytes.chunks_exact(format.tensor_type.block_bytes()) {
        blocks.decode(block, &mut view);
        weights.extend((0..format.tensor_type.block_weights()).map(|i| {
            let group = i / blocks.group;
            view.scales[group] * f32::from(view.codes[i]) - view.mins[group]
        }));
    }
    weights
}
