//! Every row of the table against the scalar row, bit for bit, and the scalar row against f64.

mod tiny;

use std::sync::Once;

use super::*;
use crate::{
    Activations, AttentionScratch, FORMATS, Matrix, Mode, Rows, Scratch, Vector, causal_attention,
    gemv_with, matmul_with,
};

const SCALAR: &Kernels = &scalar::ROW;

/// Numbers in -1..1 with an outlier here and there.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let outliers = llq_fixtures::random(seed).step_by(2);
    let factors = outliers.map(|number| if number > 0.97 { 20.0 } else { 1.0 });
    let numbers = llq_fixtures::random(seed).skip(1).step_by(2);
    factors.zip(numbers).map(|(factor, number)| factor * number).take(len).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn fast_rows() -> impl Iterator<Item = &'static Kernels> {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        for isa in Isa::native().filter(|&isa| Kernels::for_isa(isa).is_none()) {
            llq_fixtures::skipped(&format!("{isa}, which this machine lacks"));
        }
    });
    available().filter(|kernels| kernels.isa() != Isa::Scalar)
}

/// Rows of random weights in every format: (format, rows, cols, bytes).
fn encoded(rows: usize, blocks: usize) -> Vec<(&'static crate::FormatInfo, usize, Vec<u8>)> {
    FORMATS
        .iter()
        .map(|format| {
            let weights = format.tensor_type.block_weights();
            let cols = if weights == 1 { 37 * blocks } else { weights * blocks };
            let row_bytes = format.tensor_type.row_bytes(cols as u64).unwrap() as usize;
            let mut bytes = vec![0; rows * row_bytes];
            let seed = u64::from(format.tensor_type.id()) + 100 * rows as u64;
            let values = numbers(seed, rows * cols);
            for (row, out) in values.chunks_exact(cols).zip(bytes.chunks_exact_mut(row_bytes)) {
                format.encode_row(row, crate::Encoding::default(), out).unwrap();
            }
            (*format, cols, bytes)
        })
        .collect()
}

fn product(kernels: &Kernels, mode: Mode, w: &Matrix<'_>, x: &[f32]) -> Vec<f32> {
    let mut activations = Activations::new(mode, x, w.cols());
    activations.refill_with(kernels, x, w.cols());
    let mut out = vec![f32::NAN; w.rows() * activations.tokens()];
    matmul_with(kernels, w, &activations, &mut out, &mut Scratch::default());
    out
}

#[test]
fn the_largest_magnitude_is_found_wherever_it_lies() {
    for kernels in available() {
        assert_eq!(kernels.largest_magnitude(&[]), 0);
        assert_eq!(kernels.largest_magnitude_16(&[]), 0);
        for len in (1..70).chain([500, 1027]) {
            let small = numbers(len as u64, len);
            for at in [0, len / 2, len - 1] {
                for large in [-21.0, 1e30, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
                    let mut values = small.clone();
                    values[at] = large;
                    let found = kernels.largest_magnitude(&values);
                    assert_eq!(found, large.abs().to_bits(), "{} {len} {at}", kernels.isa());

                    // The upper halves are BF16.
                    let halves: Vec<[u8; 2]> =
                        values.iter().map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
                    let found = kernels.largest_magnitude_16(&halves);
                    let expected = (large.abs().to_bits() >> 16) as u16;
                    assert_eq!(found, expected, "{} {len} {at}", kernels.isa());
                }
            }
        }
    }
}

#[test]
fn products_have_the_oracle_s_bits_over_ragged_shapes() {
    let shapes =
        [(1, 1, 1), (3, 2, 12), (16, 1, 13), (17, 3, 1), (31, 1, 20), (32, 2, 5), (40, 9, 25)];
    for (rows, blocks, tokens) in shapes {
        for (format, cols, bytes) in encoded(rows, blocks) {
            let w = Matrix::new(format.tensor_type, rows, cols, &bytes).unwrap();
            let x = numbers(7, tokens * cols);
            for mode in [Mode::Exact, Mode::Fast] {
                let expected = product(SCALAR, mode, &w, &x);
                for kernels in fast_rows() {
                    assert_eq!(
                        bits(&product(kernels, mode, &w, &x)),
                        bits(&expected),
                        "{} {mode:?} {} {rows}x{cols}, {tokens} tokens",
                        format.tensor_type,
                        kernels.isa()
                    );
                }
            }
        }
    }
}

#[test]
fn every_small_shape_has_the_oracle_s_bits() {
    for (format, cols, bytes) in encoded(40, 1) {
        let row_bytes = bytes.len() / 40;
        for rows in 1..=40 {
            let bytes = &bytes[..rows * row_bytes];
            let w = Matrix::new(format.tensor_type, rows, cols, bytes).unwrap();
            let tokens = 1 + rows % 20;
            let x = numbers(rows as u64, tokens * cols);
            for mode in [Mode::Exact, Mode::Fast] {
                let expected = bits(&product(SCALAR, mode, &w, &x));
                for kernels in fast_rows() {
                    assert_eq!(bits(&product(kernels, mode, &w, &x)), expected);
                }
            }
        }
    }
}

/// The definition: one chain of fused multiply-adds per output. Across the columns of a panel too.
#[test]
fn an_exact_product_is_one_chain_per_output() {
    let (rows, tokens) = (5, 3);
    for (format, cols, bytes) in encoded(rows, 33) {
        let w = Matrix::new(format.tensor_type, rows, cols, &bytes).unwrap();
        let x = numbers(3, tokens * cols);
        let out = product(SCALAR, Mode::Exact, &w, &x);
        let mut weights = vec![0.0; cols];
        for row in 0..rows {
            w.decode_row(row, &mut weights);
            for (token, x) in x.chunks_exact(cols).enumerate() {
                let chain = weights.iter().zip(x).fold(0.0f32, |sum, (w, x)| w.mul_add(*x, sum));
                assert_eq!(out[token * rows + row].to_bits(), chain.to_bits());
            }
        }
    }
}

/// The definition: exact integer sums within a group, one chain of fused multiply-adds across them.
#[test]
fn a_fast_product_follows_its_definition() {
    let (rows, tokens) = (5, 3);
    for (format, cols, bytes) in encoded(rows, 9) {
        let Some(blocks) = &format.blocks else { continue };
        let w = Matrix::new(format.tensor_type, rows, cols, &bytes).unwrap();
        let x = numbers(5, tokens * cols);
        let out = product(SCALAR, Mode::Fast, &w, &x);
        let mut block = crate::Decoded::ZERO;
        let weights = format.tensor_type.block_weights();
        for (row, row_bytes) in bytes.chunks_exact(bytes.len() / rows).enumerate() {
            for (token, x) in x.chunks_exact(cols).enumerate() {
                let (codes, scales) = quantized(x);
                let mut sum = 0.0f32;
                let row_blocks = row_bytes.chunks_exact(format.tensor_type.block_bytes());
                for (b, block_bytes) in row_blocks.enumerate() {
                    blocks.decode(block_bytes, &mut block);
                    for first in (0..weights).step_by(blocks.group) {
                        let group = first / blocks.group;
                        let at = b * weights + first;
                        let activations = &codes[at..][..blocks.group];
                        let pairs = block.codes[first..].iter().zip(activations);
                        let dot: i32 = pairs.map(|(&w, &a)| i32::from(w) * a).sum();
                        let mut term = dot as f32 * block.scales[group];
                        if blocks.has_min {
                            let negated_sum = -activations.iter().sum::<i32>() as f32;
                            term = block.mins[group].mul_add(negated_sum, term);
                        }
                        sum = term.mul_add(scales[at / ACTIVATION_GROUP], sum);
                    }
                }
                let found = out[token * rows + row];
                assert_eq!(found.to_bits(), sum.to_bits(), "{}", format.tensor_type);
            }
        }
    }
}

/// Codes of activations, and a scale for each 32.
fn quantized(x: &[f32]) -> (Vec<i32>, Vec<f32>) {
    let groups = x.chunks_exact(ACTIVATION_GROUP);
    let largest: Vec<f32> =
        groups.clone().map(|group| group.iter().fold(0.0, |m: f32, v| m.max(v.abs()))).collect();
    let codes = groups.zip(&largest).flat_map(|(group, largest)| {
        group.iter().map(move |v| (v * (127.0 / largest)).round_ties_even() as i32)
    });
    (codes.collect(), largest.iter().map(|largest| largest / 127.0).collect())
}

#[test]
fn exact_products_are_near_f64_and_fast_ones_near_exact() {
    let (rows, tokens) = (40, 13);
    for (format, cols, bytes) in encoded(rows, 9) {
        let w = Matrix::new(format.tensor_type, rows, cols, &bytes).unwrap();
        let x = numbers(11, tokens * cols);
        let exact = product(SCALAR, Mode::Exact, &w, &x);
        let fast = product(SCALAR, Mode::Fast, &w, &x);
        let mut weights = vec![0.0; cols];
        let (mut error, mut energy) = (0.0, 0.0);
        for row in 0..rows {
            w.decode_row(row, &mut weights);
            for (token, x) in x.chunks_exact(cols).enumerate() {
                let terms = || weights.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                let (sum, magnitude) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                let at = token * rows + row;
                // Each of `cols` fused steps rounds a partial sum of at most `magnitude`.
                let bound = cols as f64 * f64::from(f32::EPSILON) / 2.0 * magnitude;
                assert!((f64::from(exact[at]) - sum).abs() <= bound * 1.001);
                error += (f64::from(fast[at]) - sum).powi(2);
                energy += sum * sum;
            }
        }
        // A code is off by at most half a step of 1/127 of the largest in its group, and the
        // groups with outliers have a largest of several root mean squares.
        assert!(error.sqrt() < 0.02 * energy.sqrt(), "{}: {error} {energy}", format.tensor_type);
    }
}

#[test]
fn non_finite_activations_show_in_fast_products() {
    let (format, cols, bytes) = encoded(2, 1).pop().unwrap();
    let w = Matrix::new(format.tensor_type, 2, cols, &bytes).unwrap();
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = numbers(1, cols);
        x[5] = bad;
        for kernels in available() {
            assert!(product(kernels, Mode::Fast, &w, &x).iter().all(|y| !y.is_finite()));
        }
    }
}

#[test]
fn rows_of_a_matrix_are_a_matrix() {
    for (format, cols, bytes) in encoded(40, 2) {
        let w = Matrix::new(format.tensor_type, 40, cols, &bytes).unwrap();
        let x = numbers(5, cols);
        let all = product(SCALAR, Mode::Fast, &w, &x);
        assert_eq!(product(SCALAR, Mode::Fast, &w.row_range(7..33), &x), all[7..33]);
    }
}

#[test]
fn matrices_of_the_wrong_size_are_refused() {
    use llq_gguf::TensorType::{I8, Q8_0};

    use crate::MatrixError;
    let of = |tensor_type, rows, cols| Matrix::new(tensor_type, rows, cols, &[0; 68]).err();
    assert_eq!(of(Q8_0, 2, 32), None);
    assert_eq!(of(Q8_0, 2, 33), Some(MatrixError::Columns { tensor_type: Q8_0, cols: 33 }));
    let size = MatrixError::Size { tensor_type: Q8_0, rows: usize::MAX, cols: 64, bytes: 68 };
    assert_eq!(of(Q8_0, usize::MAX, 64), Some(size));
    assert_eq!(of(I8, 68, 1), Some(MatrixError::Format { tensor_type: I8 }));
}

#[test]
fn sizes_that_wrap_around_are_refused() {
    let big = usize::MAX / 2 + 1;
    let panics = |f: &dyn Fn()| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).expect_err("no panic")
    };
    panics(&|| _ = Rows::new(&[0.0; 8], 3, 2, big));
    let bytes = [0; 68];
    let w = Matrix::new(llq_gguf::TensorType::Q8_0, 2, 32, &bytes).unwrap();
    panics(&|| _ = w.row_range(big..big + 1));
    panics(&|| _ = w.row_range(1..3));
}

#[test]
fn attention_follows_its_definition_on_every_row() {
    for (positions, keys, heads, key, value) in
        [(1, 1, 1, 8, 8), (13, 13, 3, 48, 16), (5, 40, 8, 33, 12), (70, 70, 1, 64, 65)]
    {
        let (q_stride, k_stride) = (heads * key, 2 * key);
        let q = numbers(1, positions * q_stride);
        let (k, v) = (numbers(2, keys * k_stride), numbers(3, keys * value));
        let queries: Vec<Rows<'_>> =
            (0..heads).map(|head| Rows::new(&q[head * key..], positions, key, q_stride)).collect();
        let k = Rows::new(&k[key..], keys, key, k_stride);
        let v = Rows::new(&v, keys, value, value);
        let attend = |kernels: &Kernels| {
            let mut out = vec![f32::NAN; positions * heads * value];
            let mut scratch = AttentionScratch::default();
            for _ in 0..2 {
                causal_attention(kernels, &queries, k, v, &mut out, &mut scratch);
            }
            out
        };
        let expected = attend(SCALAR);
        for kernels in fast_rows() {
            assert_eq!(bits(&attend(kernels)), bits(&expected), "{}", kernels.isa());
        }
        for (row, out) in expected.chunks_exact(value).enumerate() {
            let (position, query) = (row / heads, &queries[row % heads]);
            let visible = position + 1 + keys - positions;
            let weights: Vec<f64> =
                (0..visible).map(|s| dot(query.row(position), k.row(s)).exp()).collect();
            for (c, &out) in out.iter().enumerate() {
                let mixed = weights.iter().enumerate().map(|(s, w)| w * f64::from(v.row(s)[c]));
                let mean = mixed.sum::<f64>() / weights.iter().sum::<f64>();
                assert!((f64::from(out) - mean).abs() < 2e-5, "{out} for {mean}");
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[test]
fn activations_filled_in_parts_give_the_same_products() {
    let tokens = 31;
    for (format, cols, bytes) in encoded(40, 2) {
        let w = Matrix::new(format.tensor_type, 40, cols, &bytes).unwrap();
        let x = numbers(7, tokens * cols);
        for mode in [Mode::Exact, Mode::Fast] {
            let mut activations = Activations::new(mode, &numbers(8, 600 * 40), 600);
            let parts = activations.parts(tokens, cols, &[&w]).into_iter();
            let values = x.chunks(Activations::PART_TOKENS * cols);
            parts.rev().zip(values.rev()).for_each(|(part, values)| part.fill(values));
            let mut out = vec![f32::NAN; 40 * tokens];
            crate::matmul(&w, &activations, &mut out, &mut Scratch::default());
            assert_eq!(bits(&out), bits(&product(selected(), mode, &w, &x)), "{}", format.name());
        }
    }
}

#[test]
fn vector_operations_have_the_oracle_s_bits() {
    for len in (0..70).chain([1000, 1024, 2500]) {
        let (x, y) = (numbers(len as u64, len), numbers(99, len));
        let all = |kernels: &Kernels| {
            let mut outs = vec![vec![0.0; len], x.clone(), y.clone(), y.clone()];
            kernels.exp_shifted(&x, 3.0, &mut outs[0]);
            kernels.softmax_in_place(&mut outs[1]);
            kernels.silu_mul(&x, &mut outs[2]);
            kernels.add_assign(&mut outs[3], &x);
            let mut normed = vec![0.0; len];
            kernels.rms_norm(&x, &y, 1e-5, &mut normed);
            kernels.scale_in_place(&mut normed, 0.3);
            outs.push(normed);
            outs.push(vec![kernels.max(&x)]);
            outs.iter().map(|out| bits(out)).collect::<Vec<_>>()
        };
        let expected = all(SCALAR);
        for kernels in fast_rows() {
            assert_eq!(all(kernels), expected, "{} over {len}", kernels.isa());
        }
    }
}

#[test]
fn exp_is_within_its_bound_of_f64() {
    let values: Vec<f32> = (-10_450_000..=8_900_000).map(|i| i as f32 * 1e-5).collect();
    let mut expected = vec![0.0; values.len()];
    SCALAR.exp_shifted(&values, 0.0, &mut expected);
    for kernels in available() {
        let mut powers = vec![0.0; values.len()];
        kernels.exp_shifted(&values, 0.0, &mut powers);
        assert!(powers == expected, "{} differs from the oracle", kernels.isa());
        let mut worst = 0.0f64;
        for (&x, &power) in values.iter().zip(&powers) {
            let exact = f64::from(x).exp();
            if exact >= f64::from(f32::MAX) * (1.0 + 1e-7) {
                assert_eq!(power, f32::INFINITY, "e^{x}");
                continue;
            }
            let nearest = (exact as f32).max(f32::MIN_POSITIVE);
            let unit = f64::from(f32::from_bits(nearest.to_bits() & 0x7f80_0000)) * 2f64.powi(-23);
            worst = worst.max((f64::from(power) - exact).abs() / unit);
        }
        assert!(worst <= 1.1, "{}: {worst} units in the last place", kernels.isa());
    }
}

#[test]
fn exp_at_the_ends() {
    for kernels in available() {
        let values = [f32::NEG_INFINITY, -1e30, -104.5, 0.0, 88.73, 1e30, f32::INFINITY, f32::NAN];
        let mut powers = [0.0; 8];
        kernels.exp_shifted(&values, 0.0, &mut powers);
        assert_eq!(powers[..7], [0.0, 0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY]);
        assert!(powers[7].is_nan());
    }
}

#[test]
fn softmax_and_norm_are_near_f64() {
    let (x, weight) = (numbers(4, 333), numbers(5, 333));
    let mut soft = x.clone();
    SCALAR.softmax_in_place(&mut soft);
    let sum: f64 = x.iter().map(|&v| f64::from(v).exp()).sum();
    let mut normed = vec![0.0; 333];
    SCALAR.rms_norm(&x, &weight, 1e-5, &mut normed);
    let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 333.0;
    for i in 0..333 {
        let expected = f64::from(x[i]).exp() / sum;
        assert!((f64::from(soft[i]) - expected).abs() <= 4e-6 * expected);
        let expected = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
        assert!((f64::from(normed[i]) - expected).abs() <= 1e-6 * expected.abs());
    }
}

#[test]
fn argmax_takes_the_first_of_equals() {
    for kernels in available() {
        assert_eq!(kernels.argmax(&[1.0, 3.0, 3.0, 2.0]), Some(1));
        assert_eq!(kernels.argmax(&[]), None);
    }
}

struct WidenEach<'a> {
    halves: &'a [[u8; 2]],
    out: &'a mut [f32],
}

impl Work for WidenEach<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (&half, out) in self.halves.iter().zip(self.out) {
            *out = simd.widen_half(bytemuck::cast(half));
        }
    }
}

#[test]
fn all_halves_widen_on_every_row() {
    let halves: Vec<[u8; 2]> = (0..=u16::MAX).map(u16::to_le_bytes).collect();
    for kernels in available() {
        let mut out = vec![0.0; halves.len()];
        let f16 = crate::format(llq_gguf::TensorType::F16).unwrap();
        f16.dequantize_with(kernels, halves.as_flattened(), &mut out).unwrap();
        let mut one_by_one = vec![0.0; halves.len()];
        kernels.run(WidenEach { halves: &halves, out: &mut one_by_one });
        for (half, out) in halves.iter().chain(&halves).zip(out.into_iter().chain(one_by_one)) {
            let expected = half::f16::from_le_bytes(*half).to_f32();
            assert!(out.to_bits() == expected.to_bits() || out.is_nan() && expected.is_nan());
        }
    }
}

#[test]
fn the_variable_selects_a_row_or_says_why_not() {
    use isa::select_named;
    assert_eq!(select_named(Some("scalar")).unwrap().isa(), Isa::Scalar);
    let fastest = available().next_back().unwrap().isa();
    assert_eq!(select_named(None).unwrap().isa(), fastest);
    assert_eq!(select_named(Some("")).unwrap().isa(), fastest);
    let unknown = select_named(Some("sse9")).unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "LLQ_ISA is 'sse9', expected one of: scalar, avx2, avx512, neon, dotprod"
    );
    for &isa in Isa::ALL {
        match select_named(Some(isa.name())) {
            Ok(kernels) => assert_eq!(kernels.isa(), isa),
            Err(error) => assert_eq!(error, IsaError::Missing { isa }),
        }
    }
}

/// Without this, tests for a row that the machine lacks would pass on another.
#[test]
fn the_row_these_tests_ask_for_is_used() {
    let kernels = select().unwrap();
    if let Some(name) = std::env::var_os(ISA_VARIABLE).filter(|name| !name.is_empty()) {
        let asked: Isa = name.to_string_lossy().parse().unwrap();
        assert_eq!(asked, kernels.isa());
    }
}

/// That a row's code is sound rests on this: it is compiled for features that are looked for.
#[test]
fn what_is_enabled_is_detected() {
    let avx2 = [include_str!("avx2.rs"), include_str!("avx2/code_tile.rs")];
    let mut lists = Vec::new();
    for source in avx2 {
        lists.extend(enabled(source).map(|(list, _)| (Isa::Avx2, list)));
    }
    lists.extend(enabled(include_str!("avx512.rs")).map(|(list, _)| (Isa::Avx512, list)));
    lists.extend(enabled(include_str!("neon.rs")).map(
        |(list, _)| match list.contains("dotprod") {
            true => (Isa::Dotprod, list),
            false => (Isa::Neon, list),
        },
    ));
    lists.extend(enabled(include_str!("work.rs")).map(|(list, rest)| {
        let name = rest.split_once("fn ").and_then(|(_, name)| name.split_once('(')).unwrap().0;
        (name.parse().expect("the function is named for its row"), list)
    }));
    assert_eq!(lists.len(), 11);
    for (isa, list) in lists {
        for feature in list.split(',') {
            assert!(isa.features().contains(&feature), "{isa} does not look for {feature}");
        }
    }
}

/// The lists of features in a source, each with what follows it.
fn enabled(source: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    source.split("enable = \"").skip(1).map(|rest| rest.split_once('"').unwrap_or((rest, "")))
}

/// Sums of products come nearest to the end of their integers where all codes and activations are
/// extreme, which no encoder makes of random numbers.
#[test]
fn extreme_codes_by_extreme_activations_have_the_oracle_s_bits() {
    const ROWS: usize = 3;
    for format in FORMATS.iter().filter(|format| format.blocks.is_some()) {
        let cols = 512;
        let w_type = format.tensor_type;
        let block_bytes = w_type.block_bytes();
        // The high byte of a half that is infinite makes a block one that no encoder writes.
        let halves: Vec<usize> = (1..block_bytes)
            .filter(|&high| {
                let mut block = vec![0; block_bytes];
                block[high] = 0x7c;
                format.validate(&block).is_err()
            })
            .collect();
        assert!(!halves.is_empty(), "{format:?}");
        for fill in [0x00, 0xff, 0x80, 0x7f, 0x55] {
            let mut block = vec![fill; block_bytes];
            for &high in &halves {
                block[high - 1..=high].copy_from_slice(&half::f16::ONE.to_le_bytes());
            }
            let bytes = block.repeat(ROWS * cols / w_type.block_weights());
            let w = Matrix::new(w_type, ROWS, cols, &bytes).unwrap();
            let signs: [fn(usize) -> f32; 4] = [
                |_| 1.0,
                |_| -1.0,
                |i| if i % 2 == 0 { 1.0 } else { -1.0 },
                |i| if i % 4 < 2 { 1.0 } else { -1.0 },
            ];
            for (pattern, sign) in signs.iter().enumerate() {
                let x: Vec<f32> = (0..cols).map(sign).collect();
                let expected = product(SCALAR, Mode::Fast, &w, &x);
                let mut expected_one = vec![0.0; ROWS];
                gemv_with(SCALAR, &w, &Vector::with(SCALAR, Mode::Fast, &x), &mut expected_one);
                for kernels in fast_rows() {
                    let what = format!("{} {} {fill:#x} {pattern}", kernels.isa(), format.name());
                    let found = product(kernels, Mode::Fast, &w, &x);
                    assert_eq!(bits(&found), bits(&expected), "{what}");
                    let mut one = vec![0.0; ROWS];
                    gemv_with(kernels, &w, &Vector::with(kernels, Mode::Fast, &x), &mut one);
                    assert_eq!(bits(&one), bits(&expected_one), "{what}, one token");
                }
            }
        }
    }
}

#[test]
fn a_read_burst_reads_every_value() {
    for len in [0, 1, 15, 16, 63, 64, 65, 1000] {
        let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
        let expected = (0..len).sum::<usize>() as f32;
        for kernels in available() {
            assert_eq!(kernels.read_burst(&values), expected, "{len} by {}", kernels.isa());
        }
    }
}
