//! `llq diff`: what two models do not share, in metadata and tensors.

use std::{collections::HashMap, fmt, path::PathBuf, process::ExitCode};

use llq_convert::{Digest, Source, digests};
use llq_gguf::{Metadata, TensorSpec};
use serde::Serialize;

use super::{
    compare::open,
    inspect::{JsonValue, shortened},
};
use crate::{
    args::HELP, escape::Escaped, failure::FOUND_BAD, figures::Count, output::Output,
    progress::Reading,
};

const EXAMPLES: &str = "\
Examples:
  llq diff model.gguf edited.gguf
  llq diff Llama-2-7b-hf llama-2-7b.gguf --json
  llq diff old.gguf new.gguf --metadata-only";

/// Show what differs between two models: metadata, and tensors by name, type, shape and bytes.
///
/// Each is a GGUF file, or a checkpoint in any form that llq convert reads. The exit code is 0 where
/// they are the same and 1 where not. How far weights are apart, llq compare tells.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// One model
    #[arg(value_name = "A")]
    first: PathBuf,

    /// The other
    #[arg(value_name = "B")]
    second: PathBuf,

    /// Leave the tensors out
    #[arg(long)]
    metadata_only: bool,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    let (first, second) = (open(&args.first)?, open(&args.second)?);
    let keys = keys(first.metadata(), second.metadata());
    let (keys, tensors) = match args.metadata_only {
        true => (keys, Vec::new()),
        false => (keys, tensors(&*first, &*second, output)?),
    };
    let same = keys.is_empty() && tensors.is_empty();
    output.result(&Diff { same, metadata: keys, tensors })?;
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(FOUND_BAD) })
}

/// What is printed.
#[derive(Serialize)]
struct Diff<'a> {
    same: bool,
    metadata: Vec<KeyDiff<'a>>,
    tensors: Vec<TensorDiff<'a>>,
}

/// A key that is absent from one model or has another value there.
#[derive(Serialize)]
pub(super) struct KeyDiff<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<JsonValue<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<JsonValue<'a>>,
}

/// A tensor that is absent from one model or is another one there.
#[derive(Serialize)]
struct TensorDiff<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<Side<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<Side<'a>>,
}

#[derive(PartialEq, Serialize)]
struct Side<'a> {
    #[serde(rename = "type")]
    type_name: &'static str,
    shape: &'a [u64],
    #[serde(skip)]
    sum: Digest,
}

/// The keys in which two models differ.
pub(super) fn keys<'a>(a: &'a Metadata, b: &'a Metadata) -> Vec<KeyDiff<'a>> {
    let in_a = a.iter().filter_map(|(key, value)| {
        let other = b.get(key);
        let differs = other != Some(value);
        differs.then(|| KeyDiff { key, a: Some(JsonValue(value)), b: other.map(JsonValue) })
    });
    let only_b = b.iter().filter(|(key, _)| !a.contains(key));
    let only_b = only_b.map(|(key, value)| KeyDiff { key, a: None, b: Some(JsonValue(value)) });
    in_a.chain(only_b).collect()
}

fn tensors<'a>(
    first: &'a dyn Source,
    second: &'a dyn Source,
    output: &Output,
) -> anyhow::Result<Vec<TensorDiff<'a>>> {
    let sums = |source: &dyn Source, label| digests(source, &Reading::new(output, label));
    let (sums_a, sums_b) = (sums(first, "reading A")?, sums(second, "reading B")?);
    let mut others: HashMap<&str, Side<'_>> = second
        .tensors()
        .iter()
        .zip(sums_b)
        .map(|(spec, sum)| (&*spec.name, side(spec, sum)))
        .collect();
    let in_a = first.tensors().iter().zip(sums_a).map(|(spec, sum)| TensorDiff {
        name: &spec.name,
        a: Some(side(spec, sum)),
        b: others.remove(&*spec.name),
    });
    let mut found: Vec<_> = in_a.filter(|tensor| tensor.a != tensor.b).collect();
    let only_b = second.tensors().iter().filter_map(|spec| {
        let b = Some(others.remove(&*spec.name)?);
        Some(TensorDiff { name: &spec.name, a: None, b })
    });
    found.extend(only_b);
    Ok(found)
}

fn side(spec: &TensorSpec, sum: Digest) -> Side<'_> {
    Side { type_name: spec.tensor_type.name(), shape: &spec.shape, sum }
}

impl fmt::Display for Diff<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.metadata.iter().try_for_each(|key| write!(f, "{key}"))?;
        for TensorDiff { name, a, b } in &self.tensors {
            let name = Escaped(name);
            match (a, b) {
                (Some(a), Some(b)) if (a.type_name, a.shape) == (b.type_name, b.shape) => {
                    writeln!(f, "! {name} {a}: other bytes")?;
                }
                _ => {
                    for (sign, side) in [('-', a), ('+', b)] {
                        let Some(side) = side else { continue };
                        writeln!(f, "{sign} {name} {side}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for KeyDiff<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = Escaped(self.key);
        let [a, b] = [&self.a, &self.b].map(|v| v.as_ref().map(|JsonValue(v)| shortened(v)));
        if a == b {
            return writeln!(f, "! {key} = {}: differs further on", a.unwrap_or_default());
        }
        for (sign, value) in [('-', a), ('+', b)] {
            if let Some(value) = value {
                writeln!(f, "{sign} {key} = {value}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Side<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<String> = self.shape.iter().map(|&e| Count(e).to_string()).collect();
        write!(f, "{} {}", self.type_name, shape.join(" × "))
    }
}
