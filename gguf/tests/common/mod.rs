//! What the tests share: where real files are, and an encoder that writes any version, either byte
//! order and anything that is wrong.

#![allow(dead_code)] // each test binary uses a part of it
#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::PathBuf;

use llq_gguf::{Array, Endian, Metadata, TensorSpec, Value};

/// The GGUF files in a folder of `shared/`; none where it is absent.
pub(crate) fn gguf_files(folder: &str) -> Vec<PathBuf> {
    let Some(folder) = llq_fixtures::shared(folder) else { return Vec::new() };
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect()
}

/// Writes GGUF field by field and checks nothing.
pub(crate) struct Encoder {
    version: u32,
    endian: Endian,
    out: Vec<u8>,
}

macro_rules! encode_value {
    ($encoder:ident, $value:expr, $kind:ident: $($variant:ident $id:literal),*) => {
        match $value {
            $($kind::$variant(n) => $encoder.number(&n.to_le_bytes()),)*
            _ => unreachable!(),
        }
    };
}

impl Encoder {
    /// Magic, version and the two counts.
    pub(crate) fn new(version: u32, endian: Endian, tensors: u64, keys: u64) -> Encoder {
        Encoder { version, endian, out: b"GGUF".to_vec() }.u32(version).length(tensors).length(keys)
    }

    /// The current version, little endian.
    pub(crate) fn v3(tensors: u64, keys: u64) -> Encoder {
        Encoder::new(3, Endian::Little, tensors, keys)
    }

    fn number(mut self, little: &[u8]) -> Encoder {
        match self.endian {
            Endian::Little => self.out.extend(little),
            Endian::Big => self.out.extend(little.iter().rev()),
        }
        self
    }

    pub(crate) fn u32(self, n: u32) -> Encoder {
        self.number(&n.to_le_bytes())
    }

    pub(crate) fn u64(self, n: u64) -> Encoder {
        self.number(&n.to_le_bytes())
    }

    /// A count or length, of 32 bits in version 1.
    pub(crate) fn length(self, n: u64) -> Encoder {
        if self.version == 1 { self.u32(n as u32) } else { self.u64(n) }
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Encoder {
        self.out.extend(bytes);
        self
    }

    /// Bytes behind their length.
    pub(crate) fn string(self, bytes: impl AsRef<[u8]>) -> Encoder {
        self.length(bytes.as_ref().len() as u64).bytes(bytes.as_ref())
    }

    /// A key and its value.
    pub(crate) fn entry(self, key: &str, value: &Value) -> Encoder {
        self.string(key).value(value)
    }

    /// A tensor info of any shape, type and place.
    pub(crate) fn tensor(
        mut self,
        name: impl AsRef<[u8]>,
        shape: &[u64],
        type_id: u32,
        offset: u64,
    ) -> Encoder {
        self = self.string(name).u32(shape.len() as u32);
        for &extent in shape {
            self = self.length(extent);
        }
        self.u32(type_id).u64(offset)
    }

    /// Zero bytes up to a multiple of `alignment`.
    pub(crate) fn pad(mut self, alignment: usize) -> Encoder {
        self.out.resize(self.out.len().next_multiple_of(alignment), 0);
        self
    }

    /// `count` zero bytes.
    pub(crate) fn zeros(mut self, count: usize) -> Encoder {
        self.out.resize(self.out.len() + count, 0);
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.out
    }

    fn value(self, value: &Value) -> Encoder {
        let encoder = self.u32(value_type_id(value));
        match value {
            Value::Bool(b) => encoder.bytes(&[u8::from(*b)]),
            Value::String(s) => encoder.string(s),
            Value::Array(array) => encoder.array(array),
            number => encode_value!(encoder, number, Value: U8 0, I8 1, U16 2, I16 3, U32 4, I32 5,
                F32 6, U64 10, I64 11, F64 12),
        }
    }

    fn array(mut self, array: &Array) -> Encoder {
        macro_rules! elements {
            ($($variant:ident $id:literal),*) => {
                match array {
                    Array::Bool(elements) => {
                        self = self.u32(7).length(elements.len() as u64);
                        for &element in elements {
                            self = self.bytes(&[u8::from(element)]);
                        }
                    }
                    Array::String(strings) => {
                        self = self.u32(8).length(strings.len() as u64);
                        for string in strings.iter() {
                            self = self.string(string);
                        }
                    }
                    $(Array::$variant(elements) => {
                        self = self.u32($id).length(elements.len() as u64);
                        for element in elements {
                            self = self.number(&element.to_le_bytes());
                        }
                    })*
                }
            };
        }
        elements!(U8 0, I8 1, U16 2, I16 3, U32 4, I32 5, F32 6, U64 10, I64 11, F64 12);
        self
    }
}

fn value_type_id(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

/// A file of any version and byte order. The tensors' bytes are taken as they are.
pub(crate) fn encode(
    version: u32,
    endian: Endian,
    metadata: &Metadata,
    tensors: &[(TensorSpec, Vec<u8>)],
) -> Vec<u8> {
    let alignment = metadata.count("general.alignment").unwrap_or(32) as usize;
    let mut file = Encoder::new(version, endian, tensors.len() as u64, metadata.len() as u64);
    for (key, value) in metadata.iter() {
        file = file.entry(key, value);
    }
    let mut offset = 0;
    for (spec, data) in tensors {
        file = file.tensor(&spec.name, &spec.shape, spec.tensor_type.id(), offset as u64);
        offset = (offset + data.len()).next_multiple_of(alignment);
    }
    for (_, data) in tensors {
        file = file.pad(alignment).bytes(data);
    }
    file.finish()
}

/// Metadata with a value of every type and an array of every type.
pub(crate) fn every_value_type() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    metadata.set("u8", 1u8);
    metadata.set("i8", -2i8);
    metadata.set("u16", 0x0102u16);
    metadata.set("i16", -0x0304i16);
    metadata.set("u32", 0x0102_0304u32);
    metadata.set("i32", -0x0506_0708i32);
    metadata.set("f32", 1.5f32);
    metadata.set("bool", true);
    metadata.set("string", "naïve\n\u{10ffff}");
    metadata.set("u64", u64::MAX - 1);
    metadata.set("i64", i64::MIN + 2);
    metadata.set("f64", -2.5f64);
    metadata.set("array.u8", vec![1u8, 2]);
    metadata.set("array.i8", vec![-1i8, 2, 3]);
    metadata.set("array.u16", vec![0x0102u16]);
    metadata.set("array.i16", vec![-0x0102i16, 5]);
    metadata.set("array.u32", vec![0x0102_0304u32, 7]);
    metadata.set("array.i32", vec![-1i32, 1]);
    metadata.set("array.f32", vec![0.5f32, -0.0, f32::INFINITY]);
    metadata.set("array.bool", vec![true, false, true]);
    metadata.set("array.string", vec!["", "▁the", "<0x0A>"]);
    metadata.set("array.u64", vec![1u64 << 40]);
    metadata.set("array.i64", vec![-1i64 << 40, 0]);
    metadata.set("array.f64", vec![1e300f64]);
    metadata.set("array.empty", Vec::<u32>::new());
    metadata
}
