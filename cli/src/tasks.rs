//! The commands by what they are for, as `llq help` shows them.

use std::fmt::Write as _;

use clap::{Command, builder::StyledStr};

/// What somebody wants to do, and the commands for it.
const TASKS: [(&str, &[&str]); 4] = [
    ("Make a model", &["convert", "quantize", "imatrix", "transform", "sample"]),
    ("Judge it", &["perplexity", "sweep", "compare", "verify"]),
    (
        "Look into it, change it, pass it on",
        &["inspect", "diff", "edit", "split", "merge", "hash", "tokenize"],
    ),
    ("llq itself", &["formats", "cpu", "bench", "completions", "man", "help"]),
];

/// Options follow under the last heading: `{options}` has none of its own.
const HELP: &str = "{about-with-newline}\n{usage-heading} {usage}{after-help}\n{options}";

/// The command with a help that lists its subcommands by task, behind `examples`.
pub(crate) fn by_task(command: Command, examples: &str) -> Command {
    let header = command.get_styles().get_header();
    let mut list = format!("{examples}\n\n");
    let entries = entries(&command);
    for (task, names) in TASKS {
        let _ = writeln!(list, "{header}{task}:{header:#}");
        for name in names {
            let entry = entries.iter().find(|(entry, _)| entry == name);
            list.push_str(entry.map_or("", |(_, text)| text));
        }
        list.push('\n');
    }
    let _ = write!(list, "{header}Everywhere:{header:#}");
    command.help_template(HELP).after_help(StyledStr::from(list))
}

/// Names and lines of the subcommands, as clap lays them out.
fn entries(command: &Command) -> Vec<(String, String)> {
    let mut list = command.clone().help_template("{subcommands}");
    let text = list.render_help().ansi().to_string();
    let names = list.get_subcommands().map(|command| command.get_name().to_owned());
    let mut lines = text.lines().peekable();
    names
        .map(|name| {
            let mut entry = String::new();
            while let Some(line) = lines.next_if(|line| entry.is_empty() || line.starts_with("   "))
            {
                let _ = writeln!(entry, "{line}");
            }
            (name, entry)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn every_command_is_listed_once() {
        let mut whole = Cli::command();
        whole.build();
        let listed: Vec<&str> = TASKS.iter().flat_map(|(_, names)| *names).copied().collect();
        let commands: BTreeSet<&str> = whole.get_subcommands().map(Command::get_name).collect();
        assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), commands);
        assert_eq!(listed.len(), commands.len());
        let help = by_task(whole.clone(), "").render_help().to_string();
        for command in commands {
            assert!(help.contains(&format!("\n  {command} ")), "{command} in {help}");
        }
    }
}
