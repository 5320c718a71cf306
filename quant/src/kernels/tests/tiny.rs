//! Every operation of every row once, at the smallest shapes that reach each of its loops: for
//! interpreters and instruments, in which what the other tests do takes hours (`.ci/miri`,
//! `.ci/memcheck`).

use super::*;
use crate::{Effort, Encoding, FormatInfo};

/// None, some of a vector, a vector, one and one more.
const LENGTHS: [usize; 6] = [0, 1, 15, 16, 17, 33];

#[test]
fn products() {
    // One row of a panel and one more, a token of a tile and one more.
    for (rows, tokens) in [(1, 1), (PANEL_ROWS + 1, 1), (PANEL_ROWS + 1, TILE_TOKENS + 1)] {
        for (format, cols, bytes) in encoded(rows, 1) {
            let w = Matrix::new(format.tensor_type, rows, cols, &bytes).unwrap();
            let x = numbers(7, tokens * cols);
            for mode in [Mode::Exact, Mode::Fast] {
                let expected = bits(&product(SCALAR, mode, &w, &x));
                for kernels in fast_rows() {
                    let what = (format.name(), mode, kernels.isa(), rows, tokens);
                    assert_eq!(bits(&product(kernels, mode, &w, &x)), expected, "{what:?}");
                }
                if tokens == 1 {
                    let expected = bits(&one_token(SCALAR, mode, &w, &x));
                    for kernels in fast_rows() {
                        let what = (format.name(), mode, kernels.isa(), rows);
                        let found = bits(&one_token(kernels, mode, &w, &x));
                        assert_eq!(found, expected, "one token: {what:?}");
                    }
                }
            }
        }
    }
}

fn one_token(kernels: &Kernels, mode: Mode, w: &Matrix<'_>, x: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; w.rows()];
    gemv_with(kernels, w, &Vector::with(kernels, mode, x), &mut out);
    out
}

#[test]
fn vectors() {
    for len in LENGTHS {
        let (x, y) = (numbers(len as u64, len), numbers(99, len));
        let halves: Vec<[u8; 2]> =
            x.iter().map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
        let all = |kernels: &Kernels| {
            let mut outs = vec![vec![0.0; len], x.clone(), y.clone(), y.clone(), vec![0.0; len]];
            kernels.exp_shifted(&x, 3.0, &mut outs[0]);
            kernels.softmax_in_place(&mut outs[1]);
            kernels.silu_mul(&x, &mut outs[2]);
            kernels.add_assign(&mut outs[3], &x);
            kernels.rms_norm(&x, &y, 1e-5, &mut outs[4]);
            kernels.scale_in_place(&mut outs[4], 0.3);
            outs.push(vec![kernels.max(&x), kernels.read_burst(&x)]);
            let largest = (kernels.largest_magnitude(&x), kernels.largest_magnitude_16(&halves));
            (outs.iter().map(|out| bits(out)).collect::<Vec<_>>(), largest)
        };
        let expected = all(SCALAR);
        for kernels in fast_rows() {
            assert_eq!(all(kernels), expected, "{} over {len}", kernels.isa());
        }
    }
}

#[test]
fn attention() {
    let (positions, keys, heads, key, value) = (3, 5, 2, 9, 7);
    let (q, k, v) =
        (numbers(1, positions * heads * key), numbers(2, keys * key), numbers(3, keys * value));
    let queries: Vec<Rows<'_>> =
        (0..heads).map(|head| Rows::new(&q[head * key..], positions, key, heads * key)).collect();
    let (k, v) = (Rows::new(&k, keys, key, key), Rows::new(&v, keys, value, value));
    let attend = |kernels: &Kernels| {
        let mut out = vec![f32::NAN; positions * heads * value];
        causal_attention(kernels, &queries, k, v, &mut out, &mut AttentionScratch::default());
        bits(&out)
    };
    for kernels in fast_rows() {
        assert_eq!(attend(kernels), attend(SCALAR), "{}", kernels.isa());
    }
}

#[test]
fn encoders_and_decoders() {
    for format in FORMATS {
        let block = format.tensor_type.block_weights();
        let cols = if block == 1 { LENGTHS[5] } else { block };
        let row = numbers(5, cols);
        let importance: Vec<f32> = numbers(6, cols).iter().map(|q| q * q).collect();
        for effort in [Effort::Fast, Effort::Default] {
            let encoding = Encoding { importance: Some(&importance), effort };
            let expected = both_ways(SCALAR, format, &row, encoding);
            for kernels in fast_rows() {
                let what = (format.name(), effort, kernels.isa());
                assert!(both_ways(kernels, format, &row, encoding) == expected, "{what:?}");
            }
        }
    }
}

/// A row's bytes, and the bits of what they decode to.
fn both_ways(
    kernels: &Kernels,
    format: &FormatInfo,
    row: &[f32],
    encoding: Encoding<'_>,
) -> (Vec<u8>, Vec<u32>) {
    let mut bytes = vec![0; format.tensor_type.row_bytes(row.len() as u64).unwrap() as usize];
    let mut decoded = vec![0.0; row.len()];
    format.encode_row_with(kernels, row, encoding, &mut bytes).unwrap();
    format.dequantize_with(kernels, &bytes, &mut decoded).unwrap();
    (bytes, bits(&decoded))
}
