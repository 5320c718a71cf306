//! `llq man`: manual pages.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use llq_gguf::{Overwrite, write_whole};

use crate::{
    args::{Cli, HELP},
    failure::Refusal,
    output::Output,
};

const EXAMPLES: &str = "\
Examples:
  llq man | man -l -
  llq man quantize > llq-quantize.1
  llq man --all ~/.local/share/man/man1";

/// Print the manual page of llq or of one of its commands, or write all of them to a folder.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// The command
    #[arg(conflicts_with = "all")]
    command: Option<String>,

    /// Write the pages llq.1, llq-convert.1 and so on into this folder, in place of those there
    #[arg(long, value_name = "FOLDER")]
    all: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let mut whole = Cli::command();
    whole.build();
    let commands = || whole.get_subcommands().filter(|command| command.get_name() != "help");
    if let Some(folder) = &args.all {
        for command in std::iter::once(&whole).chain(commands()) {
            let path = folder.join(format!("{}.1", page_name(command)));
            write_whole(&path, &page(command)?, Overwrite::Replace)?;
        }
        output.done(&format_args!("{}: {} pages", folder.display(), commands().count() + 1));
        return Ok(());
    }
    let command = match &args.command {
        None => &whole,
        Some(name) => commands().find(|command| command.get_name() == name).with_context(|| {
            Refusal::new(format!("llq has no command {name}")).hint("llq --help lists them")
        })?,
    };
    output.data(&String::from_utf8_lossy(&page(command)?))
}

/// `llq-quantize` of the command `llq quantize`.
fn page_name(command: &Command) -> String {
    match command.get_name() {
        "llq" => "llq".to_owned(),
        name => format!("llq-{name}"),
    }
}

fn page(command: &Command) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).title(page_name(command)).render(&mut page)?;
    Ok(page)
}
