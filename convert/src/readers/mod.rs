//! Sources: one file per published form of a model.

mod adapter;
mod checkpoint;
pub(crate) mod general;
mod generation;
mod ggml;
mod gguf;
mod hugging_face;
mod meta;
mod mistral;
mod overridden;
mod quantized;
mod ready;
mod tied_output;

use std::path::{Path, PathBuf};

pub use self::ready::{ReadyTensor, with_ready};

use crate::{
    Error, Note, Overrides, PreName, Source,
    error::Result,
    lora::LoraAdapter,
    weights::{
        InputFile,
        ggml::{Withdrawn, is_ggml},
        is_lfs_pointer,
    },
};

/// Opens a checkpoint: a folder with `config.json` and safetensors or `pytorch_model.bin` (Hugging
/// Face), a folder with `params.json` and `consolidated.NN.pth` (Meta) or `consolidated.safetensors`
/// (Mistral), a GGUF file (of a split one, any), a llamafile or a GGML file of 2023 (of one in parts,
/// the first). Also the folder of a LoRA adapter, with `adapter_config.json`.
pub fn open(path: &Path) -> Result<Box<dyn Source>> {
    open_with(path, &OpenOptions::default())
}

/// Opens a checkpoint as [`open`] does, with what the user knows better than its files.
pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Box<dyn Source>> {
    let metadata = path.metadata().map_err(Error::io(path))?;
    let source =
        if metadata.is_dir() { open_folder(path, options) } else { open_file(path, options) }?;
    overridden::open(source, &options.overrides)
}

/// What holds whatever the files of a checkpoint say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpenOptions {
    /// The value of `tokenizer.ggml.pre`: how a byte-level BPE cuts a text into words. For
    /// checkpoints only: a GGUF file has its own.
    pub pre: Option<PreName>,
    /// The context length of a Meta checkpoint, whose files do not say it: else it is guessed.
    pub context_length: Option<u32>,
    /// What becomes of block layouts that were withdrawn. For legacy GGML files only.
    pub withdrawn: Withdrawn,
    /// The epsilon of the RMS norms, which legacy GGML files do not say. For those only.
    pub norm_epsilon: Option<f32>,
    /// Adapters to merge, in this order. For checkpoints' folders only.
    pub lora: Vec<LoraAdapter>,
    /// The folder of the model that an adapter belongs to, of which `config.json` is read. For
    /// adapters only.
    pub base: Option<PathBuf>,
    /// Metadata in place of what the files say.
    pub overrides: Overrides,
}

fn open_folder(folder: &Path, options: &OpenOptions) -> Result<Box<dyn Source>> {
    options.refuse(&[Particular::Epsilon], folder, "a folder")?;
    if adapter::is_adapter(folder) {
        options.refuse(&[Particular::Adapters], folder, "an adapter itself")?;
        return Ok(Box::new(adapter::open(folder, options)?));
    }
    options.refuse(&[Particular::Base], folder, "no adapter")?;
    let has_config = folder.join("config.json").exists();
    let is_mistral = mistral::is_in(folder);
    // Mistral publishes its own form beside that of Hugging Face, or with only its config.
    let checkpoint = if has_config && (!is_mistral || hugging_face::has_weights(folder)) {
        let mut checkpoint = hugging_face::open(folder, options)?;
        if is_mistral {
            checkpoint.note(Note(
                "the model is read in Hugging Face's form, not in Mistral's, which is there too: \
                 consolidated*.safetensors and params.json are not read"
                    .to_owned(),
            ));
        }
        checkpoint
    } else if is_mistral {
        mistral::open(folder, options)?
    } else if folder.join("params.json").exists() {
        meta::open(folder, options)?
    } else {
        let found = "no config.json and no params.json".to_owned();
        return Err(Error::NotACheckpoint { path: folder.to_path_buf(), found });
    };
    Ok(Box::new(checkpoint))
}

/// What only some inputs take.
#[derive(Clone, Copy)]
enum Particular {
    Adapters,
    Base,
    Epsilon,
    PreName,
}

impl OpenOptions {
    /// Refuses `particulars` that were given, as `path` is `found` and takes none of them.
    fn refuse(&self, particulars: &[Particular], path: &Path, found: &'static str) -> Result<()> {
        for particular in particulars {
            let (is_given, option, wanted) = match particular {
                Particular::Adapters => {
                    (!self.lora.is_empty(), "adapters to merge", "the folder of a checkpoint")
                }
                Particular::Base => (self.base.is_some(), "a base", "the folder of an adapter"),
                Particular::Epsilon => {
                    (self.norm_epsilon.is_some(), "an epsilon", "a legacy GGML file")
                }
                Particular::PreName => {
                    (self.pre.is_some(), "a pre-tokenizer's name", "a checkpoint")
                }
            };
            if is_given {
                let path = path.to_path_buf();
                return Err(Error::Inapplicable { path, found, option, wanted });
            }
        }
        Ok(())
    }
}

fn open_file(path: &Path, options: &OpenOptions) -> Result<Box<dyn Source>> {
    options.refuse(&[Particular::Adapters, Particular::Base], path, "a file")?;
    let start = InputFile::open(path)?.start(64)?;
    if is_ggml(&start) {
        return Ok(Box::new(ggml::open(path, options)?));
    }
    if is_lfs_pointer(&start) {
        return Err(Error::LfsPointer { path: path.to_path_buf() });
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    let is_part = [".safetensors", ".pth", ".bin", ".json"].iter().any(|end| name.ends_with(end));
    // Also an archive with a model in it, whatever it starts with.
    if start.starts_with(b"GGUF") || !is_part && start.len() >= 4 {
        match gguf::open(path) {
            Err(Error::Gguf(llq_gguf::Error::Magic { .. })) => {}
            opened => {
                let source = opened?;
                let particulars = [Particular::Epsilon, Particular::PreName];
                options.refuse(&particulars, path, "a GGUF file")?;
                return Ok(Box::new(source));
            }
        }
    }
    let found = if is_part {
        "a part of one; name its folder".to_owned()
    } else {
        format!(
            "a file that starts with {:?}",
            String::from_utf8_lossy(&start[..start.len().min(4)])
        )
    };
    Err(Error::NotACheckpoint { path: path.to_path_buf(), found })
}
