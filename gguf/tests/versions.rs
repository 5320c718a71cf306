//! Versions 1 to 3 and both byte orders.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Encoder, encode, every_value_type};
use llq_gguf::{Endian, Model, TensorSpec, TensorType, to_bytes};

const ORDERS: [Endian; 2] = [Endian::Little, Endian::Big];

fn tensors() -> Vec<(TensorSpec, Vec<u8>)> {
    vec![
        (TensorSpec::new("norm", [3], TensorType::F32), (0..12).collect()),
        (TensorSpec::new("a", [32, 2, 1, 2], TensorType::Q8_0), (0..136).collect()),
        (TensorSpec::new("b", [256], TensorType::Q4_K), (0..144).collect()),
    ]
}

#[test]
fn every_version_in_either_byte_order_reads_the_same() {
    for version in 1..=3 {
        for endian in ORDERS {
            let bytes = encode(version, endian, &every_value_type(), &tensors());
            let model = Model::from_bytes(bytes).unwrap();
            assert_eq!((model.header().version, model.endian()), (version, endian));
            assert_eq!(*model.metadata(), every_value_type());
            for (spec, data) in tensors() {
                let tensor = model.tensor(&spec.name).unwrap();
                assert_eq!(tensor.shape, spec.shape);
                assert_eq!(tensor.tensor_type, spec.tensor_type);
                assert_eq!(model.data(tensor), data);
            }
        }
    }
}

#[test]
fn the_writer_writes_version_3_little_endian() {
    let mut expected = encode(3, Endian::Little, &every_value_type(), &tensors());
    expected.resize(expected.len().next_multiple_of(32), 0);
    assert!(to_bytes(&every_value_type(), tensors()).unwrap() == expected);
}

#[test]
fn alignment_moves_the_data() {
    for version in 1..=3 {
        for endian in ORDERS {
            let mut metadata = every_value_type();
            metadata.set("general.alignment", 256u32);
            let model = Model::from_bytes(encode(version, endian, &metadata, &tensors())).unwrap();
            assert_eq!(model.header().alignment, 256);
            assert_eq!(model.header().data_start % 256, 0);
            let offsets: Vec<u64> = model.tensors().iter().map(|t| t.offset).collect();
            assert_eq!(offsets, [0, 256, 512]);
        }
    }
}

#[test]
fn other_versions_are_refused() {
    for version in [0u32, 4, 255, 1 << 16, 4 << 24, u32::MAX] {
        for endian in ORDERS {
            let message = Model::from_bytes(Encoder::new(version, endian, 0, 0).finish())
                .unwrap_err()
                .to_string();
            assert!(message.contains("expected 1, 2 or 3"), "{message}");
        }
    }
}

#[test]
fn big_endian_tensor_data_stays_as_it_is() {
    let data = 1.5f32.to_be_bytes().to_vec();
    let tensors = [(TensorSpec::new("x", [1], TensorType::F32), data.clone())];
    let bytes = encode(3, Endian::Big, &every_value_type(), &tensors);
    let model = Model::from_bytes(bytes).unwrap();
    assert_eq!(model.data(&model.tensors()[0]), data);
}
