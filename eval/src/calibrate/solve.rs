//! From the moments of a matrix's inputs to its rounded rows.

use std::{borrow::Cow, ops::Range};

use llq_gguf::TensorType;
use llq_quant::{Curvature, Encoding, FormatInfo, Matrix, Rounding, format, round_matrix};
use rayon::prelude::*;

use super::{
    Use,
    dense::{Dense, product},
    moments::{Moments, add_cross},
};

/// What may be added to the diagonal of the inputs' moments, as a share of its mean: the first after
/// which more leaves more error on held-out inputs. The last where none are held out.
pub(super) const INPUT_DAMPINGS: [f64; 4] = [0.01, 0.03, 0.1, 0.3];

/// The same for other moments. On the fixture, a third of the outputs' gives 2 to 4 % more divergence.
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

/// Why a matrix can't be rounded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Problem {
    /// The type does not fit its rows.
    Type,
    /// A weight is NaN or infinite.
    Weight,
}

/// What rounded inputs and streams miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Of the inputs of matrices: `x - x~`.
    Inputs,
    /// Of the outputs of a matrix with so many rows: its product is added to the stream, so it makes
    /// up for what that lost, too.
    Outputs(usize),
}

/// What is known of the inputs `x~` of matrices behind rounded ones.
pub(super) struct Inputs {
    missing: Missing,
    cols: usize,
    /// `Σ x~ x~ᵀ`
    moments: Moments,
    /// `Σ x~ dᵀ` of inputs, `Σ d x~ᵀ` of outputs, where `d` is what is missing.
    gap: Vec<f32>,
    held: Held,
}

/// Tokens to judge by.
struct Held {
    use_for: Use,
    /// One of so many is kept.
    step: usize,
    inputs: Vec<f32>,
    missing: Vec<f32>,
}

/// A matrix of which some rows choose the damping.
pub(super) struct Sample<'a> {
    pub(super) matrix: Matrix<'a>,
    pub(super) sensitivity: Option<&'a Moments>,
    pub(super) tensor_type: TensorType,
}

/// Tokens that judge, at the most.
pub(super) const MOST_JUDGING: usize = 4096;

/// The same with its factor.
pub(super) struct Known {
    missing: Missing,
    /// `None` where the inputs are all zero.
    curvature: Option<Curvature>,
    /// The mean of the diagonal, which the curvature has taken out.
    mean: f64,
    gap: Dense,
    held: Held,
}

/// Weights that are in f32 at once, in some ten forms.
pub(super) const SLICE: usize = 1 << 25;

impl Inputs {
    /// Nothing yet, for matrices of `cols` columns; `judging` tokens will come to judge by, or all
    /// are used for both.
    pub(super) fn zero(cols: usize, missing: Missing, fitting: usize, judging: usize) -> Inputs {
        let rows = match missing {
            Missing::Inputs => cols,
            Missing::Outputs(rows) => rows,
        };
        let (use_for, tokens) = match judging {
            0 => (Use::Fitting, fitting),
            _ => (Use::Judging, judging),
        };
        let step = tokens.div_ceil(MOST_JUDGING).max(1);
        Inputs {
            missing,
            cols,
            moments: Moments::zero(cols),
            gap: vec![0.0; rows * cols],
            held: Held { use_for, step, inputs: Vec::new(), missing: Vec::new() },
        }
    }

    /// Adds the inputs of some tokens, and what is missing.
    pub(super) fn add(&mut self, use_for: Use, x: &[f32], missing: &[f32]) {
        if use_for == Use::Fitting {
            self.moments.add(x);
            match self.missing {
                Missing::Inputs => add_cross(&mut self.gap, x, missing, self.cols),
                Missing::Outputs(_) => add_cross(&mut self.gap, missing, x, self.cols),
            }
        }
        if use_for == self.held.use_for {
            let width = missing.len() / (x.len() / self.cols);
            let inputs = x.chunks_exact(self.cols).step_by(self.held.step);
            self.held.inputs.extend(inputs.flatten());
            let missing = missing.chunks_exact(width).step_by(self.held.step);
            self.held.missing.extend(missing.flatten());
        }
    }

    /// What follows from all tokens, for these matrices. `None` where a sum is no number.
    pub(super) fn known(self, samples: &[Sample<'_>]) -> Option<Known> {
        let Inputs { missing, cols, moments, gap, held } = self;
        let all = [&gap, &held.inputs, &held.missing].into_iter().flatten();
        if !moments.are_finite() || !all.into_iter().all(|value| value.is_finite()) {
            return None;
        }
        let mean = moments.mean();
        let gap = Dense::new(gap.len() / cols, cols, gap);
        let mut known = Known { missing, curvature: None, mean, gap, held };
        let damping = known.damping(&moments, samples);
        known.curvature = moments.into_curvature(damping);
        Some(known)
    }
}

impl Known {
    /// The best of [`INPUT_DAMPINGS`] for some rows, each rounded by itself.
    fn damping(&mut self, moments: &Moments, samples: &[Sample<'_>]) -> f64 {
        let [least, .., most] = INPUT_DAMPINGS;
        if self.held.use_for == Use::Fitting {
            return most;
        }
        let (mut best, mut least_error) = (least, f64::INFINITY);
        for damping in INPUT_DAMPINGS {
            self.curvature = moments.clone().into_curvature(damping);
            let errors = samples.iter().filter_map(|sample| self.sample_error(sample));
            let error: f64 = errors.sum();
            if error >= least_error {
                break;
            }
            (best, least_error) = (damping, error);
        }
        best
    }

    /// Of some rows of the matrix. `None` where they can't be rounded, which is told later.
    fn sample_error(&self, sample: &Sample<'_>) -> Option<f64> {
        let (format, curvature) = (format(sample.tensor_type)?, self.curvature.as_ref()?);
        format.blocks.as_ref()?;
        let error = |rows: Range<usize>| {
            let weights = Dense::of(&sample.matrix.row_range(rows.clone()));
            if !weights.values.iter().all(|weight| weight.is_finite()) {
                return None;
            }
            let target = self.target(&weights, &rows, curvature);
            let rounding =
                Rounding { format, target: &target, inputs: curvature, outputs: &[], passes: 0 };
            let rounded = decode(&round_matrix(&rounding)?, &weights, format).ok()?;
            let costs = costs(sample.sensitivity, &rows);
            Some(self.error(&weights, &self.missing(&weights), &rows, &rounded, &costs))
        };
        sample_rows(sample.matrix.rows()).map(error).sum()
    }

    /// What products with these rows miss on the inputs that judge.
    fn missing(&self, weights: &Dense) -> Cow<'_, [f32]> {
        match self.missing {
            Missing::Inputs => product(&weights.matrix(), &self.held.missing).into(),
            Missing::Outputs(_) => (&self.held.missing).into(),
        }
    }

    /// Rows beside which rounded inputs give what plain ones give beside the weights, and add what
    /// the stream misses.
    fn target(&self, weights: &Dense, rows: &Range<usize>, curvature: &Curvature) -> Vec<f32> {
        let cols = weights.cols;
        let mut target = match self.missing {
            Missing::Inputs => product(&self.gap.matrix(), &weights.values),
            Missing::Outputs(_) => self.gap.values[rows.start * cols..rows.end * cols].to_vec(),
        };
        curvature.solve(&mut target);
        let scale = (1.0 / self.mean) as f32;
        let pairs = target.par_iter_mut().zip(&weights.values);
        pairs.for_each(|(target, weight)| *target = weight + scale * *target);
        target
    }

    /// Squared errors of the products of some rounded rows with the inputs that judge.
    fn error(
        &self,
        weights: &Dense,
        missing: &[f32],
        rows: &Range<usize>,
        rounded: &[f32],
        costs: &[f32],
    ) -> f64 {
        let change: Vec<f32> = rounded.iter().zip(&weights.values).map(|(q, w)| q - w).collect();
        let change = Dense::new(weights.rows, weights.cols, change);
        let made = product(&change.matrix(), &self.held.inputs);
        let width = missing.len() / (made.len() / weights.rows);
        let from = if width == weights.rows { 0 } else { rows.start };
        let tokens = made.par_chunks(weights.rows).zip(missing.par_chunks(width));
        let errors: Vec<f64> = tokens
            .map(|(made, missing)| {
                let pairs = made.iter().zip(&missing[from..]).zip(costs);
                let error = |((made, missing), cost): ((&f32, &f32), &f32)| {
                    f64::from(*cost) * f64::from(made - missing).powi(2)
                };
                pairs.map(error).sum::<f64>()
            })
            .collect();
        errors.iter().sum()
    }
}

/// Rows, spread over as many, that choose the damping.
pub(super) fn sample_rows(all: usize) -> impl Iterator<Item = Range<usize>> {
    const RANGES: usize = 4;
    let count = (all / (16 * RANGES)).clamp(4, 64);
    let first = move |index: usize| (2 * index + 1) * all / (2 * RANGES);
    (0..RANGES).map(move |index| first(index)..all.min(first(index) + count))
}

/// What errors of each of these rows cost.
fn costs(sensitivity: Option<&Moments>, rows: &Range<usize>) -> Vec<f32> {
    match sensitivity {
        Some(moments) => moments.diagonal().skip(rows.start).take(rows.len()).collect(),
        None => vec![1.0; rows.len()],
    }
}

/// Rounds a matrix beside what is multiplied with it.
pub(super) fn round(
    matrix: &Matrix<'_>,
    known: &Known,
    sensitivity: Option<&Moments>,
    tensor_type: TensorType,
) -> Result<(Vec<u8>, Outcome), Problem> {
    let format = format(tensor_type).ok_or(Problem::Type)?;
    let (Some(_), Some(curvature)) = (&format.blocks, &known.curvature) else {
        return in_slices(matrix, 1, |weights, _| Slice::plain(weights, format));
    };
    let group = sensitivity.map_or(1, Moments::rows);
    in_slices(matrix, group, |weights, rows| {
        let plain = encode(weights, format)?;
        let target = known.target(weights, rows, curvature);
        let outputs = sensitivity.map(|all| all.curvatures(rows.clone(), OUTPUT_DAMPING));
        let outputs = outputs.unwrap_or_default();
        let rounding = Rounding {
            format,
            target: &target,
            inputs: curvature,
            outputs: &outputs,
            passes: PASSES,
        };
        let calibrated = round_matrix(&rounding).ok_or(Problem::Type)?;
        let missing = known.missing(weights);
        let costs = costs(sensitivity, rows);
        let error = |bytes: &[u8]| -> Result<f64, Problem> {
            let rounded = decode(bytes, weights, format)?;
            Ok(known.error(weights, &missing, rows, &rounded, &costs))
        };
        let errors = [error(&calibrated)?, error(&plain)?];
        Ok(Slice { calibrated, plain, errors: Some(errors) })
    })
}

/// What errors of a matrix cost of which rows are looked up, or which is the head as well.
pub(super) struct Lookup {
    pub(super) fitting: Moments,
    pub(super) judging: Moments,
}

/// Rounds a matrix of which rows are looked up.
pub(super) fn lookup(
    matrix: &Matrix<'_>,
    costs: Option<&Lookup>,
    tensor_type: TensorType,
) -> Result<(Vec<u8>, Outcome), Problem> {
    let format = format(tensor_type).ok_or(Problem::Type)?;
    let known = costs.and_then(|costs| {
        let inputs = costs.fitting.clone().into_curvature(LOOKUP_DAMPING)?;
        Some((inputs, costs.judging.to_dense()?))
    });
    let (Some(_), Some((inputs, judging))) = (&format.blocks, &known) else {
        return in_slices(matrix, 1, |weights, _| Slice::plain(weights, format));
    };
    in_slices(matrix, 1, |weights, _| {
        let plain = encode(weights, format)?;
        let rounding =
            Rounding { format, target: &weights.values, inputs, outputs: &[], passes: 0 };
        let calibrated = round_matrix(&rounding).ok_or(Problem::Type)?;
        let error = |bytes: &[u8]| -> Result<f64, Problem> {
            let rounded = decode(bytes, weights, format)?;
            let change: Vec<f32> =
                rounded.iter().zip(&weights.values).map(|(q, w)| q - w).collect();
            let along = product(&judging.matrix(), &change);
            let pairs = change.iter().zip(&along);
            Ok(pairs.map(|(change, along)| f64::from(*change) * f64::from(*along)).sum())
        };
        let errors = [error(&calibrated)?, error(&plain)?];
        Ok(Slice { calibrated, plain, errors: Some(errors) })
    })
}

/// Some rows, rounded.
struct Slice {
    calibrated: Vec<u8>,
    plain: Vec<u8>,
    /// Of both, where they were judged.
    errors: Option<[f64; 2]>,
}

impl Slice {
    fn plain(weights: &Dense, format: &FormatInfo) -> Result<Slice, Problem> {
        let plain = encode(weights, format)?;
        Ok(Slice { calibrated: Vec::new(), plain, errors: None })
    }
}

/// Rounds a matrix, some groups of rows at a time, and takes what is better of both.
fn in_slices(
    matrix: &Matrix<'_>,
    group: usize,
    round: impl Fn(&Dense, &Range<usize>) -> Result<Slice, Problem>,
) -> Result<(Vec<u8>, Outcome), Problem> {
    let count = slice_rows(matrix.cols(), group);
    let (mut calibrated, mut plain) = (Vec::new(), Vec::new());
    let (mut judged, mut errors) = (true, [0.0; 2]);
    for first in (0..matrix.rows()).step_by(count) {
        let rows = first..matrix.rows().min(first + count);
        let weights = Dense::of(&matrix.row_range(rows.clone()));
        if !weights.values.iter().all(|weight| weight.is_finite()) {
            return Err(Problem::Weight);
        }
        let slice = round(&weights, &rows)?;
        calibrated.extend(slice.calibrated);
        plain.extend(slice.plain);
        judged &= slice.errors.is_some();
        for (sum, error) in errors.iter_mut().zip(slice.errors.unwrap_or_default()) {
            *sum += error;
        }
    }
    Ok(match judged {
        false => (plain, Outcome::Unjudged),
        true if errors[0] < errors[1] => (calibrated, Outcome::Calibrated),
        true => (plain, Outcome::Plain),
    })
}

/// Rows of so many columns that are rounded at once, in groups of so many. Products with the tokens
/// that judge take memory as well.
pub(super) fn slice_rows(columns: usize, group: usize) -> usize {
    (SLICE / columns.max(MOST_JUDGING) / group).max(1) * group
}

/// The rows by the plain encoder.
fn encode(weights: &Dense, format: &FormatInfo) -> Result<Vec<u8>, Problem> {
    let row_bytes = format.tensor_type.row_bytes(weights.cols as u64);
    let row_bytes = row_bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or(Problem::Type)?;
    let mut bytes = vec![0; row_bytes * weights.rows];
    let rows = weights.values.par_chunks(weights.cols).zip(bytes.par_chunks_mut(row_bytes));
    rows.try_for_each(|(row, out)| format.encode_row(row, Encoding::default(), out))
        .map_err(|_| Problem::Type)?;
    Ok(bytes)
}

fn decode(bytes: &[u8], weights: &Dense, format: &FormatInfo) -> Result<Vec<f32>, Problem> {
    let mut rounded = vec![0.0; weights.values.len()];
    format.dequantize(bytes, &mut rounded).map_err(|_| Problem::Type)?;
    Ok(rounded)
}
