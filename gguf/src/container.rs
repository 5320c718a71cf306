//! Models inside of archives: a llamafile is a program with a ZIP archive behind it, in which the
//! model is stored as it is.
//!
//! Source: `llamafile/llamafile.c` and `zipalign.c` of Mozilla's llamafile.

use std::{ops::Range, path::Path};

use crate::{
    Header,
    error::{Error, Result},
    zip::{Archive, Entry, ZipError},
};

/// The name and the place of the model in `file`, where that is no model itself but an archive.
pub(crate) fn find_model(file: &[u8], path: &Path) -> Result<Option<(String, Range<usize>)>> {
    if file.starts_with(b"GGUF") {
        return Ok(None);
    }
    let Ok(archive) = Archive::read(file);
    let archive = match archive {
        Err(ZipError::NoDirectory) => return Ok(None),
        other => other.map_err(damaged(path))?,
    };
    let is_model = |entry: &&Entry| has_extension(entry.name());
    let models: Vec<&Entry> = archive.entries().iter().filter(is_model).collect();
    let entry = only_one(&archive, &models, file, path)?;
    if entry.is_compressed() {
        return Err(Error::Compressed { path: path.to_owned(), entry: entry.name().to_owned() });
    }
    let range = locate(&archive, entry, file).map_err(damaged(path))?;
    Ok(Some((entry.name().to_owned(), range)))
}

fn has_extension(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len().checked_sub(5).is_some_and(|dot| bytes[dot..].eq_ignore_ascii_case(b".gguf"))
}

/// The one model; of several the one that is no projector, which models that see come with.
fn only_one<'a>(
    archive: &Archive,
    models: &[&'a Entry],
    file: &[u8],
    path: &Path,
) -> Result<&'a Entry> {
    if let [only] = models {
        return Ok(only);
    }
    let is_projector = |entry: &Entry| {
        let range = locate(archive, entry, file).ok();
        let header = range.and_then(|range| Header::parse(&file[range], path).ok());
        header.is_some_and(|header| {
            header.metadata.string("general.architecture").is_ok_and(|name| name == "clip")
        })
    };
    // More than this is no model with its projector, and parsing each takes its time.
    let few = if models.len() <= 4 { models } else { &[] };
    let mut language = few.iter().filter(|entry| !is_projector(entry));
    match (language.next(), language.next()) {
        (Some(only), None) => Ok(only),
        _ => {
            let found = models.iter().map(|entry| entry.name().to_owned()).collect();
            Err(Error::Entries { path: path.to_owned(), found })
        }
    }
}

fn locate(
    archive: &Archive,
    entry: &Entry,
    file: &[u8],
) -> std::result::Result<Range<usize>, ZipError> {
    let Ok(stored) = archive.locate(entry, file);
    // Its end lies before the directory's start.
    stored.map(|stored| stored.start as usize..(stored.start + stored.bytes) as usize)
}

fn damaged(path: &Path) -> impl Fn(ZipError) -> Error {
    |problem| Error::Archive { path: path.to_owned(), problem }
}
