//! How the weights of a tensor are spread.

use llq_quant::format;
use rayon::prelude::*;

use crate::{
    Error, Source,
    error::Result,
    source::{columns, row_bytes, rows},
};

/// Bins of a histogram.
pub const BINS: usize = 24;

/// Weights that a thread looks at at a time. Sums are over each piece first, so this must not depend
/// on the number of threads.
const PIECE_WEIGHTS: u64 = 1 << 18;

/// What the weights of a tensor are like.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Spread {
    /// How many there are.
    pub weights: u64,
    /// How many of them are NaN or infinite; all else is of the others.
    pub non_finite: u64,
    /// How many are 0.
    pub zeros: u64,
    /// The smallest.
    pub min: f32,
    /// The largest.
    pub max: f32,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// How many lie in each of [`BINS`] parts of equal width from the smallest to the largest.
    pub histogram: [u64; BINS],
}

/// Sums over some weights.
#[derive(Clone, Copy)]
struct Sums {
    finite: u64,
    zeros: u64,
    min: f32,
    max: f32,
    sum: f64,
    squares: f64,
}

/// The spread of a tensor's weights. They are read twice, in pieces, on the threads of the current
/// rayon pool.
///
/// # Errors
///
/// A tensor in a type that llq can't decode; weights that can't be read.
pub fn spread(source: &dyn Source, tensor: usize) -> Result<Spread> {
    let all = pieces(source, tensor, Sums::of)?.into_iter().fold(Sums::NONE, Sums::and);
    let weights = columns(&source.tensors()[tensor]) * rows(&source.tensors()[tensor]);
    let count = all.finite.max(1) as f64;
    let mean = all.sum / count;
    let [min, max] = if all.finite == 0 { [0.0; 2] } else { [all.min, all.max] };
    let histograms = pieces(source, tensor, |weights| histogram(weights, min, max))?;
    Ok(Spread {
        weights,
        non_finite: weights - all.finite,
        zeros: all.zeros,
        min,
        max,
        mean,
        deviation: (all.squares / count - mean * mean).max(0.0).sqrt(),
        histogram: histograms.iter().fold([0; BINS], |mut sum, part| {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            sum
        }),
    })
}

/// What `of` says of each piece, in order.
fn pieces<T: Send>(
    source: &dyn Source,
    tensor: usize,
    of: impl Fn(&[f32]) -> T + Sync,
) -> Result<Vec<T>> {
    let spec = &source.tensors()[tensor];
    let (name, tensor_type) = (spec.name.clone(), spec.tensor_type);
    let format = format(tensor_type).ok_or(Error::NoFormat { tensor: name, tensor_type })?;
    let (rows, columns) = (rows(spec), columns(spec).max(1));
    let per_piece = (PIECE_WEIGHTS / columns).max(1);
    (0..rows.div_ceil(per_piece))
        .into_par_iter()
        .map_init(<(Vec<u8>, Vec<f32>)>::default, |(bytes, weights), piece| {
            let (start, end) = (piece * per_piece, rows.min((piece + 1) * per_piece));
            bytes.resize((row_bytes(spec) * (end - start)) as usize, 0);
            weights.resize((columns * (end - start)) as usize, 0.0);
            source.read_rows(tensor, start..end, bytes)?;
            format.dequantize(bytes, weights).map_err(|problem| Error::Row {
                tensor: spec.name.clone(),
                row: start,
                source: problem,
            })?;
            Ok(of(weights))
        })
        .collect()
}

impl Sums {
    const NONE: Sums = Sums {
        finite: 0,
        zeros: 0,
        min: f32::INFINITY,
        max: f32::NEG_INFINITY,
        sum: 0.0,
        squares: 0.0,
    };

    fn of(weights: &[f32]) -> Sums {
        let finite = weights.iter().filter(|weight| weight.is_finite());
        finite.fold(Sums::NONE, |sums, &weight| {
            let wide = f64::from(weight);
            sums.and(Sums {
                finite: 1,
                zeros: u64::from(weight == 0.0),
                min: weight,
                max: weight,
                sum: wide,
                squares: wide * wide,
            })
        })
    }

    fn and(self, other: Sums) -> Sums {
        Sums {
            finite: self.finite + other.finite,
            zeros: self.zeros + other.zeros,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            sum: self.sum + other.sum,
            squares: self.squares + other.squares,
        }
    }
}

fn histogram(weights: &[f32], min: f32, max: f32) -> [u64; BINS] {
    let mut bins = [0; BINS];
    // In f64 the difference of two finite f32 is finite.
    let (low, width) = (f64::from(min), f64::from(max) - f64::from(min));
    for &weight in weights.iter().filter(|weight| weight.is_finite()) {
        let share = if width > 0.0 { (f64::from(weight) - low) / width } else { 0.0 };
        bins[((share * BINS as f64) as usize).min(BINS - 1)] += 1;
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_fall_into_the_outer_bins() {
        let bins = histogram(&[-1.0, 1.0, 0.999, f32::NAN], -1.0, 1.0);
        assert_eq!((bins[0], bins[BINS - 1], bins.iter().sum::<u64>()), (1, 2, 3));
        assert_eq!(histogram(&[0.5; 3], 0.5, 0.5)[0], 3);
        assert_eq!(histogram(&[f32::MIN, f32::MAX], f32::MIN, f32::MAX)[BINS - 1], 1);
    }
}
