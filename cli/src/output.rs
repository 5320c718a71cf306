//! Where text goes: data to standard output, everything said about it to standard error.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use anyhow::Context;
use clap::builder::styling::{Style, Styles};
use indicatif::MultiProgress;
use serde::Serialize;

use crate::{
    args::GlobalArgs,
    escape,
    progress::{Progress, Unit},
};

const STYLES: Styles = Styles::styled();
const DIM: Style = Style::new().dimmed();

/// Standard output and standard error of one run, as the user asked for them.
pub(crate) struct Output {
    form: Form,
    progress: ProgressStyle,
    bars: MultiProgress,
}

/// What results are printed as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Tables and sentences.
    Text,
    /// One JSON value.
    Json,
}

/// How a long step shows that it moves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgressStyle {
    /// A bar on a terminal.
    Bar,
    /// A line now and then, in a log.
    Lines,
    /// Not at all.
    Silent,
}

/// The reader of standard output went away.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub(crate) struct StdoutClosed;

impl Output {
    pub(crate) fn new(global: &GlobalArgs) -> Output {
        Output { form: global.form(), progress: progress_style(global), bars: MultiProgress::new() }
    }

    /// What results are to be printed as.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Prints a result in the form that was asked for.
    pub(crate) fn result(&self, result: &(impl Display + Serialize)) -> anyhow::Result<()> {
        match self.form {
            Form::Text => self.data(&result.to_string()),
            Form::Json => self.json(result),
        }
    }

    /// Prints a value as JSON. What a terminal would act on is escaped there too.
    pub(crate) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(value)?;
        self.data(&format!("{}\n", escape::json(&json)))
    }

    /// Writes to standard output.
    pub(crate) fn data(&self, text: &str) -> anyhow::Result<()> {
        let written = self.bars.suspend(|| {
            let mut stdout = anstream::stdout().lock();
            stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
            other => other.context("cannot write to standard output"),
        }
    }

    /// Says that a step was done; silent with `--quiet`.
    pub(crate) fn done(&self, message: &impl Display) {
        if self.progress != ProgressStyle::Silent {
            self.say(&format!("{message}\n"));
        }
    }

    /// Says what the user must know about the result, `--quiet` or not.
    pub(crate) fn note(&self, message: &impl Display) {
        self.say(&format!("{DIM}note:{DIM:#} {message}\n"));
    }

    /// Says that the result is not to be used as it is.
    pub(crate) fn warning(&self, message: &impl Display) {
        let style = STYLES.get_error();
        self.say(&format!("{style}warning:{style:#} {message}\n"));
    }

    /// Says why the run failed.
    pub(crate) fn error(&self, message: &impl Display) {
        let style = STYLES.get_error();
        self.say(&format!("{style}error:{style:#} {message}\n"));
    }

    /// Says what lies behind the error above.
    pub(crate) fn cause(&self, message: &impl Display) {
        self.say(&format!("  caused by: {message}\n"));
    }

    /// Says what can be done about the error above.
    pub(crate) fn hint(&self, message: &impl Display) {
        let style = STYLES.get_valid();
        self.say(&format!("{style}hint:{style:#} {message}\n"));
    }

    /// Starts to show the progress of a step over `total` units.
    pub(crate) fn progress(&self, label: &str, total: u64, unit: Unit) -> Progress<'_> {
        Progress::start(self, label, total, unit)
    }

    pub(crate) fn progress_style(&self) -> ProgressStyle {
        self.progress
    }

    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Writes to standard error. A closed standard error leaves nobody to tell.
    fn say(&self, text: &str) {
        self.bars.suspend(|| {
            let _ = anstream::stderr().lock().write_all(text.as_bytes());
        });
    }
}

fn progress_style(global: &GlobalArgs) -> ProgressStyle {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if global.quiet {
        ProgressStyle::Silent
    } else if io::stderr().is_terminal() && !dumb {
        ProgressStyle::Bar
    } else {
        ProgressStyle::Lines
    }
}
