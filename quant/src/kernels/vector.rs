//! Operations over rows of f32, for any instruction set.
//!
//! A reduction runs in sixteen lanes, lane `i` over the elements `i`, `i + 16`, …, and folds them
//! by one tree: halves onto halves.

use super::simd::{ACTIVATION_GROUP, LANES, Lanes, Simd};

/// Adding and subtracting it rounds a number below 2^22 to a whole one, ties to even.
const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23

#[inline(always)]
pub(crate) fn exp_shifted<S: Simd>(simd: S, values: &[f32], shift: f32, out: &mut [f32]) {
    let shift = simd.splat(shift);
    zip_map(
        simd,
        values,
        out,
        #[inline(always)]
        |v, _| exp_lanes(simd, simd.sub(v, shift)),
    );
}

#[inline(always)]
pub(crate) fn max<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let lanes = fold(
        simd,
        values,
        f32::NEG_INFINITY,
        f32::NEG_INFINITY,
        #[inline(always)]
        |m, v| simd.max(v, m),
    );
    tree(lanes, |a, b| if b > a { b } else { a })
}

#[inline(always)]
pub(crate) fn rms_norm<S: Simd>(simd: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len());
    let mean = sum_of_squares(simd, x) / x.len() as f32;
    let scale = simd.splat(1.0 / (mean + eps).sqrt());
    zip_map(
        simd,
        x,
        out,
        #[inline(always)]
        |v, _| simd.mul(v, scale),
    );
    zip_map(
        simd,
        weight,
        out,
        #[inline(always)]
        |w, v| simd.mul(v, w),
    );
}

#[inline(always)]
pub(crate) fn softmax_in_place<S: Simd>(simd: S, row: &mut [f32]) {
    let largest = simd.splat(max(simd, row));
    map(
        simd,
        row,
        #[inline(always)]
        |v| exp_lanes(simd, simd.sub(v, largest)),
    );
    scale_in_place(simd, row, 1.0 / sum(simd, row));
}

#[inline(always)]
pub(crate) fn exp_columns<S: Simd>(simd: S, rows: &mut [[Lanes; 2]], totals: &mut [Lanes; 2]) {
    let mut largest = [simd.splat(f32::NEG_INFINITY); 2];
    for row in rows.iter() {
        for (values, largest) in row.iter().zip(&mut largest) {
            *largest = simd.max(simd.load(&values.0), *largest);
        }
    }
    let mut sums = [simd.splat(0.0); 2];
    for row in rows {
        for (half, values) in row.iter_mut().enumerate() {
            let power = exp_lanes(simd, simd.sub(simd.load(&values.0), largest[half]));
            sums[half] = simd.add(sums[half], power);
            simd.store(power, &mut values.0);
        }
    }
    for (sum, total) in sums.into_iter().zip(totals) {
        simd.store(sum, &mut total.0);
    }
}

#[inline(always)]
pub(crate) fn sum<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let lanes = fold(
        simd,
        values,
        0.0,
        0.0,
        #[inline(always)]
        |sum, v| simd.add(sum, v),
    );
    tree(lanes, |a, b| a + b)
}

#[inline(always)]
pub(crate) fn sum_of_squares<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let lanes = fold(
        simd,
        values,
        0.0,
        0.0,
        #[inline(always)]
        |sum, v| simd.mul_add(v, v, sum),
    );
    tree(lanes, |a, b| a + b)
}

#[inline(always)]
pub(crate) fn scale_in_place<S: Simd>(simd: S, values: &mut [f32], factor: f32) {
    let factor = simd.splat(factor);
    map(
        simd,
        values,
        #[inline(always)]
        |v| simd.mul(v, factor),
    );
}

#[inline(always)]
pub(crate) fn silu_mul<S: Simd>(simd: S, gate: &[f32], up: &mut [f32]) {
    let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
    zip_map(
        simd,
        gate,
        up,
        #[inline(always)]
        |g, u| {
            let silu = simd.div(g, simd.add(one, exp_lanes(simd, simd.sub(zero, g))));
            simd.mul(silu, u)
        },
    );
}

#[inline(always)]
pub(crate) fn add_assign<S: Simd>(simd: S, sum: &mut [f32], values: &[f32]) {
    zip_map(
        simd,
        values,
        sum,
        #[inline(always)]
        |v, s| simd.add(s, v),
    );
}

/// Quantizes a row of whole groups: its codes and a scale per group.
#[inline(always)]
pub(crate) fn quantize_row<S: Simd>(simd: S, values: &[f32], codes: &mut [i8], scales: &mut [f32]) {
    let (groups, _) = values.as_chunks::<ACTIVATION_GROUP>();
    let (codes, _) = codes.as_chunks_mut::<ACTIVATION_GROUP>();
    assert!(groups.len() == codes.len() && groups.len() == scales.len());
    for ((values, codes), scale) in groups.iter().zip(codes).zip(scales) {
        *scale = quantize_group(simd, values, codes);
    }
}

#[inline(always)]
fn quantize_group<S: Simd>(
    simd: S,
    values: &[f32; ACTIVATION_GROUP],
    codes: &mut [i8; ACTIVATION_GROUP],
) -> f32 {
    // The bits of magnitudes are ordered as they are, infinity and then NaN at the top.
    let largest = values.iter().fold(0, |m, v| (v.to_bits() & !(1 << 31)).max(m));
    let largest = f32::from_bits(largest);
    let inverse = 127.0 / largest;
    if !(largest.is_finite() && inverse.is_finite()) {
        *codes = [0; ACTIVATION_GROUP];
        return if largest.is_finite() { 0.0 } else { f32::NAN };
    }
    let (inverse, rounder) = (simd.splat(inverse), simd.splat(ROUNDER));
    for (values, codes) in values.as_chunks().0.iter().zip(codes.as_chunks_mut::<LANES>().0) {
        let mut rounded = [0.0f32; LANES];
        simd.store(simd.add(simd.mul(simd.load(values), inverse), rounder), &mut rounded);
        *codes = rounded.map(|r| r.to_bits() as i8);
    }
    largest / 127.0
}

/// e^x within 1.1 units in the last place: infinite above 88.73, zero below -103.97, NaN for NaN.
///
/// x = n ln 2 + r with a whole n and |r| <= ln 2 / 2; e^r by the polynomial of Cephes' `expf`
/// (Moshier), 2^n by the exponent.
#[inline(always)]
fn exp_lanes<S: Simd>(simd: S, x: S::F) -> S::F {
    const LN_2_HIGH: f32 = 0.693_359_4; // 355 / 512
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    // NaN passes both, as they return their second operand when the comparison fails.
    let x = simd.min(simd.splat(89.0), simd.max(simd.splat(-104.0), x));
    let rounder = simd.splat(ROUNDER);
    let n = simd.sub(simd.mul_add(x, simd.splat(std::f32::consts::LOG2_E), rounder), rounder);
    let r = simd.mul_add(n, simd.splat(-LN_2_HIGH), x);
    let r = simd.mul_add(n, simd.splat(-LN_2_LOW), r);
    let mut p = simd.splat(COEFFICIENTS[0]);
    for &coefficient in &COEFFICIENTS[1..] {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    let p = simd.add(simd.mul_add(p, simd.mul(r, r), r), simd.splat(1.0));
    simd.scale_by_power(p, n)
}

/// `f` over all elements.
#[inline(always)]
fn map<S: Simd>(simd: S, values: &mut [f32], f: impl Fn(S::F) -> S::F) {
    let (vectors, rest) = values.as_chunks_mut::<LANES>();
    for vector in vectors {
        simd.store(f(simd.load(vector)), vector);
    }
    let mut padded = pad(rest, 0.0);
    simd.store(f(simd.load(&padded)), &mut padded);
    rest.copy_from_slice(&padded[..rest.len()]);
}

/// `out = f(values, out)` over all elements.
#[inline(always)]
fn zip_map<S: Simd>(simd: S, values: &[f32], out: &mut [f32], f: impl Fn(S::F, S::F) -> S::F) {
    assert_eq!(values.len(), out.len());
    let (vectors, vectors_rest) = values.as_chunks::<LANES>();
    let (out, out_rest) = out.as_chunks_mut::<LANES>();
    for (vector, out) in vectors.iter().zip(out) {
        simd.store(f(simd.load(vector), simd.load(out)), out);
    }
    let mut padded = pad(out_rest, 0.0);
    let rest = f(simd.load(&pad(vectors_rest, 0.0)), simd.load(&padded));
    simd.store(rest, &mut padded);
    out_rest.copy_from_slice(&padded[..out_rest.len()]);
}

/// Folds the elements into sixteen lanes that start at `first`; `padding` must not change a lane.
#[inline(always)]
fn fold<S: Simd>(
    simd: S,
    values: &[f32],
    padding: f32,
    first: f32,
    f: impl Fn(S::F, S::F) -> S::F,
) -> [f32; LANES] {
    let (vectors, rest) = values.as_chunks::<LANES>();
    let mut lanes = simd.splat(first);
    for vector in vectors {
        lanes = f(lanes, simd.load(vector));
    }
    if !rest.is_empty() {
        lanes = f(lanes, simd.load(&pad(rest, padding)));
    }
    let mut out = [0.0; LANES];
    simd.store(lanes, &mut out);
    out
}

/// The fixed tree: lane i takes lane i + 8, then i + 4, i + 2, i + 1.
#[inline(always)]
pub(crate) fn tree(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn pad(rest: &[f32], padding: f32) -> [f32; LANES] {
    let mut padded = [padding; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    padded
}
