//! A GGUF file as source: quantizing is a conversion too.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use llq_gguf::{Endian, Model, TensorInfo, TensorSpec};
use llq_quant::format;

use crate::{
    Error, Note, Source, SourceKind, demands::block_number, error::Result, source::row_bytes,
};

/// An open GGUF file, or the parts of a split one.
#[derive(Debug)]
pub(crate) struct GgufSource {
    model: Model,
    specs: Vec<TensorSpec>,
    /// For each tensor its index in [`Model::tensors`].
    places: Vec<usize>,
}

pub(super) fn open(path: &Path) -> Result<GgufSource> {
    let model = Model::open(path)?;
    let tensors = model.tensors();
    let mut places: Vec<usize> = (0..tensors.len()).collect();
    // Stable: inside a block the file's order stays.
    places.sort_by_key(|&place| block_number(&tensors[place].name));
    let specs = places.iter().map(|&place| spec(&tensors[place])).collect();
    if model.endian() == Endian::Big {
        check_swappable(tensors)?;
    }
    Ok(GgufSource { model, specs, places })
}

fn spec(info: &TensorInfo) -> TensorSpec {
    TensorSpec { name: info.name.clone(), shape: info.shape.clone(), tensor_type: info.tensor_type }
}

/// Only known formats can be turned to the other byte order.
fn check_swappable(tensors: &[TensorInfo]) -> Result<()> {
    match tensors.iter().find(|tensor| format(tensor.tensor_type).is_none()) {
        None => Ok(()),
        Some(TensorInfo { name, tensor_type, .. }) => {
            Err(Error::NoFormat { tensor: name.clone(), tensor_type: *tensor_type })
        }
    }
}

impl Source for GgufSource {
    fn path(&self) -> &Path {
        self.model.path()
    }

    fn metadata(&self) -> &llq_gguf::Metadata {
        self.model.metadata()
    }

    fn tensors(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn files(&self) -> Vec<PathBuf> {
        self.model.paths().map(Path::to_path_buf).collect()
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let spec = &self.specs[tensor];
        let info = &self.model.tensors()[self.places[tensor]];
        self.model.read_at(info, rows.start * row_bytes(spec), out)?;
        if self.model.endian() == Endian::Big
            && let Some(format) = format(spec.tensor_type)
        {
            format.swap_endian(out);
        }
        Ok(())
    }

    fn notes(&self) -> &[Note] {
        &[]
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Gguf
    }
}
