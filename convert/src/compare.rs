//! How far the weights of one model are from those of another, tensor by tensor.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use llq_gguf::{TensorSpec, TensorType};
use llq_quant::{FormatInfo, format};
use rayon::prelude::*;

use crate::{
    Error, Progress, Source,
    error::Result,
    plan::MAX_COLUMNS,
    source::{columns, row_bytes, rows},
};

/// Weights of a tensor that a thread compares at a time: of each side 1 MiB once they are decoded.
/// Sums are over each piece first, so this must not depend on the number of threads.
const PIECE_WEIGHTS: u64 = 1 << 18;

/// What two models have in common, and what not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Differences {
    /// The tensors of both, in the order of the first model.
    pub tensors: Vec<TensorDifference>,
    /// Those of another shape in the second model.
    pub reshaped: Vec<Reshaped>,
    /// Tensors that only the first model has.
    pub only_first: Vec<String>,
    /// Tensors that only the second model has.
    pub only_second: Vec<String>,
}

/// A tensor that both models have in one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// Type in the first and in the second model.
    pub types: [TensorType; 2],
    /// How far its weights are apart.
    pub distance: Distance,
}

/// A tensor whose shapes differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshaped {
    /// Its name.
    pub name: String,
    /// Extents in the first and in the second model, the fastest first.
    pub shapes: [Vec<u64>; 2],
}

/// How far weights b are from weights a. All sums are f64, in one order for any number of threads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    weights: u64,
    /// Sum of (a - b)².
    squares: f64,
    /// Sums of a², b² and ab.
    products: [f64; 3],
    max: f64,
}

impl Distance {
    /// Weights of each side.
    pub fn weights(&self) -> u64 {
        self.weights
    }

    /// Root mean square of a - b. NaN where a weight is.
    pub fn rmse(&self) -> f64 {
        (self.squares / self.weights.max(1) as f64).sqrt()
    }

    /// ‖a - b‖ / ‖a‖; infinite where only a is zero.
    pub fn relative(&self) -> f64 {
        if self.squares == 0.0 { 0.0 } else { (self.squares / self.products[0]).sqrt() }
    }

    /// Largest |a - b|.
    pub fn max(&self) -> f64 {
        self.max
    }

    /// Cosine of the angle between a and b; 1 where they are equal, 0 where one is zero.
    pub fn cosine(&self) -> f64 {
        let [a, b, ab] = self.products;
        match (self.squares == 0.0, a * b == 0.0) {
            (true, _) => 1.0,
            (_, true) => 0.0,
            _ => ab / (a.sqrt() * b.sqrt()),
        }
    }

    /// The distance of these weights and of more together.
    pub fn and(mut self, more: &Distance) -> Distance {
        self.weights += more.weights;
        self.squares += more.squares;
        for (sum, more) in self.products.iter_mut().zip(more.products) {
            *sum += more;
        }
        self.max = larger(self.max, more.max);
        self
    }

    fn of(a: &[f32], b: &[f32]) -> Distance {
        const LANES: usize = 8;
        let mut lanes = [[0.0; LANES]; 4];
        let mut max = [0.0; LANES];
        for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
            for (lane, (&a, &b)) in a.iter().zip(b).enumerate() {
                // Infinity less itself would be NaN.
                let difference = if a == b { 0.0 } else { f64::from(a) - f64::from(b) };
                let (a, b) = (f64::from(a), f64::from(b));
                lanes[0][lane] += difference * difference;
                lanes[1][lane] += a * a;
                lanes[2][lane] += b * b;
                lanes[3][lane] += a * b;
                max[lane] = larger(max[lane], difference.abs());
            }
        }
        let [squares, products @ ..] = lanes.map(|lanes| lanes.iter().sum());
        let max = max.into_iter().fold(0.0, larger);
        Distance { weights: a.len() as u64, squares, products, max }
    }
}

/// NaN counts as the largest.
fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

/// Compares the tensors of two models by name. Both are read in pieces, on the threads of the current
/// rayon pool, which hold a few MiB each.
///
/// # Errors
///
/// A tensor of both in a type that llq can't decode; weights that can't be read.
pub fn compare(
    first: &dyn Source,
    second: &dyn Source,
    progress: &dyn Progress,
) -> Result<Differences> {
    let places: HashMap<&str, usize> =
        second.tensors().iter().enumerate().map(|(index, spec)| (&*spec.name, index)).collect();
    let mut found = Differences::default();
    let mut pairs = Vec::new();
    for (index, spec) in first.tensors().iter().enumerate() {
        match places.get(&*spec.name).map(|&other| (other, &second.tensors()[other])) {
            None => found.only_first.push(spec.name.clone()),
            Some((other, other_spec)) if spec.shape == other_spec.shape => {
                pairs.push([Side::of(first, index)?, Side::of(second, other)?]);
            }
            Some((_, other)) => found.reshaped.push(Reshaped {
                name: spec.name.clone(),
                shapes: [spec.shape.clone(), other.shape.clone()],
            }),
        }
    }
    let names: HashSet<&str> = first.tensors().iter().map(|spec| &*spec.name).collect();
    let is_new = |spec: &&TensorSpec| !names.contains(&*spec.name);
    found.only_second = second.tensors().iter().filter(is_new).map(|s| s.name.clone()).collect();

    progress.begin(pairs.iter().map(|[a, _]| a.bytes()).fold(0, u64::saturating_add));
    for pair in &pairs {
        found.tensors.push(TensorDifference {
            name: pair[0].spec.name.clone(),
            types: [pair[0].spec.tensor_type, pair[1].spec.tensor_type],
            distance: distance(pair, progress)?,
        });
    }
    Ok(found)
}

/// One of the two tensors that are compared.
struct Side<'a> {
    source: &'a dyn Source,
    index: usize,
    spec: &'a TensorSpec,
    format: &'static FormatInfo,
}

/// Buffers of one thread for one side.
#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    weights: Vec<f32>,
}

impl<'a> Side<'a> {
    fn of(source: &'a dyn Source, index: usize) -> Result<Side<'a>> {
        let spec = &source.tensors()[index];
        let tensor_type = spec.tensor_type;
        let columns = columns(spec);
        if columns > MAX_COLUMNS {
            let (tensor, limit) = (spec.name.clone(), MAX_COLUMNS);
            return Err(Error::RowTooLong { tensor, columns, limit });
        }
        let missing = || Error::NoFormat { tensor: spec.name.clone(), tensor_type };
        Ok(Side { source, index, spec, format: format(tensor_type).ok_or_else(missing)? })
    }

    fn bytes(&self) -> u64 {
        row_bytes(self.spec).saturating_mul(rows(self.spec))
    }

    fn read<'b>(&self, rows: &Range<u64>, buffers: &'b mut Buffers) -> Result<&'b [f32]> {
        let count = rows.end - rows.start;
        buffers.bytes.resize((row_bytes(self.spec) * count) as usize, 0);
        buffers.weights.resize((columns(self.spec) * count) as usize, 0.0);
        self.source.read_rows(self.index, rows.clone(), &mut buffers.bytes)?;
        self.format.dequantize(&buffers.bytes, &mut buffers.weights).map_err(|problem| {
            Error::Row { tensor: self.spec.name.clone(), row: rows.start, source: problem }
        })?;
        Ok(&buffers.weights)
    }
}

fn distance(pair: &[Side<'_>; 2], progress: &dyn Progress) -> Result<Distance> {
    let spec = pair[0].spec;
    let (rows, per_piece) = (rows(spec), (PIECE_WEIGHTS / columns(spec).max(1)).max(1));
    let pieces: Vec<Distance> = (0..rows.div_ceil(per_piece))
        .into_par_iter()
        .map_init(<[Buffers; 2]>::default, |[a, b], piece| {
            let rows = piece * per_piece..rows.min((piece + 1) * per_piece);
            let distance = Distance::of(pair[0].read(&rows, a)?, pair[1].read(&rows, b)?);
            progress.advance(row_bytes(spec) * (rows.end - rows.start));
            Ok(distance)
        })
        .collect::<Result<_>>()?;
    Ok(pieces.iter().fold(Distance::default(), |sum, piece| sum.and(piece)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        let found = Distance::of(&[3.0, 0.0, 4.0], &[3.0, 1.0, 2.0]);
        assert_eq!(found.rmse(), (5f64 / 3.0).sqrt());
        assert_eq!(found.relative(), (5f64 / 25.0).sqrt());
        assert_eq!((found.max(), found.weights()), (2.0, 3));
        assert!((found.cosine() - 17.0 / (5.0 * 14f64.sqrt())).abs() < 1e-15);
    }

    #[test]
    fn nothing_and_infinity_are_no_fault() {
        let same = Distance::of(&[0.0, f32::INFINITY], &[0.0, f32::INFINITY]);
        assert_eq!((same.rmse(), same.relative(), same.cosine()), (0.0, 0.0, 1.0));
        let lost = Distance::of(&[0.0; 2], &[1.0; 2]);
        assert_eq!((lost.relative(), lost.cosine()), (f64::INFINITY, 0.0));
        assert_eq!(Distance::default().rmse(), 0.0);
    }

    #[test]
    fn nan_is_the_largest_difference() {
        let found = Distance::of(&[1.0, f32::NAN, 1.0], &[0.0; 3]);
        assert!(found.max().is_nan() && found.rmse().is_nan());
        let all = Distance::of(&[1.0], &[0.0]).and(&found).and(&Distance::of(&[5.0], &[0.0]));
        assert!(all.max().is_nan());
    }
}
