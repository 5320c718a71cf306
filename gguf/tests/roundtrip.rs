//! What is read and written again stays the same.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::gguf_files;
use llq_gguf::{
    Array, Header, Layout, Metadata, Model, StreamWriter, Strings, TensorSpec, TensorType, Value,
    to_bytes,
};
use proptest::prelude::*;

#[test]
fn real_files_keep_their_bytes() {
    for path in gguf_files("vocab").into_iter().chain(gguf_files("golden/gguf")) {
        let bytes = std::fs::read(&path).unwrap();
        assert!(rewrite(&bytes) == bytes, "{}", path.display());
    }
}

/// The file read, planned and written again.
fn rewrite(bytes: &[u8]) -> Vec<u8> {
    let model = Model::from_bytes(bytes.to_vec()).unwrap();
    let specs = model
        .tensors()
        .iter()
        .map(|t| TensorSpec::new(&t.name, t.shape.clone(), t.tensor_type))
        .collect();
    let layout = Layout::plan(model.metadata(), specs).unwrap();
    let mut writer = StreamWriter::new(layout, Vec::new()).unwrap();
    for tensor in model.tensors() {
        writer.write(model.data(tensor)).unwrap();
    }
    writer.finish().unwrap()
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<u16>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        arrays().prop_map(Value::from),
    ]
}

fn arrays() -> impl Strategy<Value = Array> {
    prop_oneof![
        any::<Vec<u8>>().prop_map(Array::U8),
        any::<Vec<i8>>().prop_map(Array::I8),
        any::<Vec<u16>>().prop_map(Array::U16),
        any::<Vec<i16>>().prop_map(Array::I16),
        any::<Vec<u32>>().prop_map(Array::U32),
        any::<Vec<i32>>().prop_map(Array::I32),
        any::<Vec<f32>>().prop_map(Array::F32),
        any::<Vec<bool>>().prop_map(Array::Bool),
        any::<Vec<String>>().prop_map(|strings| Array::String(Strings::from_iter(strings))),
        any::<Vec<u64>>().prop_map(Array::U64),
        any::<Vec<i64>>().prop_map(Array::I64),
        any::<Vec<f64>>().prop_map(Array::F64),
    ]
}

fn metadata() -> impl Strategy<Value = Metadata> {
    prop::collection::vec(("[A-Za-z0-9_.ü]{1,20}", values()), 0..12).prop_map(Metadata::from_iter)
}

fn tensors() -> impl Strategy<Value = Vec<TensorSpec>> {
    let shape = prop::collection::vec(1u64..4, 1..=4);
    let tensor = (shape, prop::sample::select(TensorType::ALL));
    prop::collection::btree_map("[a-zé.]{1,12}", tensor, 0..5).prop_map(|tensors| {
        let specs = tensors.into_iter().map(|(name, (mut shape, tensor_type))| {
            shape[0] *= tensor_type.block_weights() as u64;
            TensorSpec::new(name, shape, tensor_type)
        });
        specs.collect()
    })
}

proptest! {
    #[test]
    fn any_model_reads_back_as_written(
        mut metadata in metadata(),
        specs in tensors(),
        alignment in prop::option::of(3u32..10),
        seed: u8,
    ) {
        if let Some(exponent) = alignment {
            metadata.set("general.alignment", 1u32 << exponent);
        }
        let layout = Layout::plan(&metadata, specs.clone()).unwrap();
        let data: Vec<Vec<u8>> = layout
            .tensors()
            .iter()
            .map(|t| (0..t.bytes).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect())
            .collect();
        let bytes = to_bytes(&metadata, specs.into_iter().zip(&data)).unwrap();
        prop_assert_eq!(bytes.len() as u64, layout.file_bytes());

        let header = Header::parse(&bytes, "any.gguf".as_ref()).unwrap();
        prop_assert_eq!(&header.tensors, layout.tensors());
        prop_assert_eq!(header.alignment, alignment.map_or(32, |exponent| 1 << exponent));
        let model = Model::from_bytes(bytes.clone()).unwrap();
        prop_assert_eq!(model.metadata().iter().collect::<Vec<_>>(), metadata.iter().collect::<Vec<_>>());
        for (tensor, data) in model.tensors().iter().zip(&data) {
            prop_assert_eq!(model.data(tensor), data);
            prop_assert_eq!(model.tensor(&tensor.name), Some(tensor));
        }
        prop_assert!(rewrite(&bytes) == bytes);
    }
}
