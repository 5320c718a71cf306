//! A GGUF model on disk, mapped into memory: one file or the shards of a split one.

use std::path::{Path, PathBuf};

use crate::{
    Endian, Header, Metadata, TensorInfo,
    error::{Error, Result},
    map::Bytes,
    split,
};

/// An open model. Tensor data is read in place from the memory map.
#[derive(Debug)]
pub struct Model {
    header: Header,
    shards: Vec<Shard>,
    /// Indices into the header's tensors, by rising name.
    by_name: Vec<usize>,
}

/// One file of a model.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    /// The name of the model's entry where the file is an archive.
    pub(crate) entry: Option<String>,
    pub(crate) bytes: Bytes,
    pub(crate) data_start: u64,
}

impl Model {
    /// Opens `path`; where it is `…-0000I-of-0000N.gguf`, all N files as one model; where it is a
    /// ZIP archive behind whatever else, as a llamafile is, the model that lies in it uncompressed.
    ///
    /// The files are mapped, not copied: no process may write to them or shorten them while the
    /// model is open. Replacing a file by renaming another, as [`FileWriter`](crate::FileWriter)
    /// does, is safe.
    ///
    /// # Errors
    ///
    /// Where a file cannot be mapped or breaks a rule of GGUF, where an archive does not hold just
    /// one model or contradicts itself, and where the files of a split model are not all there or
    /// do not belong together.
    pub fn open(path: &Path) -> Result<Model> {
        let (header, shards) = split::open(path)?;
        Model::index(header, shards)
    }

    /// A model that lies in memory as one file, called `memory` in errors.
    ///
    /// # Errors
    ///
    /// Where the bytes break a rule of GGUF or are one part of a split model.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Model> {
        let (header, shards) = split::open_single(Path::new("memory"), Bytes::owned(bytes))?;
        Model::index(header, shards)
    }

    /// Sorts the tensors of all shards by name, which shows duplicates too.
    fn index(header: Header, shards: Vec<Shard>) -> Result<Model> {
        let tensors = &header.tensors;
        let mut by_name: Vec<usize> = (0..tensors.len()).collect();
        by_name.sort_by_key(|&index| (tensors[index].name.as_str(), index));
        for pair in by_name.windows(2) {
            let (first, second) = (&tensors[pair[0]], &tensors[pair[1]]);
            if first.name == second.name {
                return Err(Error::DuplicateTensor {
                    path: shards[second.shard].path.clone(),
                    tensor: second.name.clone(),
                    first: shards[first.shard].path.clone(),
                });
            }
        }
        Ok(Model { header, shards, by_name })
    }

    /// The file that was opened (the first of a split model).
    pub fn path(&self) -> &Path {
        &self.shards[0].path
    }

    /// The name of the model in the archive that was opened; `None` of any other file.
    pub fn entry(&self) -> Option<&str> {
        self.shards[0].entry.as_deref()
    }

    pub(crate) fn first_shard(&self) -> &Shard {
        &self.shards[0]
    }

    /// All files of the model.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// Header of the model: that of its first file, with the tensors of all files and without the
    /// keys `split.*`, which are about files.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Metadata of the model, without the `split.*` keys of a split one.
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// Byte order of tensor data.
    pub fn endian(&self) -> Endian {
        self.header.endian
    }

    /// All tensors, shard after shard in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let tensors = &self.header.tensors;
        let found = self.by_name.binary_search_by_key(&name, |&index| &tensors[index].name).ok()?;
        Some(&tensors[self.by_name[found]])
    }

    /// The bytes of one of this model's tensors, as they are in the file.
    ///
    /// # Panics
    ///
    /// May panic where `tensor` is of another model.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let (shard, start) = self.place(tensor);
        &shard.bytes[start..][..tensor.bytes as usize]
    }

    /// Copies the bytes of one of this model's tensors from `offset` on into `out`. Whoever goes
    /// through a model once does so with less work for the system than by [`data`](Self::data),
    /// and a large model does not stay in the page cache.
    ///
    /// # Errors
    ///
    /// Where the system refuses.
    ///
    /// # Panics
    ///
    /// Where the tensor ends before `out` is full; may panic where it is of another model.
    pub fn read_at(&self, tensor: &TensorInfo, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(out.len() as u64);
        assert!(end.is_some_and(|end| end <= tensor.bytes), "behind the end of a tensor");
        let (shard, start) = self.place(tensor);
        let read = shard.bytes.read_at(start + offset as usize, out);
        read.map_err(|source| Error::Io { path: shard.path.clone(), source })
    }

    /// Where the bytes of one of this model's tensors start in their file, or in the archive's entry
    /// that the model is.
    pub fn data_offset(&self, tensor: &TensorInfo) -> u64 {
        self.place(tensor).1 as u64
    }

    /// The file that has a tensor, and where it starts there. `Header::parse` has checked that it
    /// lies inside.
    fn place(&self, tensor: &TensorInfo) -> (&Shard, usize) {
        let shard = &self.shards[tensor.shard];
        (shard, (shard.data_start + tensor.offset) as usize)
    }

    /// Size of all files together, in bytes; of an archive only what the model takes.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes.len() as u64).sum()
    }
}
