//! Planning a GGUF file: every byte before the tensor data, and every tensor's place.

use std::collections::HashSet;

use crate::{
    Array, Endian, Metadata, TensorInfo, TensorType, Value,
    error::{Error, Result},
    limits::{self, ALIGNMENT_KEY, ALIGNMENT_RULE, DEFAULT_ALIGNMENT, KEY_RULE},
    number::Number,
    value::for_each_number,
};

/// Longest tensor name that every loader takes, in bytes: ggml keeps 64 with the nul.
const LONGEST_TENSOR_NAME: usize = limits::LONGEST_TENSOR_NAME - 1;

/// What a tensor will be, before it has a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name, at most 63 bytes.
    pub name: String,
    /// Extent per dimension, the fastest first.
    pub shape: Vec<u64>,
    /// How the weights will be stored.
    pub tensor_type: TensorType,
}

impl TensorSpec {
    /// A tensor of that name, shape (fastest extent first) and type.
    pub fn new(
        name: impl Into<String>,
        shape: impl Into<Vec<u64>>,
        tensor_type: TensorType,
    ) -> TensorSpec {
        TensorSpec { name: name.into(), shape: shape.into(), tensor_type }
    }
}

/// A planned file: header bytes, and the place of every tensor. GGUF version 3.
#[derive(Clone, Debug)]
pub struct Layout {
    header: Vec<u8>,
    tensors: Vec<TensorInfo>,
    alignment: u64,
    file_bytes: u64,
}

impl Layout {
    /// Plans a little-endian file. Tensors are laid out in the order given, without holes but for
    /// alignment, which is `general.alignment` of the metadata or 32 bytes.
    ///
    /// # Errors
    ///
    /// Where a key, a name, a shape or the alignment is not allowed, and where the file would be
    /// larger than `u64` counts.
    pub fn plan(metadata: &Metadata, tensors: Vec<TensorSpec>) -> Result<Layout> {
        Layout::plan_in(metadata, tensors, Endian::Little)
    }

    /// [`plan`](Self::plan) of a file in that byte order, in which tensor data is to be written
    /// too.
    ///
    /// # Errors
    ///
    /// Those of [`plan`](Self::plan).
    pub fn plan_in(
        metadata: &Metadata,
        tensors: Vec<TensorSpec>,
        endian: Endian,
    ) -> Result<Layout> {
        let alignment = alignment(metadata)?;
        let tensors = place(tensors, alignment)?;
        let mut header = encode_header(metadata, &tensors, endian)?;
        if !tensors.is_empty() {
            header.resize(header.len().next_multiple_of(alignment as usize), 0);
        }
        let file_bytes = file_bytes(header.len() as u64, tensors.last(), alignment)?;
        Ok(Layout { header, tensors, alignment, file_bytes })
    }

    /// The header, padded to where tensor data starts. Without tensors it is the whole file and is
    /// not padded.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The tensors with their places, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Alignment of tensor data in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Where the data of `tensor` starts, in bytes from the start of the file.
    pub(crate) fn position(&self, tensor: &TensorInfo) -> u64 {
        self.header.len() as u64 + tensor.offset
    }

    /// Zero bytes that follow `tensor`.
    pub(crate) fn padding(&self, tensor: &TensorInfo) -> usize {
        (tensor.bytes.next_multiple_of(self.alignment) - tensor.bytes) as usize
    }

    /// Size of the whole file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
}

fn alignment(metadata: &Metadata) -> Result<u64> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    limits::alignment(value).map_err(|found| Error::KeyValue {
        key: ALIGNMENT_KEY.to_owned(),
        expected: ALIGNMENT_RULE,
        found,
    })
}

/// Gives every tensor its place, one behind the other.
fn place(specs: Vec<TensorSpec>, alignment: u64) -> Result<Vec<TensorInfo>> {
    let mut tensors = Vec::with_capacity(specs.len());
    let mut offset = 0;
    for spec in specs {
        let bytes = check(&spec)?;
        let end =
            limits::padded_end(offset, bytes, alignment).ok_or_else(|| too_large(&spec.name))?;
        let TensorSpec { name, shape, tensor_type } = spec;
        tensors.push(TensorInfo { name, shape, tensor_type, offset, bytes, shard: 0 });
        offset = end;
    }
    check_unique(&tensors)?;
    Ok(tensors)
}

/// Checks name and shape; gives the tensor's size in bytes.
fn check(spec: &TensorSpec) -> Result<u64> {
    let error = |expected, found| Error::TensorSpec { tensor: spec.name.clone(), expected, found };
    limits::check_tensor_name(&spec.name, LONGEST_TENSOR_NAME).map_err(|found| {
        error(format!("a name of 1 to {LONGEST_TENSOR_NAME} bytes without nul").into(), found)
    })?;
    limits::tensor_bytes(&spec.shape, spec.tensor_type)
        .map_err(|bad| error(bad.expected.into(), bad.found))
}

fn check_unique(tensors: &[TensorInfo]) -> Result<()> {
    let mut names = HashSet::with_capacity(tensors.len());
    match tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
        None => Ok(()),
        Some(tensor) => Err(Error::TensorSpec {
            tensor: tensor.name.clone(),
            expected: "each name once".into(),
            found: "it twice".to_owned(),
        }),
    }
}

fn too_large(tensor: &str) -> Error {
    Error::TensorSpec {
        tensor: tensor.to_owned(),
        expected: format!("a file of at most {} bytes", u64::MAX).into(),
        found: "more".to_owned(),
    }
}

fn file_bytes(data_start: u64, last: Option<&TensorInfo>, alignment: u64) -> Result<u64> {
    let Some(last) = last else { return Ok(data_start) };
    data_start
        .checked_add(last.offset)
        .and_then(|start| limits::padded_end(start, last.bytes, alignment))
        .ok_or_else(|| too_large(&last.name))
}

/// Appends what a header is made of.
struct Encoder {
    out: Vec<u8>,
    endian: Endian,
}

fn encode_header(metadata: &Metadata, tensors: &[TensorInfo], endian: Endian) -> Result<Vec<u8>> {
    let mut encoder = Encoder { out: b"GGUF".to_vec(), endian };
    encoder.number(3u32);
    encoder.number(tensors.len() as u64);
    encoder.number(metadata.len() as u64);
    for (key, value) in metadata.iter() {
        limits::check_key(key).map_err(|found| Error::KeyValue {
            key: key.to_owned(),
            expected: KEY_RULE,
            found,
        })?;
        encoder.string(key);
        encoder.value(value);
    }
    for tensor in tensors {
        encoder.tensor(tensor);
    }
    Ok(encoder.out)
}

macro_rules! value_encoders {
    ($($variant:ident $number:ident $id:literal $name:literal;)*) => {
        impl Encoder {
            fn value(&mut self, value: &Value) {
                self.number(value.type_id());
                match value {
                    $(Value::$variant(number) => self.number(*number),)*
                    Value::Bool(value) => self.out.push(u8::from(*value)),
                    Value::String(string) => self.string(string),
                    Value::Array(array) => self.array(array),
                }
            }

            fn array(&mut self, array: &Array) {
                self.number(array.element_type_id());
                self.number(array.len() as u64);
                match array {
                    $(Array::$variant(numbers) => self.numbers(numbers),)*
                    Array::Bool(values) => self.out.extend(values.iter().map(|&v| u8::from(v))),
                    Array::String(strings) => strings.iter().for_each(|s| self.string(s)),
                }
            }
        }
    };
}
for_each_number!(value_encoders);

impl Encoder {
    fn tensor(&mut self, tensor: &TensorInfo) {
        self.string(&tensor.name);
        self.number(tensor.shape.len() as u32);
        self.numbers(&tensor.shape);
        self.number(tensor.tensor_type.id());
        self.number(tensor.offset);
    }

    fn string(&mut self, string: &str) {
        self.number(string.len() as u64);
        self.out.extend_from_slice(string.as_bytes());
    }

    fn numbers<N: Number>(&mut self, numbers: &[N]) {
        self.out.reserve(size_of_val(numbers));
        for number in numbers {
            self.number(*number);
        }
    }

    fn number(&mut self, number: impl Number) {
        number.encode(self.endian, &mut self.out);
    }
}
