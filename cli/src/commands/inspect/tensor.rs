//! How the weights of one tensor are spread.

use std::{fmt, path::Path};

use llq_convert::{BINS, Spread, spread};
use serde::Serialize;

use super::super::compare::open;
use crate::{escape::Escaped, figures::Count, table::pairs};

/// What is printed.
#[derive(Serialize)]
pub(super) struct TensorSpread {
    name: String,
    #[serde(rename = "type")]
    type_name: &'static str,
    shape: Vec<u64>,
    weights: u64,
    non_finite: u64,
    zeros: u64,
    min: f32,
    max: f32,
    mean: f64,
    deviation: f64,
    histogram: [u64; BINS],
}

pub(super) fn spread_of(path: &Path, name: &str) -> anyhow::Result<TensorSpread> {
    let source = open(path)?;
    let place = source
        .tensors()
        .iter()
        .position(|spec| spec.name == name)
        .ok_or_else(|| super::no_tensor(path, name))?;
    let spec = &source.tensors()[place];
    let Spread { weights, non_finite, zeros, min, max, mean, deviation, histogram, .. } =
        spread(&*source, place)?;
    Ok(TensorSpread {
        name: spec.name.clone(),
        type_name: spec.tensor_type.name(),
        shape: spec.shape.clone(),
        weights,
        non_finite,
        zeros,
        min,
        max,
        mean,
        deviation,
        histogram,
    })
}

impl fmt::Display for TensorSpread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<String> = self.shape.iter().map(|&e| Count(e).to_string()).collect();
        let lines = [
            ("tensor", Escaped(&self.name).to_string()),
            ("type", self.type_name.to_owned()),
            ("shape", shape.join(" × ")),
            ("weights", Count(self.weights).to_string()),
            ("NaN, infinite", Count(self.non_finite).to_string()),
            ("zero", Count(self.zeros).to_string()),
            ("from", format!("{:.6}", self.min)),
            ("to", format!("{:.6}", self.max)),
            ("mean", format!("{:.3e}", self.mean)),
            ("deviation", format!("{:.6}", self.deviation)),
        ];
        writeln!(f, "{}", pairs(&lines))?;
        self.histogram.iter().enumerate().try_for_each(|(bin, &count)| self.bar(f, bin, count))
    }
}

impl TensorSpread {
    /// The lower end of a bin, a bar, and how many weights it stands for.
    fn bar(&self, f: &mut fmt::Formatter<'_>, bin: usize, count: u64) -> fmt::Result {
        const WIDTH: f64 = 48.0;
        const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        let (min, max) = (f64::from(self.min), f64::from(self.max));
        let low = min + (max - min) * bin as f64 / BINS as f64;
        let most = self.histogram.iter().copied().max().unwrap_or(0).max(1);
        let eighths = (WIDTH * 8.0 * count as f64 / most as f64).round() as usize;
        let bar = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
        let gap = if count == 0 { "" } else { " " };
        writeln!(f, "{low:>12.5}  {bar}{gap}{}", Count(count))
    }
}
