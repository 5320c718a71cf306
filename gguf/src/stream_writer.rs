//! Writing GGUF front to back.

use std::io::Write;

use crate::{
    Layout, Metadata, TensorInfo, TensorSpec,
    error::{Error, Result},
};

/// Writes a planned file to anything that takes bytes, tensor after tensor.
#[derive(Debug)]
pub struct StreamWriter<W> {
    layout: Layout,
    out: W,
    /// The tensor that the next byte belongs to, and how many bytes of it are written.
    tensor: usize,
    written: u64,
}

impl<W: Write> StreamWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    ///
    /// Where the sink refuses.
    pub fn new(layout: Layout, mut out: W) -> Result<Self> {
        out.write_all(layout.header()).map_err(refused)?;
        Ok(StreamWriter { layout, out, tensor: 0, written: 0 })
    }

    /// Appends bytes of tensor data in layout order; padding between tensors is added. One call may
    /// bring part of a tensor or the bytes of several.
    ///
    /// # Errors
    ///
    /// Where the sink refuses or there are more bytes than the layout has room for.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some(tensor) = self.layout.tensors().get(self.tensor) else {
                return Err(self.too_many(bytes.len()));
            };
            let missing = tensor.bytes - self.written;
            let count = usize::try_from(missing).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            self.out.write_all(now).map_err(refused)?;
            self.written += count as u64;
            bytes = later;
            if self.written == tensor.bytes {
                let padding = vec![0; self.layout.padding(tensor)];
                self.out.write_all(&padding).map_err(refused)?;
                self.tensor += 1;
                self.written = 0;
            }
        }
        Ok(())
    }

    fn too_many(&self, count: usize) -> Error {
        let last = self.layout.tensors().last();
        let end = last.map_or(0, |tensor| tensor.bytes);
        Error::Misplaced {
            tensor: last.map_or(String::new(), |tensor| tensor.name.clone()),
            start: end,
            end: end.saturating_add(count as u64),
            problem: "behind the last tensor".to_owned(),
        }
    }

    /// Checks that every tensor is complete, flushes the sink and gives it back.
    ///
    /// # Errors
    ///
    /// Where bytes are missing or the sink refuses.
    pub fn finish(mut self) -> Result<W> {
        if let Some(tensor) = self.layout.tensors().get(self.tensor) {
            return Err(Error::Incomplete {
                tensor: tensor.name.clone(),
                expected: tensor.bytes,
                written: self.written,
            });
        }
        self.out.flush().map_err(refused)?;
        Ok(self.out)
    }
}

fn refused(source: std::io::Error) -> Error {
    Error::Stream { source }
}

/// A whole GGUF file in memory: metadata, and each tensor with its bytes.
///
/// # Errors
///
/// Where the layout is not allowed or a tensor's bytes are not as many as its shape and type say.
pub fn to_bytes<D: AsRef<[u8]>>(
    metadata: &Metadata,
    tensors: impl IntoIterator<Item = (TensorSpec, D)>,
) -> Result<Vec<u8>> {
    let (specs, data): (Vec<TensorSpec>, Vec<D>) = tensors.into_iter().unzip();
    let layout = Layout::plan(metadata, specs)?;
    for (tensor, data) in layout.tensors().iter().zip(&data) {
        check_length(tensor, data.as_ref())?;
    }
    let mut writer = StreamWriter::new(layout, Vec::new())?;
    for data in &data {
        writer.write(data.as_ref())?;
    }
    writer.finish()
}

fn check_length(tensor: &TensorInfo, data: &[u8]) -> Result<()> {
    if data.len() as u64 == tensor.bytes {
        return Ok(());
    }
    Err(Error::TensorSpec {
        tensor: tensor.name.clone(),
        expected: format!("{} bytes of data", tensor.bytes).into(),
        found: data.len().to_string(),
    })
}
