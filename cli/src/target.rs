//! Where output goes, checked before any work is done.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use llq_gguf::{Model, Overwrite};
use same_file::Handle;
use tempfile::TempPath;

use crate::failure::Refusal;

/// What the user names as output.
pub(crate) enum Place {
    File(Target),
    /// The file's name is found when the model is known.
    Folder {
        folder: PathBuf,
        overwrite: Overwrite,
    },
}

impl Place {
    /// Checks what can be checked of `path` before `input` is opened. A folder, or what ends like
    /// one, is a place for a file.
    pub(crate) fn check(path: &Path, overwrite: Overwrite, input: &Path) -> Result<Place, Refusal> {
        if path.is_dir() {
            return Ok(Place::Folder { folder: path.to_owned(), overwrite });
        }
        if path.to_string_lossy().ends_with(std::path::is_separator) {
            return Err(no_folder(path, path));
        }
        Target::check(path, overwrite, input).map(Place::File)
    }

    /// The file, in a folder by the `name` given.
    pub(crate) fn target(
        self,
        name: impl FnOnce() -> String,
        input: &Path,
    ) -> Result<Target, Refusal> {
        match self {
            Place::File(target) => Ok(target),
            Place::Folder { folder, overwrite } => {
                Target::check(&folder.join(name()), overwrite, input)
            }
        }
    }
}

/// A path that can be written to without harm to the inputs.
pub(crate) struct Target {
    path: PathBuf,
    overwrite: Overwrite,
}

impl Target {
    /// Checks that `path` lies in a folder that exists, is none of the files of `input` (a
    /// model, or a checkpoint's folder), and does not exist unless it may be replaced.
    pub(crate) fn check(
        path: &Path,
        overwrite: Overwrite,
        input: &Path,
    ) -> Result<Target, Refusal> {
        let shown = path.display();
        let folder = folder_of(path);
        if !folder.is_dir() {
            return Err(no_folder(path, folder));
        }
        if path.is_dir() {
            return Err(Refusal::new(format!("{shown} is a folder")).hint("name the file to write"));
        }
        if path == Path::new("-") {
            return Err(Refusal::new("output is written to a file, not to standard output")
                .hint("-o ./- is the file of that name"));
        }
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Err(Refusal::new(format!("{shown} is not a regular file")));
        }
        if is_part_of(path, input) {
            return Err(Refusal::new(format!("{shown}: output and input are the same file")));
        }
        if overwrite == Overwrite::Forbid && path.symlink_metadata().is_ok() {
            return Err(Refusal::new(format!("{shown} exists")).hint("--force replaces it"));
        }
        Ok(Target { path: path.to_owned(), overwrite })
    }

    /// The same beside several inputs.
    pub(crate) fn beside(
        path: &Path,
        overwrite: Overwrite,
        inputs: &[impl AsRef<Path>],
    ) -> Result<Target, Refusal> {
        for input in inputs {
            Target::check(path, overwrite, input.as_ref())?;
        }
        Ok(Target { path: path.to_owned(), overwrite })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a finished file of the same disk here.
    pub(crate) fn take(self, file: &Path) -> anyhow::Result<()> {
        let failed = || format!("cannot write {}", self.path.display());
        let file = TempPath::try_from_path(file).with_context(failed)?;
        let moved = match self.overwrite {
            Overwrite::Forbid => file.persist_noclobber(&self.path),
            Overwrite::Replace => file.persist(&self.path),
        };
        moved.with_context(failed)
    }

    /// What a write needs to know.
    pub(crate) fn to_write(&self) -> (&Path, Overwrite) {
        (&self.path, self.overwrite)
    }
}

fn no_folder(path: &Path, folder: &Path) -> Refusal {
    let (shown, folder) = (path.display(), folder.display());
    Refusal::new(format!("{shown}: there is no folder {folder}")).hint(format!("mkdir -p {folder}"))
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Whether `path` is a file of `input`, by whatever link.
fn is_part_of(path: &Path, input: &Path) -> bool {
    // To open anything else, such as a pipe, could wait for ever.
    let handle = |path: &Path| path.is_file().then(|| Handle::from_path(path).ok()).flatten();
    let Some(target) = handle(path) else { return false };
    files_of(input).iter().filter_map(|file| handle(file)).any(|file| file == target)
}

/// The files of a checkpoint's folder, the parts of a split model, or the one file. What cannot be
/// read here is told when the input is opened.
fn files_of(input: &Path) -> Vec<PathBuf> {
    if let Ok(entries) = fs::read_dir(input) {
        return entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    }
    match Model::open(input) {
        Ok(model) => model.paths().map(Path::to_owned).collect(),
        Err(_) => vec![input.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path, overwrite: Overwrite, input: &Path) -> String {
        Target::check(path, overwrite, input).err().map(|r| r.to_string()).unwrap_or_default()
    }

    #[test]
    fn an_input_is_never_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("model.gguf");
        let link = folder.path().join("link.gguf");
        fs::write(&input, "weights").unwrap();
        fs::hard_link(&input, &link).unwrap();
        for output in [&input, &link] {
            for input in [input.as_path(), folder.path()] {
                let said = refusal(output, Overwrite::Replace, input);
                assert!(said.ends_with("output and input are the same file"), "{said}");
            }
        }
    }

    #[test]
    fn what_exists_is_kept_unless_told() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.gguf");
        let input = folder.path().join("in.gguf");
        assert_eq!(refusal(&output, Overwrite::Forbid, &input), "");
        fs::write(&output, "").unwrap();
        assert!(refusal(&output, Overwrite::Forbid, &input).ends_with("exists"));
        assert_eq!(refusal(&output, Overwrite::Replace, &input), "");
    }

    #[cfg(unix)]
    #[test]
    fn a_dangling_link_exists() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.gguf");
        std::os::unix::fs::symlink("nowhere", &output).unwrap();
        assert!(refusal(&output, Overwrite::Forbid, folder.path()).ends_with("exists"));
    }
}
