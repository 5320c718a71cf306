//! The safetensors files of a Hugging Face folder: one, or several with an index.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{InputFile, PublishedTensor, Weights, safetensors::SafetensorsFile};
use crate::{Error, error::Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Size limit of an index, in bytes.
const MAX_INDEX: u64 = 64 << 20;

/// All tensors of a folder.
#[derive(Debug)]
pub(crate) struct SafetensorsFolder {
    files: Vec<SafetensorsFile>,
    tensors: Vec<PublishedTensor>,
    /// For each tensor its file and its index there.
    places: Vec<(usize, usize)>,
}

impl SafetensorsFolder {
    /// Opens what `folder` has: the index where there is one, else the single file.
    pub(crate) fn open(folder: &Path) -> Result<SafetensorsFolder> {
        let index = folder.join(INDEX);
        let single = folder.join(SINGLE);
        if index.exists() {
            Self::open_indexed(&index, folder)
        } else if single.exists() {
            Self::collect(vec![SafetensorsFile::open(&single)?])
        } else {
            let looked_for = format!("{SINGLE} or {INDEX}{}", instead(folder));
            Err(Error::MissingFile { folder: folder.to_path_buf(), looked_for })
        }
    }

    fn open_indexed(index: &Path, folder: &Path) -> Result<SafetensorsFolder> {
        let promised = promised_tensors(index, folder)?;
        let mut files = Vec::with_capacity(promised.len());
        for (name, tensors) in &promised {
            let file = SafetensorsFile::open(&folder.join(name))?;
            let present: HashSet<&str> = file.tensors().iter().map(|t| t.name.as_str()).collect();
            if let Some(absent) = tensors.iter().find(|name| !present.contains(name.as_str())) {
                let problem = format!("tensor {absent:?} is not in it, though {INDEX} says so");
                return Err(Error::Shards { path: file.path().to_path_buf(), problem });
            }
            files.push(file);
        }
        Self::collect(files)
    }

    fn collect(files: Vec<SafetensorsFile>) -> Result<SafetensorsFolder> {
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
        Ok(SafetensorsFolder { files, tensors, places })
    }
}

impl Weights for SafetensorsFolder {
    fn tensors(&self) -> &[PublishedTensor] {
        &self.tensors
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let (file, index) = self.places[tensor];
        self.files[file].read_rows(index, rows, out)
    }
}

/// What a folder has that looks like weights, for the error that none were found.
fn instead(folder: &Path) -> String {
    const WEIGHTS: [&str; 3] = [".safetensors", ".bin", ".pth"];
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let first = names.filter(|name| WEIGHTS.iter().any(|end| name.ends_with(end))).min();
    first.map_or_else(String::new, |name| format!(", though there is {name}"))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The tensors that the index promises of each file.
fn promised_tensors(index: &Path, folder: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let json = InputFile::read_small(index, MAX_INDEX)?;
    let Index { weight_map } = serde_json::from_slice(&json)
        .map_err(|source| Error::Json { path: index.to_path_buf(), source })?;
    let fail = |problem| Error::Shards { path: index.to_path_buf(), problem };
    if weight_map.is_empty() {
        return Err(fail("weight_map names no tensor".to_owned()));
    }
    let mut promised: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in weight_map {
        if !is_plain_file_name(&file) {
            let problem = format!("tensor {tensor:?} is said to be in {file:?}");
            return Err(fail(problem + ", which is no file name of this folder"));
        }
        promised.entry(file).or_default().push(tensor);
    }
    let absent: Vec<&str> =
        promised.keys().filter(|file| !folder.join(file).exists()).map(String::as_str).collect();
    if !absent.is_empty() {
        return Err(Error::MissingFile {
            folder: PathBuf::from(folder),
            looked_for: format!("{}, which {INDEX} names", absent.join(", ")),
        });
    }
    Ok(promised)
}

/// Whether `name` stays in its folder.
fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(part)), None) if part == name)
}
