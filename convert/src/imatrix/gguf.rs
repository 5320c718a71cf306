//! The field's form since 2025: GGUF of type `imatrix` with, for each matrix, `NAME.in_sum2` and
//! `NAME.counts`.

use std::path::Path;

use llq_gguf::{
    Array, Endian, FileWriter, Layout, Metadata, Model, Overwrite, TensorInfo, TensorSpec,
    TensorType, Value,
};
use llq_quant::format;

use super::{Entry, Imatrix, ImatrixError, in_file};
use crate::{Error, error::Result};

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";

pub(super) fn read(path: &Path) -> Result<Imatrix> {
    let model = Model::open(path)?;
    let metadata = model.metadata();
    let kind = metadata.string("general.type").unwrap_or("model");
    if kind != "imatrix" {
        return Err(in_file(path)(ImatrixError::Kind { found: kind.to_owned() }));
    }
    let no_key = |error: llq_gguf::Error| {
        in_file(path)(ImatrixError::Metadata { problem: error.to_string() })
    };
    let count = |key| -> Result<u32> {
        let found = metadata.count(key).map_err(no_key)?;
        let out_of_range = ImatrixError::Key { key, expected: "a number of 32 bits", found };
        u32::try_from(found).map_err(|_| in_file(path)(out_of_range))
    };
    let mut imatrix = Imatrix {
        datasets: metadata.strings(DATASETS).map_err(no_key)?.iter().map(str::to_owned).collect(),
        chunks: count(CHUNK_COUNT)?,
        chunk_tokens: count(CHUNK_SIZE)?,
        ..Imatrix::default()
    };
    if imatrix.chunk_tokens == 0 {
        let zero = ImatrixError::Key { key: CHUNK_SIZE, expected: "at least 1", found: 0 };
        return Err(in_file(path)(zero));
    }
    for tensor in model.tensors() {
        if let Some((name, entry)) = entry(&model, tensor)? {
            imatrix.add(name, entry).map_err(in_file(path))?;
        }
    }
    Ok(imatrix)
}

/// What `tensor` and its partner say; `None` of counts, which are read with their sums, and of
/// tensors of other kinds, which other tools add.
fn entry<'m>(model: &'m Model, tensor: &'m TensorInfo) -> Result<Option<(&'m str, Entry)>> {
    let partner = |name: String| {
        model.tensor(&name).ok_or_else(|| {
            let tensor = tensor.name.clone();
            in_file(model.path())(ImatrixError::Unpaired { tensor, partner: name })
        })
    };
    if let Some(name) = tensor.name.strip_suffix(COUNTS) {
        partner(format!("{name}{SUMS}"))?;
        return Ok(None);
    }
    let Some(name) = tensor.name.strip_suffix(SUMS) else { return Ok(None) };
    let counts = partner(format!("{name}{COUNTS}"))?;
    let entry = Entry::new(name, floats(model, tensor)?, floats(model, counts)?);
    Ok(Some((name, entry.map_err(in_file(model.path()))?)))
}

fn floats(model: &Model, tensor: &TensorInfo) -> Result<Vec<f32>> {
    let format = match tensor.tensor_type {
        TensorType::F32 => format(TensorType::F32),
        _ => None,
    };
    let Some(format) = format else {
        let (tensor, found) = (tensor.name.clone(), tensor.tensor_type);
        return Err(in_file(model.path())(ImatrixError::Type { tensor, found }));
    };
    let mut bytes = model.data(tensor).to_vec();
    if model.endian() == Endian::Big {
        format.swap_endian(&mut bytes);
    }
    let mut floats = vec![0.0; bytes.len() / size_of::<f32>()];
    format.dequantize(&bytes, &mut floats).map_err(|source| {
        let tensor = tensor.name.clone();
        Error::Row { tensor, row: 0, source }
    })?;
    Ok(floats)
}

/// The same keys and tensors in the same order as the field's standard tool, which sorts by name.
pub(super) fn write(imatrix: &Imatrix, path: &Path, overwrite: Overwrite) -> Result<()> {
    let mut metadata = Metadata::new();
    metadata.set("general.type", "imatrix");
    let datasets = imatrix.datasets.iter().map(String::as_str).collect();
    metadata.set(DATASETS, Value::Array(Array::String(datasets)));
    metadata.set(CHUNK_COUNT, imatrix.chunks);
    metadata.set(CHUNK_SIZE, imatrix.chunk_tokens);
    let mut tensors = Vec::new();
    for (name, Entry { sums, counts }) in imatrix.entries() {
        let matrices = counts.len() as u64;
        let columns = sums.len() as u64 / matrices;
        tensors.push((spec(name, SUMS, columns, matrices), sums));
        tensors.push((spec(name, COUNTS, 1, matrices), counts));
    }
    let specs = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let writer = FileWriter::create(path, Layout::plan(&metadata, specs)?, overwrite)?;
    for (index, (_, floats)) in tensors.iter().enumerate() {
        let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        writer.write_at(index, 0, &bytes)?;
    }
    Ok(writer.finish()?)
}

/// ggml leaves out trailing extents of 1.
fn spec(name: &str, what: &str, columns: u64, matrices: u64) -> TensorSpec {
    let shape = if matrices == 1 { vec![columns] } else { vec![columns, matrices] };
    TensorSpec::new(format!("{name}{what}"), shape, TensorType::F32)
}
