//! Planning the files of a model: one, or the parts of a split one.

use std::path::{Path, PathBuf};

use crate::{
    Endian, Layout, Metadata, TensorInfo, TensorSpec, Value,
    error::{Error, Result},
    limits,
    split::{COUNT, NUMBER, ShardName, TENSORS},
};

/// Where a model is cut into several files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// Nowhere.
    #[default]
    Never,
    /// Before a file would have more than this many bytes. A tensor that is larger by itself gets
    /// a file of its own.
    Bytes(u64),
    /// Before a file would have more than this many tensors.
    Tensors(u64),
}

/// Most parts that a model may have: `split.count` is a `u16`.
const MOST_PARTS: usize = u16::MAX as usize;

/// A planned model: the layouts of its files. Tensors follow each other from file to file.
#[derive(Clone, Debug)]
pub struct ModelLayout {
    parts: Vec<Layout>,
    /// Index of each part's first tensor.
    firsts: Vec<usize>,
}

impl ModelLayout {
    /// Plans the files of a model. Where there are several, all have the keys `split.*` and only
    /// the first has `metadata`.
    ///
    /// # Errors
    ///
    /// Those of [`Layout::plan`], and where more parts are called for than can be counted.
    pub fn plan(
        metadata: &Metadata,
        tensors: Vec<TensorSpec>,
        endian: Endian,
        split: Split,
    ) -> Result<ModelLayout> {
        let whole = Layout::plan_in(metadata, tensors, endian)?;
        let firsts = cut(&whole, split);
        if firsts.len() == 1 {
            return Ok(ModelLayout { parts: vec![whole], firsts });
        }
        if firsts.len() > MOST_PARTS {
            return Err(Error::TooManyParts { parts: firsts.len(), limit: MOST_PARTS });
        }
        let ends = firsts[1..].iter().copied().chain([whole.tensors().len()]);
        let parts = (0u16..).zip(firsts.iter().zip(ends)).map(|(number, (&first, end))| {
            let mut metadata = if number == 0 { metadata.clone() } else { Metadata::new() };
            metadata.set(NUMBER, number);
            metadata.set(COUNT, firsts.len() as u16);
            metadata.set(TENSORS, Value::I32(whole.tensors().len() as i32));
            let specs = whole.tensors()[first..end].iter().map(spec).collect();
            Layout::plan_in(&metadata, specs, endian)
        });
        let parts = parts.collect::<Result<_>>()?;
        Ok(ModelLayout { parts, firsts })
    }

    /// The files.
    pub fn parts(&self) -> &[Layout] {
        &self.parts
    }

    /// All tensors, file after file.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.parts.iter().flat_map(Layout::tensors)
    }

    /// The part that holds tensor `index` (of [`tensors`](Self::tensors)), and its index there.
    pub(crate) fn place(&self, index: usize) -> (usize, usize) {
        let part = self.firsts.partition_point(|&first| first <= index) - 1;
        (part, index - self.firsts[part])
    }

    /// Size of all files together, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(Layout::file_bytes).fold(0, u64::saturating_add)
    }

    /// Where the files lie of a model that is to be written to `target`: there, or beside it as
    /// `STEM-0000I-of-0000N.gguf`.
    ///
    /// # Errors
    ///
    /// Where `target` of a whole model is named as a part of a split one.
    pub fn paths(&self, target: &Path) -> Result<Vec<PathBuf>> {
        let name = ShardName::parse(target).filter(|name| name.count > 1);
        let count = self.parts.len() as u64;
        if count > 1 {
            let mut name = name.unwrap_or_else(|| ShardName::of_whole(target));
            name.count = count;
            return Ok((1..=count).map(|number| name.path(number)).collect());
        }
        match name {
            None => Ok(vec![target.to_owned()]),
            Some(_) => Err(Error::Shard {
                path: target.to_owned(),
                expected: "a name of its own for a model in one file".to_owned(),
                found: "that of a part".to_owned(),
            }),
        }
    }
}

/// The indices of the first tensors of the files.
fn cut(whole: &Layout, split: Split) -> Vec<usize> {
    let mut firsts = vec![0];
    match split {
        Split::Never => {}
        Split::Tensors(most) => {
            let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
            firsts.extend((most..whole.tensors().len()).step_by(most));
        }
        Split::Bytes(most) => {
            let infos: u64 = whole.tensors().iter().map(info_bytes).sum();
            // What a header has beside the tensors' infos, generously: later ones have less.
            let alignment = whole.alignment().max(limits::DEFAULT_ALIGNMENT);
            let keys = whole.header().len() as u64 - infos;
            let mut bytes = keys + SPLIT_KEYS_BYTES + alignment;
            for (index, tensor) in whole.tensors().iter().enumerate() {
                let data = limits::padded_end(0, tensor.bytes, alignment).unwrap_or(u64::MAX);
                let added = data.saturating_add(info_bytes(tensor));
                if index > *firsts.last().unwrap_or(&0) && bytes.saturating_add(added) > most {
                    firsts.push(index);
                    bytes = SPLIT_KEYS_BYTES + alignment;
                }
                bytes = bytes.saturating_add(added);
            }
        }
    }
    firsts
}

/// Bytes of the start of a header with nothing but the keys `split.*`, without padding.
const SPLIT_KEYS_BYTES: u64 = 128;

/// Bytes that a tensor takes in the header.
fn info_bytes(tensor: &TensorInfo) -> u64 {
    (8 + tensor.name.len() + 4 + 8 * tensor.shape.len() + 4 + 8) as u64
}

fn spec(info: &TensorInfo) -> TensorSpec {
    TensorSpec::new(info.name.clone(), info.shape.clone(), info.tensor_type)
}
