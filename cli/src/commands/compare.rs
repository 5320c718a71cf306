//! `llq compare`: how far the weights of one model are from those of another.

use std::{
    cmp::Reverse,
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use llq_convert::{Differences, Distance, Reshaped, Source, TensorDifference};
use serde::Serialize;

use super::produce;
use crate::{
    args::HELP,
    escape::Escaped,
    failure::FOUND_BAD,
    figures::Count,
    output::Output,
    progress::Reading,
    table::{Column, Columns},
};

const EXAMPLES: &str = "\
Examples:
  llq compare model.gguf model-q4_k_m.gguf
  llq compare Llama-2-7b-hf llama-2-7b-q4_k_m.gguf --worst 10 --json";

/// Compare the weights of two models, tensor by tensor.
///
/// Each is a GGUF file, or a checkpoint in any form that llq convert reads. Errors are those of B;
/// relative is ‖A - B‖ / ‖A‖. The tensor with the largest relative error comes first. The exit code is
/// 1 where a tensor is in one model only or has another shape in the other.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model that is right
    #[arg(value_name = "A")]
    first: PathBuf,

    /// The model to compare with it
    #[arg(value_name = "B")]
    second: PathBuf,

    /// List only so many tensors, those with the largest errors
    #[arg(long, value_name = "N")]
    worst: Option<usize>,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    let (first, second) = (open(&args.first)?, open(&args.second)?);
    let found = differences(&*first, &*second, "comparing", output)?;
    let same =
        found.reshaped.is_empty() && found.only_first.is_empty() && found.only_second.is_empty();
    output.result(&Compared::new(args, found))?;
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(FOUND_BAD) })
}

/// Opens a checkpoint or a GGUF file.
pub(super) fn open(path: &Path) -> anyhow::Result<Box<dyn Source>> {
    produce::refuse_adapter(path)?;
    Ok(llq_convert::open(path)?)
}

/// Compares under a progress bar.
pub(super) fn differences(
    first: &dyn Source,
    second: &dyn Source,
    label: &str,
    output: &Output,
) -> anyhow::Result<Differences> {
    Ok(llq_convert::compare(first, second, &Reading::new(output, label))?)
}

/// What is printed.
#[derive(Serialize)]
struct Compared {
    a: String,
    b: String,
    /// All tensors that both have in one shape, together.
    whole: Errors,
    /// The worst first.
    tensors: Vec<Row>,
    reshaped: Vec<OtherShape>,
    only_a: Vec<String>,
    only_b: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    type_a: &'static str,
    type_b: &'static str,
    #[serde(flatten)]
    errors: Errors,
}

/// Not a number where a weight is none, which JSON has as null.
#[derive(Serialize)]
struct Errors {
    weights: u64,
    rmse: f64,
    relative: f64,
    max: f64,
    cosine: f64,
}

#[derive(Serialize)]
struct OtherShape {
    name: String,
    shape_a: Vec<u64>,
    shape_b: Vec<u64>,
}

impl Compared {
    fn new(args: &Args, found: Differences) -> Compared {
        let distances = found.tensors.iter().map(|tensor| tensor.distance);
        let whole = distances.fold(Distance::default(), |sum, distance| sum.and(&distance));
        let shown = args.worst.unwrap_or(usize::MAX);
        Compared {
            a: args.first.display().to_string(),
            b: args.second.display().to_string(),
            whole: Errors::of(&whole),
            tensors: worst_first(&found.tensors).into_iter().take(shown).map(Row::of).collect(),
            reshaped: found.reshaped.into_iter().map(OtherShape::of).collect(),
            only_a: found.only_first,
            only_b: found.only_second,
        }
    }
}

/// The tensors with the largest relative errors first, those without a number before all.
pub(super) fn worst_first(tensors: &[TensorDifference]) -> Vec<&TensorDifference> {
    /// Numbers of 0 and more have the order of their bits, and NaN comes after infinity.
    fn key(tensor: &TensorDifference) -> Reverse<u64> {
        Reverse(tensor.distance.relative().abs().to_bits())
    }
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| key(tensor));
    sorted
}

impl Row {
    fn of(tensor: &TensorDifference) -> Row {
        let [type_a, type_b] = tensor.types.map(|tensor_type| tensor_type.name());
        Row { name: tensor.name.clone(), type_a, type_b, errors: Errors::of(&tensor.distance) }
    }

    fn cells(&self) -> Vec<String> {
        let name = Escaped(&self.name).to_string();
        [name, self.type_a.to_owned(), self.type_b.to_owned()]
            .into_iter()
            .chain(self.errors.cells())
            .collect()
    }
}

impl Errors {
    fn of(distance: &Distance) -> Errors {
        Errors {
            weights: distance.weights(),
            rmse: distance.rmse(),
            relative: distance.relative(),
            max: distance.max(),
            cosine: distance.cosine(),
        }
    }

    fn cells(&self) -> [String; 4] {
        [
            format!("{:.3e}", self.rmse),
            format!("{:.3} %", 100.0 * self.relative),
            format!("{:.3e}", self.max),
            format!("{:.6}", self.cosine),
        ]
    }
}

impl OtherShape {
    fn of(reshaped: Reshaped) -> OtherShape {
        let Reshaped { name, shapes: [shape_a, shape_b] } = reshaped;
        OtherShape { name, shape_a, shape_b }
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            Column::left("tensor"),
            Column::left("A"),
            Column::left("B"),
            Column::right("RMSE"),
            Column::right("relative"),
            Column::right("largest"),
            Column::right("cosine"),
        ];
        let both = format!("{} weights", Count(self.whole.weights));
        let whole = [both, String::new(), String::new()].into_iter().chain(self.whole.cells());
        let mut rows: Vec<Vec<String>> = self.tensors.iter().map(Row::cells).collect();
        rows.push(whole.collect());
        if self.whole.weights > 0 {
            f.write_str(&Columns::new(columns).table(&rows))?;
        }
        for OtherShape { name, shape_a, shape_b } in &self.reshaped {
            writeln!(f, "{}: shape {shape_a:?} in A, {shape_b:?} in B", Escaped(name))?;
        }
        for (names, side) in [(&self.only_a, "A"), (&self.only_b, "B")] {
            for name in names {
                writeln!(f, "{}: only in {side}", Escaped(name))?;
            }
        }
        Ok(())
    }
}
