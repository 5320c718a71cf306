//! How a failed run is told: one line per cause, a hint where there is one, and the exit code.

use std::{borrow::Cow, process::ExitCode};

use crate::{
    escape::Escaped,
    output::{Output, StdoutClosed},
};

/// The exit code of a check that found something bad.
pub(crate) const FOUND_BAD: u8 = 1;

/// The exit code of wrong usage, bad input, and everything that kept llq from its work.
const FAILED: u8 = 2;

/// A message of the command line's own, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    message: String,
    hint: Option<String>,
}

impl Refusal {
    pub(crate) fn new(message: impl Into<String>) -> Refusal {
        Refusal { message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = Some(hint.into());
        self
    }
}

/// Prints `error` and gives the exit code. A reader that closed its end of the pipe has what it
/// wanted: that is no failure.
pub(crate) fn report(error: &anyhow::Error, output: &Output) -> ExitCode {
    if error.is::<StdoutClosed>() {
        return ExitCode::SUCCESS;
    }
    let mut links = distinct(error.chain().map(ToString::to_string)).into_iter();
    output.error(&Escaped(&shortened(&links.next().unwrap_or_default())));
    for link in links {
        output.cause(&Escaped(&shortened(&link)));
    }
    if let Some(hint) = error.downcast_ref::<Refusal>().and_then(|r| r.hint.as_ref()) {
        output.hint(&Escaped(hint));
    }
    ExitCode::from(FAILED)
}

/// Leaves out a cause that the line before it has already said: many errors end with their source.
fn distinct(links: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for link in links {
        if !kept.last().is_some_and(|before| before.contains(&link)) {
            kept.push(link);
        }
    }
    kept
}

/// The message without the middle of what a hostile file can make of it.
fn shortened(message: &str) -> Cow<'_, str> {
    const LONGEST: usize = 1000;
    const KEPT: usize = 400;
    let start = message.char_indices().nth(KEPT);
    let end = message.char_indices().nth_back(KEPT);
    match (message.chars().count() > LONGEST, start, end) {
        (true, Some((start, _)), Some((end, _))) => {
            format!("{} … {}", &message[..start], &message[end..]).into()
        }
        _ => message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_keep_their_ends() {
        let long = format!("model.gguf: {} is no tensor", "é".repeat(100_000));
        let short = shortened(&long);
        assert!(short.len() < 2000, "{}", short.len());
        assert!(short.starts_with("model.gguf: é") && short.ends_with("é is no tensor"));
        assert_eq!(shortened("as it is"), "as it is");
    }

    #[test]
    fn a_cause_is_said_once() {
        let links = ["cannot read a.gguf", "a.gguf: not found", "not found", "os error 2"];
        let kept = distinct(links.into_iter().map(String::from));
        assert_eq!(kept, ["cannot read a.gguf", "a.gguf: not found", "os error 2"]);
    }
}
