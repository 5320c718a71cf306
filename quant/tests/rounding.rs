//! Rounding beside what a matrix is multiplied with.

#![allow(clippy::unwrap_used)] // helpers of tests

use llq_quant::{
    Curvature, Encoding, FORMATS, FormatInfo, Rounding, kernels, round_matrix, round_matrix_with,
};
use rayon::ThreadPoolBuilder;

const ROWS: usize = 32;
const COLS: usize = 512;

/// Numbers about zero that look random, always the same.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 24) as f32) - 0.5
    };
    (0..count).map(|_| next() + next() + next()).collect()
}

/// Moments of inputs of which neighbours are alike.
fn moments(size: usize, samples: usize, seed: u64) -> Vec<f32> {
    let noise = numbers(samples * (size + 8), seed);
    let mut moments = vec![0.0; size * size];
    for noise in noise.chunks_exact(size + 8) {
        let x: Vec<f32> = noise.windows(9).take(size).map(|near| near.iter().sum()).collect();
        for (i, row) in moments.chunks_exact_mut(size).enumerate() {
            for (sum, other) in row.iter_mut().zip(&x) {
                *sum += x[i] * other;
            }
        }
    }
    moments
}

fn blocks() -> impl Iterator<Item = &'static FormatInfo> {
    FORMATS.iter().copied().filter(|format| format.blocks.is_some())
}

fn weights() -> Vec<f32> {
    numbers(ROWS * COLS, 7)
}

fn decoded(format: &FormatInfo, bytes: &[u8]) -> Vec<f32> {
    let mut weights = vec![0.0; ROWS * COLS];
    format.validate(bytes).unwrap();
    format.dequantize(bytes, &mut weights).unwrap();
    weights
}

fn plain(format: &FormatInfo, weights: &[f32]) -> Vec<u8> {
    let row_bytes = format.tensor_type.row_bytes(COLS as u64).unwrap() as usize;
    let mut bytes = vec![0; ROWS * row_bytes];
    for (row, out) in weights.chunks_exact(COLS).zip(bytes.chunks_exact_mut(row_bytes)) {
        format.encode_row(row, Encoding::default(), out).unwrap();
    }
    bytes
}

/// What errors in the outputs cost: rows in two groups, the second of them the smaller.
fn outputs() -> [Curvature; 2] {
    [ROWS - 12, 12].map(|rows| Curvature::new(rows, moments(rows, 200, 2), 0.1).unwrap())
}

/// `Σ A_ik (Q_i - T_i) H (Q_k - T_k)ᵀ`; without `outputs`, `A` is one on the diagonal.
fn error(rounded: &[f32], target: &[f32], inputs: &Curvature, outputs: &[Curvature]) -> f64 {
    let errors: Vec<f64> = rounded.iter().zip(target).map(|(q, t)| f64::from(q - t)).collect();
    let mut along = vec![0.0; errors.len()];
    for (errors, along) in errors.chunks_exact(COLS).zip(along.chunks_exact_mut(COLS)) {
        for (j, error) in errors.iter().enumerate() {
            for (sum, h) in along.iter_mut().zip(inputs.row(j)) {
                *sum += error * f64::from(*h);
            }
        }
    }
    let between = |i: usize, k: usize| -> f64 {
        let (errors, along) = (&errors[i * COLS..][..COLS], &along[k * COLS..][..COLS]);
        errors.iter().zip(along).map(|(e, a)| e * a).sum()
    };
    let cost = |i: usize, k: usize| match outputs {
        [first, _] if i < first.size() && k < first.size() => f64::from(first.row(i)[k]),
        [first, second] if i >= first.size() && k >= first.size() => {
            f64::from(second.row(i - first.size())[k - first.size()])
        }
        [_, _] => 0.0,
        _ => f64::from(u8::from(i == k)),
    };
    (0..ROWS)
        .flat_map(|i| (0..ROWS).map(move |k| (i, k)))
        .map(|(i, k)| cost(i, k) * between(i, k))
        .sum()
}

#[test]
fn every_format_makes_less_error_in_products_than_its_encoder() {
    let (weights, inputs) = (weights(), Curvature::new(COLS, moments(COLS, 600, 1), 0.01).unwrap());
    for format in blocks() {
        let rounding =
            Rounding { format, target: &weights, inputs: &inputs, outputs: &[], passes: 0 };
        let rounded = decoded(format, &round_matrix(&rounding).unwrap());
        let plain = decoded(format, &plain(format, &weights));
        let [rounded, plain] = [rounded, plain].map(|rows| error(&rows, &weights, &inputs, &[]));
        assert!(rounded < 0.6 * plain, "{}: {rounded} of {plain}", format.name());
    }
}

#[test]
fn rows_make_up_for_each_other() {
    let (weights, inputs) = (weights(), Curvature::new(COLS, moments(COLS, 600, 1), 0.01).unwrap());
    let outputs = outputs();
    for format in blocks() {
        let errors = [&[], outputs.as_slice()].map(|outputs_known| {
            let passes = 2;
            let rounding = Rounding {
                format,
                target: &weights,
                inputs: &inputs,
                outputs: outputs_known,
                passes,
            };
            let rounded = decoded(format, &round_matrix(&rounding).unwrap());
            error(&rounded, &weights, &inputs, &outputs)
        });
        assert!(errors[1] < 0.9 * errors[0], "{}: {errors:?}", format.name());
    }
}

#[test]
fn threads_and_instruction_sets_give_the_same_bytes() {
    let (weights, inputs) = (weights(), Curvature::new(COLS, moments(COLS, 600, 1), 0.01).unwrap());
    let outputs = outputs();
    for format in blocks() {
        let rounding =
            Rounding { format, target: &weights, inputs: &inputs, outputs: &outputs, passes: 1 };
        let expected = round_matrix(&rounding);
        for threads in [1, 3] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(|| round_matrix(&rounding)) == expected, "{threads} threads");
        }
        for kernels in kernels::available() {
            let found = round_matrix_with(kernels, &rounding);
            assert!(found == expected, "{} on {}", format.name(), kernels.isa());
        }
    }
}

#[test]
fn inputs_that_are_always_zero_do_no_harm() {
    let mut moments = moments(COLS, 30, 3);
    for dead in [0, 1, 300, 511] {
        for i in 0..COLS {
            moments[dead * COLS + i] = 0.0;
            moments[i * COLS + dead] = 0.0;
        }
    }
    let (weights, inputs) = (weights(), Curvature::new(COLS, moments, 0.0).unwrap());
    for format in blocks() {
        let rounding =
            Rounding { format, target: &weights, inputs: &inputs, outputs: &[], passes: 0 };
        let rounded = decoded(format, &round_matrix(&rounding).unwrap());
        assert!(rounded.iter().all(|weight| weight.abs() < 10.0), "{}", format.name());
    }
}

#[test]
fn what_measures_nothing_is_no_curvature() {
    assert!(Curvature::new(2, vec![0.0; 4], 0.01).is_none());
    assert!(Curvature::new(2, vec![f32::NAN; 4], 0.01).is_none());
    assert!(Curvature::new(2, vec![1.0, f32::INFINITY, f32::INFINITY, 1.0], 0.01).is_none());
    assert!(Curvature::new(2, vec![-1.0, 0.0, 0.0, -1.0], 0.01).is_none());
    // More than what was asked for is added where the matrix has no factor.
    assert!(Curvature::new(2, vec![1.0, 3.0, 3.0, 1.0], 0.0).is_some());
}

#[test]
fn solving_undoes_the_product() {
    // More than one block of columns, the last of them narrow.
    let size = 600;
    let inputs = Curvature::new(size, moments(size, 900, 5), 0.05).unwrap();
    let x = numbers(3 * size, 9);
    let mut product: Vec<f32> = x
        .chunks_exact(size)
        .flat_map(|x| (0..size).map(|j| x.iter().zip(inputs.row(j)).map(|(x, h)| x * h).sum()))
        .collect();
    inputs.solve(&mut product);
    for (found, expected) in product.iter().zip(&x) {
        assert!((found - expected).abs() < 1e-3, "{found} for {expected}");
    }
}

#[test]
fn plain_numbers_are_not_rounded() {
    let inputs = Curvature::new(COLS, moments(COLS, 600, 1), 0.01).unwrap();
    let weights = weights();
    for format in FORMATS.iter().copied().filter(|format| format.blocks.is_none()) {
        let rounding =
            Rounding { format, target: &weights, inputs: &inputs, outputs: &[], passes: 0 };
        assert_eq!(round_matrix(&rounding), None);
    }
}
