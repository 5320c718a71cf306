//! `llq split`: a GGUF file in parts.

use std::{path::PathBuf, process::ExitCode};

use clap::ArgGroup;
use llq_convert::{OpenOptions, Request, Split};

use super::produce::{self, Job};
use crate::{
    args::{HELP, TargetArgs, parse_size},
    output::Output,
};

const EXAMPLES: &str = "\
Examples:
  llq split model.gguf -o parts/model.gguf --max-size 2G
  llq split model.gguf -o model.gguf --max-tensors 128 --dry-run";

/// Split a GGUF file into parts that loaders open as one model.
///
/// The parts are named after OUTPUT: model-00001-of-00003.gguf and so on. All get their names when all
/// are complete. Loaders, and llq, take any of them for the model.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
#[command(mut_arg("no_check", |arg| arg.hide(true)))]
#[command(group(ArgGroup::new("limit").required(true).args(["max_size", "max_tensors"])))]
pub(crate) struct Args {
    /// The GGUF file
    model: PathBuf,

    #[command(flatten)]
    target: TargetArgs,

    /// Size of a part at most, such as 2G or 500M, powers of 1000
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,

    /// Tensors of a part at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tensors: Option<u32>,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    let split = match (args.max_size, args.max_tensors) {
        (Some(bytes), _) => Split::Bytes(bytes),
        (None, Some(tensors)) => Split::Tensors(tensors.into()),
        (None, None) => Split::Never,
    };
    let request = Request { split, ..Request::default() };
    let open = OpenOptions::default();
    produce::run(Job::copy(&args.model, &args.target, open, request), output)
}
