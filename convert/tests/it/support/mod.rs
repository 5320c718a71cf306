//! A LLaMA of a few kilobytes, written in either published form, and ways to convert it.

pub(crate) mod ggml;
pub(crate) mod lora;
pub(crate) mod meta;
pub(crate) mod pickle;
pub(crate) mod tiny;

use std::path::Path;

use llq_convert::{Error, Output, Overwrite, Plan, Report, Request, Silent, open, write};
use llq_gguf::Model;
use llq_quant::mix::{Mix, Recipe};

/// What a folder looks like afterwards.
pub(crate) fn listing(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn request(mix: Mix) -> Request {
    Request { output: Output::Recipe(Recipe::new(mix)), ..Request::default() }
}

/// Plans and writes; returns what the writing reported.
pub(crate) fn try_convert(
    source: &Path,
    target: &Path,
    request: &Request,
) -> Result<Report, Error> {
    let source = open(source)?;
    let plan = Plan::new(&*source, request)?;
    write(&*source, &plan, target, Overwrite::Forbid, &Silent)
}

/// The bytes of the file that `request` makes of `source`.
pub(crate) fn converted(source: &Path, request: &Request) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.gguf");
    try_convert(source, &target, request).unwrap();
    std::fs::read(target).unwrap()
}

pub(crate) fn converted_model(source: &Path, request: &Request) -> Model {
    Model::from_bytes(converted(source, request)).unwrap()
}

/// The error of a conversion to `request`, after a check that nothing was left behind.
pub(crate) fn failure(source: &Path, request: &Request) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let error = try_convert(source, &folder.path().join("out.gguf"), request).unwrap_err();
    assert_eq!(listing(folder.path()), [""; 0], "a failed conversion leaves nothing behind");
    error
}

/// The error of the small model after a change to it.
pub(crate) fn tiny_failure(change: impl Fn(&mut tiny::Tiny)) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = tiny::Tiny::new();
    change(&mut tiny);
    tiny.write(folder.path());
    failure(folder.path(), &Request::default())
}

/// Asserts that an error's message has all the parts.
#[track_caller]
pub(crate) fn assert_says(error: &Error, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}
