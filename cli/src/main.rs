//! `llq`: converts LLaMA checkpoints to GGUF, quantizes them, and measures what that cost.

mod args;
mod commands;
mod corpus;
mod escape;
mod failure;
mod figures;
mod interrupt;
mod new_file;
mod open_files;
mod output;
mod progress;
mod remote;
mod table;
mod target;
mod tasks;
mod type_args;

use std::process::ExitCode;

use llq_quant::kernels;

use crate::{args::Cli, output::Output};

fn main() -> ExitCode {
    let cli = Cli::parse_command_line();
    let output = Output::new(&cli.global);
    match interrupt::guard(|| run(&cli, &output)) {
        Ok(code) => code,
        Err(error) => failure::report(&error, &output),
    }
}

fn run(cli: &Cli, output: &Output) -> anyhow::Result<ExitCode> {
    kernels::select()?;
    open_files::raise_limit();
    cli.global.build_thread_pool()?;
    cli.command.run(output)
}
