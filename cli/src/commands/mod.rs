//! One file per command.

mod bench;
mod compare;
mod completions;
mod convert;
mod cpu;
mod diff;
mod edit;
mod formats;
mod hash;
mod imatrix;
mod inspect;
mod man;
mod merge;
mod perplexity;
mod quantize;
mod sample;
mod split;
mod sweep;
mod tokenize;
mod transform;
mod verify;

mod allocation;
mod calibration;
mod check;
mod corpus;
mod dry_run;
mod produce;
mod type_shares;

use std::process::ExitCode;

use clap::Subcommand;

use crate::output::Output;

/// What llq can be told to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    Convert(convert::Args),
    Quantize(quantize::Args),
    Perplexity(perplexity::Args),
    Imatrix(imatrix::Args),
    Sample(sample::Args),
    Transform(transform::Args),
    Sweep(sweep::Args),
    Compare(compare::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Diff(diff::Args),
    Hash(hash::Args),
    Edit(edit::Args),
    Split(split::Args),
    Merge(merge::Args),
    Tokenize(tokenize::Args),
    Formats(formats::Args),
    Cpu(cpu::Args),
    Bench(bench::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// Does it, and says how the process ends.
    pub(crate) fn run(&self, output: &Output) -> anyhow::Result<ExitCode> {
        match self {
            Command::Convert(args) => return convert::run(args, output),
            Command::Quantize(args) => return quantize::run(args, output),
            Command::Perplexity(args) => perplexity::run(args, output)?,
            Command::Imatrix(args) => imatrix::run(args, output)?,
            Command::Sample(args) => sample::run(args, output)?,
            Command::Transform(args) => return transform::run(args, output),
            Command::Sweep(args) => sweep::run(args, output)?,
            Command::Compare(args) => return compare::run(args, output),
            Command::Inspect(args) => inspect::run(args, output)?,
            Command::Verify(args) => return verify::run(args, output),
            Command::Diff(args) => return diff::run(args, output),
            Command::Hash(args) => hash::run(args, output)?,
            Command::Edit(args) => return edit::run(args, output),
            Command::Split(args) => return split::run(args, output),
            Command::Merge(args) => return merge::run(args, output),
            Command::Tokenize(args) => tokenize::run(args, output)?,
            Command::Formats(args) => formats::run(args, output)?,
            Command::Cpu(args) => cpu::run(args, output)?,
            Command::Bench(args) => return bench::run(args, output),
            Command::Completions(args) => completions::run(args, output)?,
            Command::Man(args) => man::run(args, output)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
