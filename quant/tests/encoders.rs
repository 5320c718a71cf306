//! What every encoder keeps to, whatever it is given.

#![allow(clippy::unwrap_used)] // a test may

use llq_quant::{
    Decoded, Effort, Encoding, FORMATS, FormatInfo,
    kernels::{Isa, Kernels, available, selected},
};
use proptest::prelude::*;

const ROW: usize = 512;

const EFFORTS: [Effort; 3] = [Effort::Fast, Effort::Default, Effort::Best];

fn block_formats() -> impl Iterator<Item = &'static FormatInfo> {
    FORMATS.iter().copied().filter(|format| format.blocks.is_some())
}

fn encode(format: &FormatInfo, row: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    encode_over(0xa5, format, row, importance)
}

fn encode_with(
    kernels: &Kernels,
    format: &FormatInfo,
    row: &[f32],
    encoding: Encoding<'_>,
) -> Vec<u8> {
    let mut encoded = vec![0; format.tensor_type.row_bytes(row.len() as u64).unwrap() as usize];
    format.encode_row_with(kernels, row, encoding, &mut encoded).unwrap();
    format.validate(&encoded).unwrap_or_else(|e| panic!("{}: {e}", format.tensor_type));
    encoded
}

/// Mostly weights as models have them; any other number too.
fn any_bits() -> impl Strategy<Value = f32> {
    prop_oneof![
        200 => -1.0f32..1.0,
        4 => (-1.0f32..1.0, -149i32..128).prop_map(|(w, exponent)| w * 2.0f32.powi(exponent)),
        1 => any::<u32>().prop_map(f32::from_bits),
    ]
}

/// Encodes into bytes that were all `before`.
fn encode_over(
    before: u8,
    format: &FormatInfo,
    row: &[f32],
    importance: Option<&[f32]>,
) -> Vec<u8> {
    let bytes = format.tensor_type.row_bytes(row.len() as u64).unwrap() as usize;
    let mut encoded = vec![before; bytes];
    format.encode_row(row, Encoding::weighted(importance), &mut encoded).unwrap();
    format.validate(&encoded).unwrap_or_else(|e| panic!("{}: {e}", format.tensor_type));
    encoded
}

fn decode(format: &FormatInfo, encoded: &[u8], weights: usize) -> Vec<f32> {
    let mut decoded = vec![0.0; weights];
    format.dequantize(encoded, &mut decoded).unwrap();
    decoded
}

fn squared_error(weights: &[f32], decoded: &[f32], importance: impl Fn(usize) -> f64) -> f64 {
    let off = |i: usize| f64::from(decoded[i]) - f64::from(weights[i]);
    (0..weights.len()).map(|i| importance(i) * off(i) * off(i)).sum()
}

/// Numbers between -1 and 1 from a fixed generator, cubed to give them a heavy tail.
fn heavy_tailed(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next().powi(3)).collect()
}

#[test]
fn no_row_makes_an_encoder_write_a_scale_that_is_not_finite() {
    let at = |i: usize, value: f32| {
        let mut row = heavy_tailed(1, ROW);
        row[i] = value;
        row
    };
    let mut rows = vec![vec![0.0; ROW], vec![-0.0; ROW], at(3, 1e9), at(300, -1e9), at(511, 1e38)];
    rows.extend([1.0, -1.0, 1e-30, -1e-30, 1e30, -1e30, 1e-7, 65504.0].map(|c| vec![c; ROW]));
    rows.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(|v| vec![v; ROW]));
    rows.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX].map(|v| at(7, v)));
    rows.extend(
        [1e-40, 1e-30, 1e-8, 1e6, 1e30, 1e38]
            .map(|scale| heavy_tailed(2, ROW).iter().map(|w| w * scale).collect::<Vec<f32>>()),
    );
    let importances = [0.0, 1.0, -1.0, 1e-38, 1e38, f32::NAN, f32::INFINITY].map(|q| vec![q; ROW]);
    for format in block_formats() {
        for row in &rows {
            let importances = importances.iter().map(|importance| Some(&importance[..]));
            for importance in importances.chain([None]) {
                for effort in EFFORTS {
                    encode_with(selected(), format, row, Encoding { importance, effort });
                }
            }
        }
    }
}

#[test]
fn importance_that_is_zero_throughout_is_none() {
    let row = heavy_tailed(3, ROW);
    for format in block_formats() {
        let name = format.tensor_type;
        assert_eq!(encode(format, &row, Some(&[0.0; ROW])), encode(format, &row, None), "{name}");
    }
}

#[test]
fn constant_rows_come_back() {
    for format in block_formats() {
        for constant in [0.0, 0.5, -0.5, 0.011, -37.0] {
            let row = [constant; ROW];
            for found in decode(format, &encode(format, &row, None), ROW) {
                let off = (found - constant).abs();
                assert!(off <= 4e-3 * constant.abs(), "{}: {constant} {found}", format.tensor_type);
            }
        }
    }
}

#[test]
fn importance_lowers_the_error_that_it_weighs() {
    let row = heavy_tailed(4, 16 * ROW);
    let importance: Vec<f32> = heavy_tailed(5, 16 * ROW).iter().map(|q| 0.01 + q * q).collect();
    for format in block_formats().filter(|f| f.tensor_type.name() != "Q8_0") {
        let weighted = |importance: Option<&[f32]>, weighing: &[f32]| {
            let decoded = decode(format, &encode(format, &row, importance), row.len());
            squared_error(&row, &decoded, |i| f64::from(weighing[i]))
        };
        let (with, without) =
            (weighted(Some(&importance), &importance), weighted(None, &importance));
        assert!(with < 0.97 * without, "{}: {with} >= {without}", format.tensor_type);
    }
}

/// Rounding to the nearest code is off by a third of a step in the mean (`1 / √12`); half a step
/// leaves room for weights that a search cuts off.
#[test]
fn errors_are_within_half_a_step() {
    let row = heavy_tailed(6, 16 * ROW);
    for format in block_formats() {
        let encoded = encode(format, &row, None);
        let decoded = decode(format, &encoded, row.len());
        let found = squared_error(&row, &decoded, |_| 1.0);
        let bound = half_steps_squared(format, &encoded);
        assert!(found < bound, "{}: {found} >= {bound}", format.tensor_type);
    }
}

fn half_steps_squared(format: &FormatInfo, encoded: &[u8]) -> f64 {
    let block = format.blocks.as_ref().unwrap();
    let groups = format.tensor_type.block_weights() / block.group;
    let mut decoded = Decoded::ZERO;
    let mut sum = 0.0;
    for bytes in encoded.chunks_exact(format.tensor_type.block_bytes()) {
        block.decode(bytes, &mut decoded);
        let steps = decoded.scales[..groups].iter();
        sum += steps.map(|&s| (f64::from(s) / 2.0).powi(2) * block.group as f64).sum::<f64>();
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_there_before_does_not_matter(
        row in prop::collection::vec(-1.0f32..1.0, ROW),
        importance in prop::collection::vec(0.0f32..1.0, ROW),
    ) {
        for format in block_formats() {
            for importance in [None, Some(&importance[..])] {
                let [zeros, ones] = [0, 0xff].map(|b| encode_over(b, format, &row, importance));
                prop_assert_eq!(zeros, ones, "{}", format.tensor_type);
            }
        }
    }

    #[test]
    fn blocks_do_not_depend_on_their_neighbours(
        row in prop::collection::vec(-1.0f32..1.0, ROW),
        shrink in 0.0f32..1.0,
    ) {
        let mut other = row.clone();
        other[..ROW / 2].iter_mut().for_each(|w| *w *= shrink);
        for format in block_formats() {
            let (first, second) = (encode(format, &row, None), encode(format, &other, None));
            prop_assert_eq!(&first[first.len() / 2..], &second[first.len() / 2..]);
        }
    }

    /// Searches take super-blocks in pairs: the last of an odd number has none beside it.
    #[test]
    fn super_blocks_are_encoded_by_themselves(
        row in prop::collection::vec(-1.0f32..1.0, 3 * 256),
        importance in prop::collection::vec(0.0f32..1.0, 3 * 256),
    ) {
        for format in block_formats().filter(|f| f.tensor_type.block_weights() == 256) {
            for importance in [None, Some(&importance[..])] {
                let alone = row.chunks(256).enumerate().flat_map(|(i, row)| {
                    encode(format, row, importance.map(|q| &q[256 * i..][..256]))
                });
                let together = encode(format, &row, importance);
                prop_assert_eq!(together, alone.collect::<Vec<u8>>(), "{}", format.tensor_type);
            }
        }
    }

    #[test]
    fn every_instruction_set_writes_the_same_bits_of_anything(
        weights in prop::collection::vec(any_bits(), 7 * 256),
        importance in prop::collection::vec(any_bits(), 7 * 256),
        super_blocks in 1usize..=7,
        short in 0usize..8,
    ) {
        for format in block_formats() {
            let len = match format.tensor_type.block_weights() {
                256 => 256 * super_blocks,
                block => 256 * super_blocks - block * short,
            };
            for importance in [None, Some(&importance[..len])] {
                for effort in EFFORTS {
                    let encoding = Encoding { importance, effort };
                    let encode = |kernels| encode_with(kernels, format, &weights[..len], encoding);
                    let oracle = encode(Kernels::for_isa(Isa::Scalar).unwrap());
                    for kernels in available() {
                        let by = (format.name(), kernels.isa(), effort);
                        prop_assert!(encode(kernels) == oracle, "{by:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn encoding_again_drifts_less_than_encoding_did(
        row in prop::collection::vec(-1.0f32..1.0, ROW),
        exponent in -12i32..8,
    ) {
        let row: Vec<f32> = row.iter().map(|w| w * 2.0f32.powi(exponent)).collect();
        for format in block_formats() {
            let once = decode(format, &encode(format, &row, None), ROW);
            let twice = decode(format, &encode(format, &once, None), ROW);
            let lost = squared_error(&row, &once, |_| 1.0);
            let drift = squared_error(&once, &twice, |_| 1.0);
            prop_assert!(drift <= lost, "{}: {} > {}", format.tensor_type, drift, lost);
        }
    }

    /// Without a minimum and a search, the largest weight says what the scale was. Plain formats keep
    /// every value that they have (`plain_formats.rs`); a search may settle on other scales (the test
    /// above).
    #[test]
    fn decoded_weights_are_a_fixed_point_where_blocks_are_symmetric(
        row in prop::collection::vec(-1.0f32..1.0, ROW),
        exponent in -12i32..8,
    ) {
        let row: Vec<f32> = row.iter().map(|w| w * 2.0f32.powi(exponent)).collect();
        let is_symmetric = |format: &&FormatInfo| ["Q4_0", "Q5_0", "Q8_0"].contains(&format.name());
        for format in block_formats().filter(is_symmetric) {
            let encoding = Encoding { importance: None, effort: Effort::Fast };
            let once = decode(format, &encode_with(selected(), format, &row, encoding), ROW);
            let twice = decode(format, &encode_with(selected(), format, &once, encoding), ROW);
            prop_assert_eq!(once, twice, "{}", format.name());
        }
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 210 * 2)) {
        for format in block_formats() {
            let block = format.tensor_type.block_bytes();
            let whole = &bytes[..bytes.len() / block * block];
            let weights = whole.len() / block * format.tensor_type.block_weights();
            let decoded = decode(format, whole, weights);
            if format.validate(whole).is_ok() {
                prop_assert!(decoded.iter().all(|w| w.is_finite()), "{}", format.tensor_type);
            }
        }
    }
}

#[test]
fn every_instruction_set_writes_and_reads_the_same_bits() {
    let mut rows: Vec<Vec<f32>> = [1e-30, 1e-3, 1.0, 1e6]
        .iter()
        .flat_map(|scale| (3..6).map(move |seed| (seed, *scale)))
        .map(|(seed, scale)| heavy_tailed(seed, ROW).iter().map(|w| w * scale).collect())
        .collect();
    rows.push([f32::NAN, f32::INFINITY, -1.0, 1e-40].repeat(ROW / 4));
    let importance: Vec<f32> = heavy_tailed(6, ROW).iter().map(|q| q * q).collect();
    let oracle = Kernels::for_isa(Isa::Scalar).unwrap();
    for format in FORMATS {
        let bytes = format.tensor_type.row_bytes(ROW as u64).unwrap() as usize;
        for row in &rows {
            for importance in [None, Some(importance.as_slice())] {
                let run = |kernels: &Kernels| {
                    let (mut encoded, mut decoded) = (vec![0; bytes], vec![0.0; ROW]);
                    let encoding = Encoding::weighted(importance);
                    format.encode_row_with(kernels, row, encoding, &mut encoded).unwrap();
                    format.dequantize_with(kernels, &encoded, &mut decoded).unwrap();
                    (encoded, decoded.iter().map(|w| w.to_bits()).collect::<Vec<u32>>())
                };
                for kernels in available() {
                    assert!(run(kernels) == run(oracle), "{} by {}", format.name(), kernels.isa());
                }
            }
        }
    }
}
