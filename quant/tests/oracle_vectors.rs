//! Decoding and encoding against vectors that the `gguf` package of PyPI made; `data/make.py`
//! says what they hold.

#![allow(clippy::unwrap_used)] // a test may

use std::{fs, path::PathBuf};

use half::bf16;
use llq_quant::{Effort, Encoding, FORMATS, FormatInfo};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

const FAST: Encoding<'_> = Encoding { importance: None, effort: Effort::Fast };

fn data(folder: &str, name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder).join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// The lines of a file of hashes: format and hash.
fn hashes(folder: &str, name: &str) -> Vec<(&'static FormatInfo, String)> {
    let lines = String::from_utf8(data(folder, name)).unwrap();
    let split = lines.lines().map(|line| line.split_once("  ").unwrap());
    split.map(|(hash, name)| (format_named(name), hash.to_owned())).collect()
}

fn format_named(name: &str) -> &'static FormatInfo {
    FORMATS.iter().find(|f| f.tensor_type.name() == name).unwrap()
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn vector_name(format: &FormatInfo) -> String {
    format!("{}.bin", format.tensor_type)
}

#[test]
fn every_block_format_decodes_to_the_oracles_bits() {
    for format in FORMATS.iter().filter(|f| f.blocks.is_some()) {
        let vector = data("decode", &vector_name(format));
        let (weights, bytes) =
            (format.tensor_type.block_weights(), format.tensor_type.block_bytes());
        let count = vector.len() / (bytes + 4 * weights);
        assert!(count >= 4);
        let (blocks, expected) = vector.split_at(count * bytes);
        let mut decoded = vec![0.0; count * weights];
        format.dequantize(blocks, &mut decoded).unwrap();
        for (i, (found, expected)) in decoded.iter().zip(floats(expected)).enumerate() {
            assert_eq!(found.to_bits(), expected.to_bits(), "{} weight {i}", format.tensor_type);
        }
    }
}

/// Every code, high bit, scale and minimum at every place of a block: `make.py` has the formula.
#[test]
fn every_value_of_every_byte_decodes_to_the_oracles_bits() {
    let hashes = hashes("decode", "every_byte.sha256");
    assert_eq!(hashes.len(), FORMATS.iter().filter(|f| f.blocks.is_some()).count());
    for (format, expected) in hashes {
        let size = format.tensor_type.block_bytes();
        let mut blocks: Vec<u8> =
            (0..256 * size).map(|i| (i / size + 37 * (i % size)) as u8).collect();
        for block in blocks.chunks_exact_mut(size) {
            let scales = scale_offsets(format).iter().zip([0x1234u16, 0x2345]);
            for (&offset, scale) in scales {
                block[offset..offset + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        let mut decoded = vec![0.0f32; 256 * format.tensor_type.block_weights()];
        format.dequantize(&blocks, &mut decoded).unwrap();
        let mut found = Sha256::new();
        decoded.iter().for_each(|weight| found.update(weight.to_le_bytes()));
        assert_eq!(hex(found), expected, "{}", format.tensor_type);
    }
}

/// Where the 16-bit scales and minima of a block are.
fn scale_offsets(format: &FormatInfo) -> &'static [usize] {
    match format.tensor_type.name() {
        "Q2_K" => &[80, 82],
        "Q3_K" => &[108],
        "Q6_K" => &[208],
        "Q4_1" | "Q5_1" | "Q4_K" | "Q5_K" => &[0, 2],
        _ => &[0],
    }
}

/// What ggml writes on a big-endian machine: halves turned round, and the `u32` of high bits.
#[test]
fn big_endian_blocks_decode_to_the_same_weights() {
    for format in FORMATS.iter().filter(|f| f.blocks.is_some()) {
        let vector = data("decode", &vector_name(format));
        let (weights, size) =
            (format.tensor_type.block_weights(), format.tensor_type.block_bytes());
        let count = vector.len() / (size + 4 * weights);
        let little = &vector[..count * size];
        let mut big = little.to_vec();
        for block in big.chunks_exact_mut(size) {
            scale_offsets(format).iter().for_each(|&offset| block[offset..offset + 2].reverse());
            match format.tensor_type.name() {
                "Q5_0" => block[2..6].reverse(),
                "Q5_1" => block[4..8].reverse(),
                _ => {}
            }
        }
        assert_ne!(big, little);
        format.swap_endian(&mut big);
        assert_eq!(big, little, "{}", format.tensor_type);
    }
}

#[test]
fn legacy_formats_encode_the_fixture_model_to_the_oracles_bytes() {
    let bytes = fs::read(llq_fixtures::fixture("tiny-llama-2/hf/model.safetensors")).unwrap();
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    tensors.retain(|(_, tensor)| tensor.shape().len() == 2);
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    for (format, expected) in hashes("encode", "fixture.sha256") {
        let mut found = Sha256::new();
        for (_, tensor) in &tensors {
            let bf16s = tensor.data().as_chunks().0.iter();
            let weights: Vec<f32> = bf16s.map(|&b| bf16::from_le_bytes(b).to_f32()).collect();
            let size = format.tensor_type.row_bytes(weights.len() as u64).unwrap();
            let mut encoded = vec![0; size as usize];
            format.encode_row(&weights, FAST, &mut encoded).unwrap();
            found.update(&encoded);
        }
        assert_eq!(hex(found), expected, "{}", format.tensor_type);
    }
}

#[test]
fn legacy_formats_without_importance_encode_to_the_oracles_bytes() {
    let weights = floats(&data("encode", "weights.f32"));
    for name in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"] {
        let format = format_named(name);
        let expected = data("encode", &vector_name(format));
        let mut encoded = vec![0; expected.len()];
        format.encode_row(&weights, FAST, &mut encoded).unwrap();
        let block = format.tensor_type.block_bytes();
        for (i, (found, expected)) in encoded.chunks(block).zip(expected.chunks(block)).enumerate()
        {
            assert_eq!(found, expected, "{name} block {i}");
        }
    }
}

#[test]
fn half_precision_formats_round_as_the_oracle() {
    let values = floats(&data("encode", "bits.f32"));
    for name in ["F16", "BF16"] {
        let format = format_named(name);
        let expected = data("encode", &vector_name(format));
        let mut encoded = vec![0; expected.len()];
        format.encode_row(&values, FAST, &mut encoded).unwrap();
        for (i, (found, expected)) in encoded.chunks(2).zip(expected.chunks(2)).enumerate() {
            if name == "F16" && values[i].is_nan() {
                // numpy leaves a signalling NaN as it is, `half` makes it quiet; no weight is either.
                continue;
            }
            assert_eq!(found, expected, "{name} of {:#010x}", values[i].to_bits());
        }
    }
}
