//! The weights of a folder in files of one form: a single file, several with an index, or numbered
//! shards without one.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    PublishedTensor, Weights,
    index::{file_name, promised_tensors, shard_count, shard_names},
    safetensors::SafetensorsFile,
    torch::TorchFile,
};
use crate::{Error, Note, error::Result};

/// Names that weights have in a folder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    stem: &'static str,
    container: Container,
}

#[derive(Clone, Copy, Debug)]
enum Container {
    Safetensors,
    PyTorch,
}

impl Form {
    /// `model.safetensors`
    pub(crate) const SAFETENSORS: Form = Form { stem: "model", container: Container::Safetensors };
    /// `pytorch_model.bin`
    pub(crate) const PYTORCH: Form = Form { stem: "pytorch_model", container: Container::PyTorch };
    /// `consolidated.safetensors`, as Mistral publishes.
    pub(crate) const CONSOLIDATED: Form =
        Form { stem: "consolidated", container: Container::Safetensors };

    fn extension(self) -> &'static str {
        match self.container {
            Container::Safetensors => ".safetensors",
            Container::PyTorch => ".bin",
        }
    }

    fn single(self) -> String {
        format!("{}{}", self.stem, self.extension())
    }

    fn index(self) -> String {
        self.single() + ".index.json"
    }

    /// Whether `folder` has a file of this form.
    pub(crate) fn is_in(self, folder: &Path) -> bool {
        self.first_of(&file_names(folder)).is_some()
    }

    /// The file of this form among `names` that is read first.
    fn first_of(self, names: &[String]) -> Option<&String> {
        let find = |wanted: &str| names.iter().find(|name| *name == wanted);
        let is_shard = |name: &&String| shard_count(name, self.stem, self.extension()).is_some();
        find(&self.index()).or(find(&self.single())).or(names.iter().filter(is_shard).min())
    }

    fn open_file(self, path: &Path) -> Result<WeightFile> {
        Ok(match self.container {
            Container::Safetensors => WeightFile::Safetensors(SafetensorsFile::open(path)?),
            Container::PyTorch => WeightFile::PyTorch(TorchFile::open(path)?),
        })
    }
}

/// A file of tensors in one of Hugging Face's containers.
#[derive(Debug)]
pub(crate) enum WeightFile {
    Safetensors(SafetensorsFile),
    PyTorch(TorchFile),
}

impl WeightFile {
    pub(crate) fn path(&self) -> &Path {
        match self {
            WeightFile::Safetensors(file) => file.path(),
            WeightFile::PyTorch(file) => file.path(),
        }
    }
}

impl Weights for WeightFile {
    fn tensors(&self) -> &[PublishedTensor] {
        match self {
            WeightFile::Safetensors(file) => file.tensors(),
            WeightFile::PyTorch(file) => file.tensors(),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.path().to_path_buf()]
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        match self {
            WeightFile::Safetensors(file) => file.read_rows(tensor, rows, out),
            WeightFile::PyTorch(file) => file.read_rows(tensor, rows, out),
        }
    }
}

/// All tensors of a folder.
#[derive(Debug)]
pub(crate) struct WeightFolder {
    files: Vec<WeightFile>,
    tensors: Vec<PublishedTensor>,
    /// For each tensor its file and its index there.
    places: Vec<(usize, usize)>,
}

impl WeightFolder {
    /// Opens the weights of the first of `forms` that `folder` has; others it has are noted.
    pub(crate) fn open(
        folder: &Path,
        forms: &[Form],
        notes: &mut Vec<Note>,
    ) -> Result<WeightFolder> {
        let names = file_names(folder);
        let mut found = forms.iter().filter_map(|&form| Some((form, form.first_of(&names)?)));
        let Some((form, first)) = found.next() else {
            let wanted = forms.iter().flat_map(|form| [form.single(), form.index()]);
            let wanted: Vec<String> = wanted.collect();
            let looked_for = wanted.join(" or ") + &instead(&names);
            return Err(Error::MissingFile { folder: folder.to_path_buf(), looked_for });
        };
        notes.extend(found.map(|(_, other)| {
            Note(format!("the weights are read from {first}, not from {other}, which is there too"))
        }));
        let all = Self::open_form(folder, form, &names)?;
        let single = folder.join(form.single());
        if single.exists() && all.files.iter().all(|file| file.path() != single) {
            let (index, single) = (form.index(), form.single());
            notes.push(Note(format!(
                "the weights are those that {index} names, not those of {single}, which is there too"
            )));
        }
        Ok(all)
    }

    fn open_form(folder: &Path, form: Form, names: &[String]) -> Result<WeightFolder> {
        let (index, single) = (folder.join(form.index()), folder.join(form.single()));
        if index.exists() {
            return Self::open_indexed(form, &index, folder);
        }
        let paths: Vec<PathBuf> = if single.exists() {
            vec![single]
        } else {
            let shards = shard_names(folder, names, form.stem, form.extension())?;
            shards.iter().map(|name| folder.join(name)).collect()
        };
        let files: Result<_> = paths.iter().map(|path| form.open_file(path)).collect();
        Self::collect(files?)
    }

    fn open_indexed(form: Form, index: &Path, folder: &Path) -> Result<WeightFolder> {
        let promised = promised_tensors(index)?;
        let mut files = Vec::with_capacity(promised.len());
        for (name, tensors) in &promised {
            let file = form.open_file(&folder.join(name))?;
            let present: HashSet<&str> = file.tensors().iter().map(|t| t.name.as_str()).collect();
            if let Some(absent) = tensors.iter().find(|name| !present.contains(name.as_str())) {
                let index = file_name(index);
                let problem = format!("tensor {absent:?} is not in it, though {index} says so");
                return Err(Error::Shards { path: file.path().to_path_buf(), problem });
            }
            files.push(file);
        }
        Self::collect(files)
    }

    fn collect(files: Vec<WeightFile>) -> Result<WeightFolder> {
        let mut tensors = Vec::new();
        let mut places = Vec::new();
        let mut owner: HashMap<&str, usize> = HashMap::new();
        for (f, file) in files.iter().enumerate() {
            for (t, tensor) in file.tensors().iter().enumerate() {
                if let Some(first) = owner.insert(&tensor.name, f) {
                    let first = files[first].path().display();
                    let problem = format!("tensor {:?} is also in {first}", tensor.name);
                    return Err(Error::Shards { path: file.path().to_path_buf(), problem });
                }
                tensors.push(tensor.clone());
                places.push((f, t));
            }
        }
        Ok(WeightFolder { files, tensors, places })
    }
}

impl Weights for WeightFolder {
    fn tensors(&self) -> &[PublishedTensor] {
        &self.tensors
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.iter().flat_map(Weights::files).collect()
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let (file, index) = self.places[tensor];
        self.files[file].read_rows(index, rows, out)
    }
}

/// What is in a folder; nothing where it can not be read.
fn file_names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What a folder has that looks like weights, for the error that none were found.
fn instead(names: &[String]) -> String {
    const WEIGHTS: [&str; 3] = [".safetensors", ".bin", ".pth"];
    let weights = names.iter().filter(|name| WEIGHTS.iter().any(|end| name.ends_with(end)));
    weights.min().map_or_else(String::new, |name| format!(", though there is {name}"))
}
