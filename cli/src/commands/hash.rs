//! `llq hash`: sums by which the weights of models are known.

use std::{fmt, path::PathBuf};

use llq_convert::{digests, hexadecimal, whole_digest};
use serde::Serialize;

use super::compare::open;
use crate::{args::HELP, escape::Escaped, output::Output, progress::Reading};

const EXAMPLES: &str = "\
Examples:
  llq hash model.gguf > model.sha256
  llq verify copy.gguf --hashes model.sha256";

/// Print the SHA-256 sum of every tensor, and one of all together.
///
/// Sums are of names, types, shapes and weights. Where tensors lie in the file, how they are aligned,
/// into how many files the model is split, its byte order and its metadata do not change them.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// A GGUF file (of a split model, any), or a checkpoint in any form that llq convert reads
    model: PathBuf,

    /// Only the sum of all tensors together
    #[arg(long)]
    whole: bool,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let source = open(&args.model)?;
    let sums = digests(&*source, &Reading::new(output, "hashing"))?;
    let tensors = source.tensors().iter().zip(&sums);
    let tensors = tensors.map(|(spec, sum)| Sum { name: &spec.name, sha256: hexadecimal(sum) });
    output.result(&Sums {
        tensors: if args.whole { Vec::new() } else { tensors.collect() },
        weights: hexadecimal(&whole_digest(source.tensors(), &sums)),
    })
}

/// What is printed.
#[derive(Serialize)]
struct Sums<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tensors: Vec<Sum<'a>>,
    /// Of all tensors together.
    weights: String,
}

#[derive(Serialize)]
struct Sum<'a> {
    name: &'a str,
    sha256: String,
}

/// What a line of the sum of all tensors has in place of a name.
pub(super) const ALL: &str = "*";

impl fmt::Display for Sums<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Sum { name, sha256 } in &self.tensors {
            writeln!(f, "{sha256}  {}", Escaped(name))?;
        }
        writeln!(f, "{}  {ALL}", self.weights)
    }
}
