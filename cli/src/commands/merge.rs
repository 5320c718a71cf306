//! `llq merge`: the parts of a model as one GGUF file.

use std::{path::PathBuf, process::ExitCode};

use llq_convert::{OpenOptions, Request};

use super::produce::{self, Job};
use crate::{
    args::{HELP, TargetArgs},
    output::Output,
};

const EXAMPLES: &str = "\
Examples:
  llq merge model-00001-of-00003.gguf -o model.gguf";

/// Merge the parts of a split GGUF model into one file.
///
/// Parts that are missing or belong to another model are found before anything is written.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
#[command(mut_arg("no_check", |arg| arg.hide(true)))]
pub(crate) struct Args {
    /// Any of the parts; the others are found by their names
    part: PathBuf,

    #[command(flatten)]
    target: TargetArgs,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    let (open, request) = (OpenOptions::default(), Request::default());
    produce::run(Job::copy(&args.part, &args.target, open, request), output)
}
