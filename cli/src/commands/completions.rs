//! `llq completions`: what a shell needs to complete llq's arguments.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    args::{Cli, HELP},
    output::Output,
};

const EXAMPLES: &str = "\
Examples:
  llq completions bash > ~/.local/share/bash-completion/completions/llq
  llq completions zsh > ~/.zfunc/_llq
  llq completions fish > ~/.config/fish/completions/llq.fish
  llq completions powershell >> $PROFILE";

/// Print a script with which a shell completes llq's commands and options.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "llq", &mut script);
    output.data(&String::from_utf8_lossy(&script))
}
