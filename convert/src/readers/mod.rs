//! Sources: one file per published form of a model.

mod adapter;
mod checkpoint;
mod general;
mod gguf;
mod hugging_face;
mod meta;

use std::path::{Path, PathBuf};

use crate::{
    Error, Source,
    error::Result,
    lora::LoraAdapter,
    weights::{InputFile, is_lfs_pointer},
};

/// Opens a checkpoint: a folder with `config.json` and safetensors (Hugging Face), a folder with
/// `params.json` and `consolidated.NN.pth` (Meta), or a GGUF file (of a split one, any). Also the
/// folder of a LoRA adapter, with `adapter_config.json`.
pub fn open(path: &Path) -> Result<Box<dyn Source>> {
    open_with(path, &OpenOptions::default())
}

/// Opens a checkpoint as [`open`] does, with what the user knows better than its files.
pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Box<dyn Source>> {
    let metadata = path.metadata().map_err(Error::io(path))?;
    if metadata.is_dir() {
        return open_folder(path, options);
    }
    refuse_adapters(path, options, "a file")?;
    refuse_base(path, options, "a file")?;
    open_file(path)
}

/// What holds whatever the files of a checkpoint say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpenOptions {
    /// The value of `tokenizer.ggml.pre`, a name that llama.cpp has for the way a byte-level BPE
    /// cuts a text into words. For checkpoints only: a GGUF file has its own.
    pub pre: Option<String>,
    /// Adapters to merge, in this order. For checkpoints only.
    pub lora: Vec<LoraAdapter>,
    /// The folder of the model that an adapter belongs to, of which `config.json` is read. For
    /// adapters only.
    pub base: Option<PathBuf>,
}

impl OpenOptions {
    fn pre(&self) -> Option<&str> {
        self.pre.as_deref()
    }
}

fn open_folder(folder: &Path, options: &OpenOptions) -> Result<Box<dyn Source>> {
    if adapter::is_adapter(folder) {
        refuse_adapters(folder, options, "an adapter itself")?;
        return Ok(Box::new(adapter::open(folder, options)?));
    }
    refuse_base(folder, options, "no adapter")?;
    if folder.join("config.json").exists() {
        Ok(Box::new(hugging_face::open(folder, options)?))
    } else if folder.join("params.json").exists() {
        Ok(Box::new(meta::open(folder, options)?))
    } else {
        let found = "no config.json and no params.json".to_owned();
        Err(Error::NotACheckpoint { path: folder.to_path_buf(), found })
    }
}

fn refuse_adapters(path: &Path, options: &OpenOptions, found: &'static str) -> Result<()> {
    let (option, wanted) = ("adapters to merge", "the folder of a checkpoint");
    let path = path.to_path_buf();
    match options.lora.is_empty() {
        true => Ok(()),
        false => Err(Error::Inapplicable { path, found, option, wanted }),
    }
}

fn refuse_base(path: &Path, options: &OpenOptions, found: &'static str) -> Result<()> {
    let (option, wanted) = ("a base", "the folder of an adapter");
    let path = path.to_path_buf();
    match options.base {
        None => Ok(()),
        Some(_) => Err(Error::Inapplicable { path, found, option, wanted }),
    }
}

fn open_file(path: &Path) -> Result<Box<dyn Source>> {
    let start = InputFile::open(path)?.start(64)?;
    if start.starts_with(b"GGUF") {
        return Ok(Box::new(gguf::open(path)?));
    }
    if is_lfs_pointer(&start) {
        return Err(Error::LfsPointer { path: path.to_path_buf() });
    }
    let start = &start[..start.len().min(4)];
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    let is_part = [".safetensors", ".pth", ".bin", ".json"].iter().any(|end| name.ends_with(end));
    let found = if is_part {
        "a part of one; name its folder".to_owned()
    } else {
        format!("a file that starts with {:?}", String::from_utf8_lossy(start))
    };
    Err(Error::NotACheckpoint { path: path.to_path_buf(), found })
}
