//! A folder of corpus files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{Form, cannot_read};
use crate::{escape::Escaped, failure::Refusal, figures::Count, output::Output};

/// The files of a known form that lie in the folder itself, in the order of their names. Others
/// are named in a note, but for hidden ones.
pub(super) fn files(folder: &Path, output: &Output) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| cannot_read(folder))?;
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| cannot_read(folder))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let is_corpus = |path: &PathBuf| path.is_file() && Form::of_name(path).is_some();
    let (files, others): (Vec<_>, Vec<_>) = paths.into_iter().partition(is_corpus);
    if files.is_empty() {
        let refusal = Refusal::new(format!("{}: no corpus in this folder", folder.display()));
        return Err(refusal
            .hint("files end in .txt, .jsonl or .json, or these and .gz or .zst")
            .into());
    }
    if let Some(first) = others.first() {
        let (count, folder) = (Count(others.len() as u64), folder.display().to_string());
        let first = first.file_name().unwrap_or_default().to_string_lossy();
        let more = if others.len() > 1 { ", …" } else { "" };
        let (folder, first) = (Escaped(&folder), Escaped(&first));
        output.note(&format_args!("{count} in {folder} not read: {first}{more}"));
    }
    Ok(files)
}
