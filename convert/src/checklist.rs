//! Meta's lists of MD5 sums beside its checkpoints, and whether the files have them.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use md5::{Digest, Md5};
use rayon::prelude::*;

use crate::{
    Error, Note, Progress,
    error::Result,
    weights::{InputFile, is_plain_file_name},
};

/// The lists Meta publishes: of a model, and of a tokenizer that several models share.
const CHECKLIST: &str = "checklist.chk";
const TOKENIZER_CHECKLIST: &str = "tokenizer_checklist.chk";

/// Size limit of a list in bytes: sixteen shards have one thousand.
const MAX_LIST: u64 = 64 << 10;

/// Whether `folder` has the list that [`verify_checksums`] needs.
pub fn has_checksums(folder: &Path) -> bool {
    folder.join(CHECKLIST).exists()
}

/// Compares each file that Meta's `checklist.chk` in `folder` lists with its MD5 sum, and the
/// tokenizer with `tokenizer_checklist.chk` in `folder` or the one above. Returns what was left
/// unchecked: files of the checkpoint that no list has.
///
/// # Errors
/// A sum that differs; a file that is listed and absent; a list that is none; no list at all.
pub fn verify_checksums(folder: &Path, progress: &dyn Progress) -> Result<Vec<Note>> {
    let lists = lists(folder);
    if !has_checksums(folder) {
        let looked_for = format!("{CHECKLIST}, Meta's list of MD5 sums to verify the files with");
        return Err(Error::MissingFile { folder: folder.to_path_buf(), looked_for });
    }
    let mut sums = Vec::new();
    for list in &lists {
        sums.extend(read(list)?);
    }
    let files: Vec<InputFile> = sums.iter().map(Sum::open).collect::<Result<_>>()?;
    progress.begin(files.iter().map(InputFile::len).fold(0, u64::saturating_add));
    let found: Vec<Result<[u8; 16]>> = files.par_iter().map(|file| md5(file, progress)).collect();
    for (sum, found) in sums.iter().zip(found) {
        sum.check(found?)?;
    }
    let checked: HashSet<&Path> = sums.iter().map(|sum| sum.file.as_path()).collect();
    unlisted(folder, &checked)
}

/// The lists there are for a model in `folder`: LLaMA 1 and 2 have the tokenizer's one folder up.
fn lists(folder: &Path) -> Vec<PathBuf> {
    let above = folder.join("..").join(TOKENIZER_CHECKLIST);
    let tokenizer =
        [folder.join(TOKENIZER_CHECKLIST), above].into_iter().find(|list| list.exists());
    let own = Some(folder.join(CHECKLIST)).filter(|list| list.exists());
    own.into_iter().chain(tokenizer).collect()
}

/// A line of a list.
struct Sum {
    list: PathBuf,
    file: PathBuf,
    expected: [u8; 16],
}

/// The lines of a list: a sum in hexadecimal, spaces (and the `*` of binary mode), a file name.
fn read(list: &Path) -> Result<Vec<Sum>> {
    let text = String::from_utf8_lossy(&InputFile::read_small(list, MAX_LIST)?).into_owned();
    let folder = list.parent().unwrap_or(Path::new(""));
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let fail = || Error::Checklist { path: list.to_path_buf(), line: index + 1 };
            let (expected, name) = parse(line).ok_or_else(fail)?;
            Ok(Sum { list: list.to_path_buf(), file: folder.join(name), expected })
        })
        .collect()
}

/// A sum and the name of a file beside the list; other folders are none of its business.
fn parse(line: &str) -> Option<([u8; 16], &str)> {
    let (digits, name) = line.trim().split_once(char::is_whitespace)?;
    let name = name.trim_start().trim_start_matches('*');
    let mut sum = [0; 16];
    let digits = digits.as_bytes();
    if !is_plain_file_name(name) || digits.len() != 2 * sum.len() {
        return None;
    }
    for (byte, pair) in sum.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = ((digit(pair[0])? << 4) | digit(pair[1])?) as u8;
    }
    Some((sum, name))
}

impl Sum {
    fn open(&self) -> Result<InputFile> {
        if self.file.exists() {
            return InputFile::open(&self.file);
        }
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let list = self.list.file_name().unwrap_or_default().to_string_lossy();
        let folder = self.list.parent().unwrap_or(Path::new("")).to_path_buf();
        Err(Error::MissingFile { folder, looked_for: format!("{name}, which {list} lists") })
    }

    fn check(&self, found: [u8; 16]) -> Result<()> {
        if found == self.expected {
            return Ok(());
        }
        let (path, list) = (self.file.clone(), self.list.clone());
        Err(Error::Checksum { path, list, expected: hex(self.expected), found: hex(found) })
    }
}

fn hex(sum: [u8; 16]) -> String {
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn md5(file: &InputFile, progress: &dyn Progress) -> Result<[u8; 16]> {
    const AT_ONCE: u64 = 4 << 20;
    let mut hasher = Md5::new();
    let mut buffer = vec![0; AT_ONCE.min(file.len()) as usize];
    let mut done = 0;
    while done < file.len() {
        let some = &mut buffer[..AT_ONCE.min(file.len() - done) as usize];
        file.read_at(done, some)?;
        hasher.update(&*some);
        done += some.len() as u64;
        progress.advance(some.len() as u64);
    }
    Ok(hasher.finalize().into())
}

/// Files that a conversion reads and that are in no list.
fn unlisted(folder: &Path, checked: &HashSet<&Path>) -> Result<Vec<Note>> {
    let mut names = Vec::new();
    for entry in folder.read_dir().map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name();
        let text = name.to_string_lossy();
        let is_read = text.starts_with("consolidated.")
            || text.starts_with("fp8_scales_")
            || matches!(&*text, "params.json" | "tokenizer.model");
        if is_read && !checked.contains(folder.join(&name).as_path()) {
            names.push(text.into_owned());
        }
    }
    names.sort_unstable();
    let note = |name| Note(format!("{name} is in no list of MD5 sums: it was not verified"));
    Ok(names.into_iter().map(note).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_a_sum_and_a_name_beside_the_list() {
        const SUM: &str = "f30ee615fa3908ce0941816895659bc7";
        let name = |line: String| parse(&line).map(|(_, name)| name.to_owned());
        for between in [" ", "  ", " *", "\t"] {
            assert_eq!(name(format!("{SUM}{between}a b.pth")).as_deref(), Some("a b.pth"));
        }
        assert_eq!(parse(&format!("{SUM}  x")).map(|(sum, _)| hex(sum)).as_deref(), Some(SUM));
        for line in [
            SUM.to_owned(),
            format!("{SUM}  ../x"),
            format!("{SUM}  /etc/passwd"),
            format!("{SUM}0 x"),
            format!("{}  x", SUM.replace('f', "g")),
            format!("{}  x", "é".repeat(16)),
        ] {
            assert_eq!(name(line.clone()), None, "{line}");
        }
    }
}
