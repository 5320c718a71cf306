//! From the moments of a matrix's inputs to its rounded rows.

use llq_gguf::TensorType;
use llq_quant::{Curvature, Encoding, FormatInfo, Rounding, format, round_matrix};
use rayon::prelude::*;

use super::{
    Use,
    dense::{Dense, product},
    moments::{Moments, accumulate, cross},
};

/// What is added to the diagonals of moments, as shares of their means. On the fixture, a third of
/// either of the first two gives 2 to 4 % more divergence.
const INPUT_DAMPING: f64 = 0.01;
const OUTPUT_DAMPING: f64 = 0.3;
const LOOKUP_DAMPING: f64 = 0.1;

/// How many times each row is taken up again beside the others. Twice as many gain nothing.
const PASSES: usize = 3;

/// How a tensor was rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Plainly: on the windows that judge, calibration was not better.
    Plain = 0,
    Calibrated = 1,
    /// Plainly, as there is nothing to choose or nothing to choose by.
    Unjudged = 2,
}

impl Outcome {
    pub(super) fn of_byte(byte: u8) -> Option<Outcome> {
        [Outcome::Plain, Outcome::Calibrated, Outcome::Unjudged]
            .into_iter()
            .find(|&outcome| outcome as u8 == byte)
    }
}

/// What is summed over tokens of the inputs `x` of a matrix and `x~`, the same behind rounded
/// matrices, and of the streams `s` and `s~`.
struct Sums {
    /// `Σ x~ x~ᵀ`
    rounded: Moments,
    /// `Σ x~ xᵀ`
    cross: Moments,
    /// `Σ (s - s~) x~ᵀ`, for matrices whose product is added to the stream: they make up for what
    /// it lost.
    drift: Vec<f64>,
    tokens: usize,
}

/// Sums to fit with and sums to judge by.
pub(super) struct Inputs {
    fitting: Sums,
    judging: Sums,
}

impl Sums {
    fn zero(cols: usize, rows: usize) -> Sums {
        Sums {
            rounded: Moments::zero(cols),
            cross: Moments::zero(cols),
            drift: vec![0.0; rows * cols],
            tokens: 0,
        }
    }

    /// `W (C - H~) + D`: what the wanted product misses in the rounded stream, times its inputs.
    fn shortfall(&self, weights: &Dense) -> Vec<f32> {
        let pairs = self.cross.sums.iter().zip(&self.rounded.sums);
        let gap = pairs.map(|(cross, rounded)| (cross - rounded) as f32).collect();
        let mut shortfall =
            product(&Dense::new(weights.cols, weights.cols, gap).matrix(), &weights.values);
        for (sum, drift) in shortfall.iter_mut().zip(&self.drift) {
            *sum += *drift as f32;
        }
        shortfall
    }

    /// Squared error of the products of `rounded`, but for a constant.
    fn error(&self, weights: &Dense, shortfall: &[f32], rounded: &[f32], costs: &[f64]) -> f64 {
        let cols = weights.cols;
        let change: Vec<f32> = rounded.iter().zip(&weights.values).map(|(q, w)| q - w).collect();
        let moments = Dense::new(cols, cols, self.rounded.to_f32());
        let along = product(&moments.matrix(), &change);
        let rows = change.chunks_exact(cols).zip(along.chunks_exact(cols));
        rows.zip(shortfall.chunks_exact(cols))
            .zip(costs)
            .map(|(((change, along), shortfall), cost)| {
                let terms = change.iter().zip(along).zip(shortfall);
                cost * terms
                    .map(|((c, a), s)| f64::from(*c) * (f64::from(*a) - 2.0 * f64::from(*s)))
                    .sum::<f64>()
            })
            .sum()
    }
}

impl Inputs {
    /// Nothing yet, for matrices of `cols` columns; where their product is added to the stream, of
    /// `rows` rows.
    pub(super) fn zero(cols: usize, rows: Option<usize>) -> Inputs {
        let rows = rows.unwrap_or(0);
        Inputs { fitting: Sums::zero(cols, rows), judging: Sums::zero(cols, rows) }
    }

    /// Whether all sums are numbers.
    pub(super) fn are_finite(&self) -> bool {
        [&self.fitting, &self.judging].into_iter().all(|sums| {
            let all = [&sums.rounded.sums, &sums.cross.sums, &sums.drift];
            all.into_iter().flatten().all(|sum| sum.is_finite())
        })
    }

    /// Adds the inputs of some tokens as they are and as they are behind rounded matrices, and the
    /// streams.
    pub(super) fn add(
        &mut self,
        use_for: Use,
        x: &[f32],
        rounded_x: &[f32],
        streams: Option<(&[f32], &[f32])>,
    ) {
        let sums = match use_for {
            Use::Fitting => &mut self.fitting,
            Use::Judging => &mut self.judging,
        };
        sums.rounded.add(rounded_x, rounded_x);
        sums.cross.add(x, rounded_x);
        let cols = sums.rounded.size;
        sums.tokens += x.len() / cols;
        if let Some((stream, rounded)) = streams {
            let drift: Vec<f32> = stream.iter().zip(rounded).map(|(s, r)| s - r).collect();
            let rows = sums.drift.len() / cols;
            accumulate(&mut sums.drift, &cross(&drift, rows, rounded_x, cols));
        }
    }
}

/// Rounds a matrix beside what is multiplied with it. `None` where the type does not fit its rows.
pub(super) fn round(
    weights: &Dense,
    inputs: &Inputs,
    sensitivity: Option<&Moments>,
    tensor_type: TensorType,
) -> Option<(Vec<u8>, Outcome)> {
    let format = format(tensor_type)?;
    let plain = encode(weights, format)?;
    let curvature = curvature(&inputs.fitting.rounded, INPUT_DAMPING);
    let (Some(_), Some(curvature)) = (&format.blocks, curvature) else {
        return Some((plain, Outcome::Unjudged));
    };
    let target = target(weights, &inputs.fitting, &curvature);
    let outputs = sensitivity.and_then(|moments| self::curvature(moments, OUTPUT_DAMPING));
    let rounding = Rounding {
        format,
        target: &target,
        inputs: &curvature,
        outputs: outputs.as_ref(),
        passes: PASSES,
    };
    let calibrated = round_matrix(&rounding)?;

    let judge = if inputs.judging.tokens > 0 { &inputs.judging } else { &inputs.fitting };
    let costs: Vec<f64> = (0..weights.rows)
        .map(|row| sensitivity.map_or(1.0, |moments| moments.sums[row * moments.size + row]))
        .collect();
    let shortfall = judge.shortfall(weights);
    let error = |bytes: &[u8]| {
        let mut rounded = vec![0.0; weights.values.len()];
        format.dequantize(bytes, &mut rounded).ok()?;
        Some(judge.error(weights, &shortfall, &rounded, &costs))
    };
    match error(&calibrated)? < error(&plain)? {
        true => Some((calibrated, Outcome::Calibrated)),
        false => Some((plain, Outcome::Plain)),
    }
}

/// Rounds a matrix of which rows are looked up: what matters is how the prediction feels them.
pub(super) fn lookup(
    weights: &Dense,
    sensitivity: Option<&Moments>,
    tensor_type: TensorType,
) -> Option<(Vec<u8>, Outcome)> {
    let format = format(tensor_type)?;
    let curvature = sensitivity.and_then(|moments| curvature(moments, LOOKUP_DAMPING));
    if let (Some(_), Some(inputs)) = (&format.blocks, &curvature) {
        let target = &weights.values;
        let rounding = Rounding { format, target, inputs, outputs: None, passes: 0 };
        return Some((round_matrix(&rounding)?, Outcome::Calibrated));
    }
    Some((encode(weights, format)?, Outcome::Unjudged))
}

/// Rows beside which rounded inputs give what plain ones give beside `weights`, and add what the
/// stream misses.
fn target(weights: &Dense, sums: &Sums, curvature: &Curvature) -> Vec<f32> {
    let cols = weights.cols;
    let mut shortfall = sums.shortfall(weights);
    // The curvature has the mean of its diagonal taken out.
    let trace: f64 = (0..cols).map(|i| sums.rounded.sums[i * cols + i]).sum();
    let scale = (cols as f64 / trace) as f32;
    let mut target = weights.values.clone();
    let rows = target.par_chunks_mut(cols).zip(shortfall.par_chunks_mut(cols));
    rows.for_each(|(target, shortfall)| {
        curvature.solve(shortfall);
        for (target, shift) in target.iter_mut().zip(shortfall) {
            *target += scale * *shift;
        }
    });
    target
}

fn curvature(moments: &Moments, damping: f64) -> Option<Curvature> {
    Curvature::new(moments.size, moments.to_f32(), damping)
}

/// The rows by the plain encoder.
fn encode(weights: &Dense, format: &FormatInfo) -> Option<Vec<u8>> {
    let row_bytes = usize::try_from(format.tensor_type.row_bytes(weights.cols as u64)?).ok()?;
    let mut bytes = vec![0; row_bytes * weights.rows];
    let rows = weights.values.par_chunks(weights.cols).zip(bytes.par_chunks_mut(row_bytes));
    rows.try_for_each(|(row, out)| format.encode_row(row, Encoding::default(), out)).ok()?;
    Some(bytes)
}
