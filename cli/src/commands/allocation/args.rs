//! What is to be met, as the user gives it.

use std::path::{Path, PathBuf};

use llq_convert::{Request, Source, Split, parse_tensor_type};
use llq_gguf::TensorType;

use super::{Measured, Problem, Rounding};
use crate::{
    args::{TextArgs, WindowArgs},
    failure::Refusal,
    output::Output,
};

/// A size or bits per weight to be met in place of a type.
#[derive(clap::Args)]
pub(crate) struct AllocationArgs {
    /// Give each tensor the type by which the model loses least in a file of at most this size, such
    /// as 4.5GiB or 4800M; G is a power of 1000, GiB of 1024. What each tensor matters is measured on
    /// the text of --corpus, or else of --calibrate
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "measured_on")]
    #[arg(group = "wanted_size", conflicts_with_all = ["mix", "recipe", "pure", "target_bpw"])]
    target_size: Option<u64>,

    /// The same within so many bits per weight, of all tensors together
    #[arg(long, value_name = "BITS", value_parser = parse_bits, requires = "measured_on")]
    #[arg(group = "wanted_size", conflicts_with_all = ["mix", "recipe", "pure"])]
    target_bpw: Option<f64>,

    /// The types to choose among, separated by commas [default: q2_k,q3_k,q4_k,q5_k,q6_k,q8_0]
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = parse_tensor_type)]
    #[arg(requires = "wanted_size")]
    types: Vec<TensorType>,

    /// The text to measure on, in any form that llq perplexity --corpus takes; some windows of it are
    /// for measuring tensors, the others tell what came of it
    #[arg(long, value_name = "TEXT", requires = "wanted_size", group = "measured_on")]
    corpus: Option<PathBuf>,

    #[command(flatten)]
    windows: WindowArgs,
}

/// What is chosen among where nothing else is said.
const TYPES: [TensorType; 6] = [
    TensorType::Q2_K,
    TensorType::Q3_K,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
    TensorType::Q8_0,
];

/// What must not be exceeded.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    FileBytes(u64),
    BitsPerWeight(f64),
}

impl AllocationArgs {
    /// The text that is read for nothing else.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.corpus.as_deref()
    }

    /// What is asked for, if anything is.
    pub(crate) fn target(&self) -> Option<Target> {
        let bits = self.target_bpw.map(Target::BitsPerWeight);
        self.target_size.map(Target::FileBytes).or(bits)
    }

    /// Chooses the types of `input`, measured on the text of its own or on `calibrated_on`.
    pub(crate) fn run(
        &self,
        target: Target,
        calibrated_on: Option<&Path>,
        input: &Path,
        made_of: (&dyn Source, &Request),
        output: &Output,
    ) -> anyhow::Result<Measured> {
        let (_, request) = made_of;
        if let (Target::FileBytes(_), Split::Bytes(_) | Split::Tensors(_)) = (target, request.split)
        {
            return Err(Refusal::new("--target-size is of one file, and the output is split")
                .hint("give --target-bpw in its place")
                .into());
        }
        let corpus = self.corpus.as_deref().or(calibrated_on);
        let corpus = corpus.ok_or_else(|| Refusal::new("a mix is measured on a text"))?.to_owned();
        let text = TextArgs { corpus, windows: self.windows.clone() };
        let rounding = match calibrated_on {
            Some(_) => Rounding::Calibrated,
            None => Rounding::Plain,
        };
        let types = if self.types.is_empty() { &TYPES[..] } else { &self.types };
        Problem::new(made_of, types, target, rounding)?.measure(input, &text, output)
    }
}

/// Bytes: a number with K, M, G or T for powers of 1000, Ki and so on of 1024, and B or nothing
/// behind it.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size such as 4.5GiB, 4800M or 123456".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (letter, base) = match unit.strip_suffix('i') {
        Some(letter) if !letter.is_empty() => (letter, 1024f64),
        _ => (unit, 1000.0),
    };
    let powers = ["", "k", "m", "g", "t"];
    let power = powers.iter().position(|&known| known == letter).ok_or_else(wrong)?;
    if power == 0 {
        return number.parse().ok().filter(|&bytes| bytes > 0).ok_or_else(wrong);
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * base.powi(power as i32);
    if (1.0..9e18).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

fn parse_bits(text: &str) -> Result<f64, String> {
    let bits = text.parse::<f64>().ok().filter(|bits| (f64::MIN_POSITIVE..=32.0).contains(bits));
    bits.ok_or_else(|| "expected a number up to 32, such as 4.25".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_either_kind() {
        for (text, bytes) in [
            ("123456", 123_456),
            ("17b", 17),
            ("4.5GiB", 4_831_838_208),
            ("4.5gb", 4_500_000_000),
            ("1.5 K", 1500),
            ("2Mi", 2 << 20),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "0", "GiB", "-1", "1.5", "4X", "1e9", "ib", "1iB", "0.1K0", "9999999999TiB"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert!(["0", "NaN", "33", "-1", "inf"].iter().all(|bad| parse_bits(bad).is_err()));
        assert_eq!(parse_bits("4.25"), Ok(4.25));
    }
}
