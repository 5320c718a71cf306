//! `llq edit`: other metadata for a GGUF file.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::ArgGroup;
use llq_convert::{Edit, Overrides, Rewritten};
use serde::Serialize;

use super::diff::{KeyDiff, keys};
use crate::{
    args::HELP, escape::Escaped, failure::Refusal, figures::Count, interrupt::Writing,
    output::Output, progress::Reading,
};

const EXAMPLES: &str = "\
Examples:
  llq edit model.gguf --set general.name='Llama 2 7B'
  llq edit model.gguf --set tokenizer.ggml.eos_token_id=128009 --delete general.url
  llq edit model.gguf --chat-template chat_template.jinja
  llq edit model.gguf --set my.key=u32:7 --dry-run";

/// Change the metadata of a GGUF file: set, delete and rename keys.
///
/// Where only a few bytes change and nothing moves, they are written in place; otherwise a new file is
/// written beside the old one and takes its name when it is complete. Of a split model the first part
/// changes. What llq decides or weights depend on, such as the architecture and the vocabulary, stays as
/// it is, and so does what a loader could no longer load.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
#[command(group(ArgGroup::new("changes").required(true).multiple(true)
    .args(["set", "delete", "rename", "chat_template", "metadata"])))]
pub(crate) struct Args {
    /// The GGUF file
    model: PathBuf,

    /// Set a key. The value has the type that the key has or is known to have; of a new key it is JSON or a
    /// text, or says its type, as u32:7
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,

    /// Remove a key
    #[arg(long, value_name = "KEY")]
    delete: Vec<String>,

    /// Give a value another key
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    rename: Vec<(String, String)>,

    /// Set the chat template to the text of this file, which is never run
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,

    /// A JSON file, an object of metadata to set, as in llq convert; null removes a key
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,

    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    let edit = Edit::plan(&args.model, &changes(args)?)?;
    let (before, after) = (edit.before().clone(), edit.after().clone());
    let metadata = keys(&before, &after);
    let written = match args.dry_run {
        true => None,
        false => Some(write(edit, &args.model, output)?),
    };
    if let Some(written) = written {
        let (model, count) = (args.model.display().to_string(), Count(metadata.len() as u64));
        let how = match written {
            Rewritten::Unchanged => "nothing to change".to_owned(),
            Rewritten::InPlace => format!("keys changed in place: {count}"),
            Rewritten::Replaced => format!("keys changed in a new file: {count}"),
        };
        output.done(&format_args!("{}: {how}", Escaped(&model)));
    }
    output.result(&Edited { written: written.map(name), metadata })?;
    Ok(ExitCode::SUCCESS)
}

fn write(edit: Edit, path: &Path, output: &Output) -> anyhow::Result<Rewritten> {
    let writing = Writing::start();
    let progress = Stoppable { shown: Reading::new(output, "writing"), writing: &writing };
    edit.write(&progress).with_context(|| Refusal::new(format!("cannot change {}", path.display())))
}

/// Shows a write, and stops it where Ctrl-C was pressed.
struct Stoppable<'a> {
    shown: Reading<'a>,
    writing: &'a Writing,
}

impl llq_convert::Progress for Stoppable<'_> {
    fn begin(&self, total_bytes: u64) {
        self.shown.begin(total_bytes);
    }

    fn advance(&self, bytes: u64) {
        self.shown.advance(bytes);
        self.writing.check();
    }
}

fn changes(args: &Args) -> anyhow::Result<Overrides> {
    let mut changes = match &args.metadata {
        Some(path) => Overrides::read(path)?,
        None => Overrides::default(),
    };
    args.rename.iter().for_each(|(from, to)| changes.rename(from, to));
    args.delete.iter().for_each(|key| changes.remove(key));
    args.set.iter().for_each(|(key, value)| changes.set(key, value));
    if let Some(path) = &args.chat_template {
        /// The longest templates of published models have about a tenth of it.
        const MOST_BYTES: u64 = 1 << 20;
        let shown = path.display();
        let bytes = fs::metadata(path).with_context(|| shown.to_string())?.len();
        if bytes > MOST_BYTES {
            return Err(Refusal::new(format!("{shown}: {bytes} bytes are no template")).into());
        }
        let template = fs::read_to_string(path).with_context(|| shown.to_string())?;
        changes.set("tokenizer.chat_template", template);
    }
    Ok(changes)
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected a key, = and what it becomes")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn name(written: Rewritten) -> &'static str {
    match written {
        Rewritten::Unchanged => "unchanged",
        Rewritten::InPlace => "in place",
        Rewritten::Replaced => "new file",
    }
}

/// What is printed.
#[derive(Serialize)]
struct Edited<'a> {
    /// `None` of a dry run.
    written: Option<&'static str>,
    metadata: Vec<KeyDiff<'a>>,
}

impl fmt::Display for Edited<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.metadata.iter().try_for_each(|key| write!(f, "{key}"))
    }
}
