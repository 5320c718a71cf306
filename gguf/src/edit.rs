//! New metadata for a model that is there.

use std::{fs::OpenOptions, ops::Range, path::Path};

use crate::{
    FileWriter, Header, Layout, Metadata, Model, Overwrite, TensorSpec,
    error::{Error, Result},
    file_writer::write_all_at,
    split,
};

/// How a model got its new metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewritten {
    /// It had it already.
    Unchanged,
    /// Some bytes of the header were written over. No tensor moved.
    InPlace,
    /// A new file was written, and took the name of the old one when it was complete.
    Replaced,
}

/// Bytes that the system writes as one. A change inside of these is done or not done, whenever the
/// process is killed.
const PAGE: usize = 4096;

/// Bytes of tensors that are copied at a time.
const PIECE: usize = 16 << 20;

/// Gives a model other metadata: in place where only bytes of one page of its header change and
/// nothing moves, else by a new file that takes its name when it is complete. Of a split model that is
/// the first part. `advance` hears of bytes that were copied.
///
/// # Errors
///
/// A model in an archive; metadata that is not allowed; where the system refuses. The model is then as
/// it was.
pub fn rewrite_metadata(
    model: Model,
    metadata: &Metadata,
    advance: &dyn Fn(u64),
) -> Result<Rewritten> {
    let first = model.first_shard();
    if first.entry.is_some() {
        return Err(Error::InArchive { path: first.path.clone() });
    }
    let path = first.path.canonicalize().map_err(failed(&first.path))?;
    let old = Header::parse(&first.bytes, &path)?;
    let layout = Layout::plan_in(&with_split_keys(metadata, &old), specs(&old), old.endian)?;
    match changed(&first.bytes[..old.data_start as usize], &old, &layout) {
        Some(range) if range.is_empty() => return Ok(Rewritten::Unchanged),
        Some(range) if range.start / PAGE == (range.end - 1) / PAGE => {
            drop(model);
            let file = OpenOptions::new().write(true).open(&path).map_err(failed(&path))?;
            let bytes = &layout.header()[range.clone()];
            write_all_at(&file, bytes, range.start as u64).map_err(failed(&path))?;
            file.sync_all().map_err(failed(&path))?;
            return Ok(Rewritten::InPlace);
        }
        _ => {}
    }
    let permissions = path.metadata().map_err(failed(&path))?.permissions();
    let writer = FileWriter::create(&path, layout, Overwrite::Replace)?;
    for (index, tensor) in old.tensors.iter().enumerate() {
        for (piece, bytes) in model.data(tensor).chunks(PIECE).enumerate() {
            writer.write_at(index, (piece * PIECE) as u64, bytes)?;
            advance(bytes.len() as u64);
        }
    }
    let sealed = writer.seal()?;
    sealed.set_permissions(permissions)?;
    drop(model);
    sealed.publish()?;
    Ok(Rewritten::Replaced)
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { path: path.to_owned(), source }
}

fn specs(header: &Header) -> Vec<TensorSpec> {
    let tensors = header.tensors.iter();
    tensors.map(|t| TensorSpec::new(t.name.clone(), t.shape.clone(), t.tensor_type)).collect()
}

/// What says which part of a model a file is stays, where it stood.
fn with_split_keys(metadata: &Metadata, old: &Header) -> Metadata {
    let keys = [split::NUMBER, split::COUNT, split::TENSORS];
    let mut entries: Vec<_> = metadata.iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
    for (place, (key, value)) in old.metadata.iter().enumerate() {
        if keys.contains(&key) {
            entries.insert(place.min(entries.len()), (key.to_owned(), value.clone()));
        }
    }
    entries.into_iter().collect()
}

/// The bytes of the header that change, where tensors stay in their places.
fn changed(bytes: &[u8], old: &Header, layout: &Layout) -> Option<Range<usize>> {
    let new = layout.header();
    if new.len() != bytes.len() || old.tensors != layout.tensors() {
        return None;
    }
    let differs = |at: &usize| bytes[*at] != new[*at];
    let first = (0..bytes.len()).find(differs);
    Some(first.map_or(0..0, |first| {
        first..(first..bytes.len()).rev().find(differs).map_or(first, |last| last + 1)
    }))
}
