//! Meta shards with feed-forward matrices in FP8, as Llama 3.1 405B has them.

use std::{fs, path::Path};

use half::bf16;
use llq_convert::{Error, OpenOptions, Overrides, Request, open};
use llq_gguf::{Model, TensorType};

use crate::support::{
    assert_says, converted, failure,
    lora::{Made, merging, try_open_and_write},
    meta::{self, EmbeddingCut},
    pickle::{described, f32_vector, fp8_tensor, tensor_of},
    tiny::{Tensor, Tiny},
};

const SHARDS: usize = 2;

/// Codes of a matrix and the scale of each row.
struct Fp8 {
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl Fp8 {
    fn new(seed: usize, shape: &[u64]) -> Fp8 {
        // Every code but the NaNs.
        let codes = (0..(shape[0] * shape[1]) as usize).map(|i| {
            let code = (i * 37 + seed * 11) % 254;
            ((code % 127) | ((code / 127) << 7)) as u8
        });
        let scales = (0..shape[0]).map(|row| 0.001 * (row + 1 + seed as u64) as f32);
        Fp8 { codes: codes.collect(), scales: scales.collect() }
    }

    fn weights(&self) -> Vec<f32> {
        let columns = self.codes.len() / self.scales.len();
        let rows = self.codes.chunks(columns).zip(&self.scales);
        let weight = |&code: &u8, scale: f32| bf16::from_f32(value(code) * scale).to_f32();
        rows.flat_map(|(codes, &scale)| codes.iter().map(move |code| weight(code, scale))).collect()
    }
}

/// The definition: sign, exponent with bias 7, mantissa of three bits.
fn value(code: u8) -> f32 {
    let sign = if code < 128 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from((code >> 3) & 15), f32::from(code & 7) / 8.0);
    match exponent {
        0 => sign * mantissa * 2f32.powi(-6),
        _ => sign * (1.0 + mantissa) * 2f32.powi(exponent - 7),
    }
}

/// Writes the model twice: with FP8 in its second block, and as it is read.
fn write_both(fp8_folder: &Path, plain_folder: &Path) {
    for folder in [fp8_folder, plain_folder] {
        fs::create_dir_all(folder).unwrap();
        meta::write_params(folder);
    }
    for shard in 0..SHARDS {
        let mut pieces = meta::pieces(&Tiny::new(), shard, SHARDS, EmbeddingCut::Rows);
        let mut fp8 = Vec::new();
        for (seed, (name, tensor)) in pieces.iter_mut().enumerate() {
            let matrix = Fp8::new(seed + shard, &[tensor.shape[0], *tensor.shape.last().unwrap()]);
            let is_fp8 = name.starts_with("layers.1.feed_forward.");
            if is_fp8 {
                tensor.weights = matrix.weights();
            }
            fp8.push(is_fp8.then_some(matrix));
        }
        meta::write_shard(plain_folder, shard, &pieces);
        write_fp8_shard(fp8_folder, shard, &pieces, &fp8);
    }
}

fn write_fp8_shard(folder: &Path, shard: usize, pieces: &[(String, Tensor)], fp8: &[Option<Fp8>]) {
    let bf16: Vec<Vec<u8>> = pieces.iter().map(|(_, tensor)| tensor.bf16()).collect();
    let tensors = pieces.iter().zip(fp8).zip(&bf16).map(|(((name, tensor), fp8), bf16)| {
        let shape: Vec<i32> = tensor.shape.iter().map(|&extent| extent as i32).collect();
        let describe: Box<dyn Fn(&str) -> Vec<u8>> = match fp8 {
            Some(_) => Box::new(move |key| fp8_tensor(key, [shape[0], shape[1]])),
            None => Box::new(move |key| {
                let strides = if shape.len() == 1 { vec![1] } else { vec![shape[1], 1] };
                tensor_of(key, 0, &shape, &strides, shape.iter().product())
            }),
        };
        (name.as_str(), describe, fp8.as_ref().map_or(&bf16[..], |fp8| &fp8.codes))
    });
    let path = folder.join(format!("consolidated.{shard:02}.pth"));
    fs::write(path, described(tensors)).unwrap();

    let named: Vec<(String, Vec<u8>)> = (pieces.iter().zip(fp8))
        .filter_map(|((name, _), fp8)| {
            let bytes = fp8.as_ref()?.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
            let matrix = name.strip_prefix("layers.1.")?.strip_suffix(".weight")?;
            Some((format!("1_{matrix}_{shard}"), bytes))
        })
        .collect();
    let scales = named.iter().map(|(name, bytes)| {
        let len = bytes.len() as i32 / 4;
        let describe: Box<dyn Fn(&str) -> Vec<u8>> = Box::new(move |key| f32_vector(key, len));
        (name.as_str(), describe, &bytes[..])
    });
    fs::write(folder.join(format!("fp8_scales_{shard}.pt")), described(scales)).unwrap();
}

#[test]
fn rows_are_multiplied_by_their_scales() {
    let folder = tempfile::tempdir().unwrap();
    let (fp8, plain) = (folder.path().join("a/405B"), folder.path().join("b/405B"));
    write_both(&fp8, &plain);
    let request = Request::default();
    assert!(converted(&fp8, &request) == converted(&plain, &request));
    let source = open(&fp8).unwrap();
    let note = "3 tensors are FP8 (E4M3) with a scale per row: read as BF16, rounded";
    assert!(source.notes().iter().any(|found| found.0 == note), "{:?}", source.notes());
}

#[test]
fn scales_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let (fp8, plain) = (folder.path().join("a"), folder.path().join("b"));
    write_both(&fp8, &plain);
    let path = fp8.join("fp8_scales_1.pt");
    let bytes = b"1_feed_forward.w3_1";
    let mut scales = fs::read(&path).unwrap();
    let at = scales.windows(bytes.len()).position(|part| part == bytes).unwrap();
    scales[at + bytes.len() - 3] = b'9';
    fs::write(&path, scales).unwrap();
    let error = failure(&fp8, &Request::default());
    assert!(matches!(error, Error::MissingTensor { .. }), "{error}");
    assert_says(&error, &["fp8_scales_1.pt", "1_feed_forward.w3_1"]);

    fs::remove_file(path).unwrap();
    let error = failure(&fp8, &Request::default());
    assert!(matches!(error, Error::MissingFile { .. }), "{error}");
    assert_says(&error, &["no fp8_scales_1.pt, the scales of tensor \"layers.1.feed_forward"]);
}

#[test]
fn scales_must_fit() {
    let folder = tempfile::tempdir().unwrap();
    let (fp8, plain) = (folder.path().join("a"), folder.path().join("b"));
    write_both(&fp8, &plain);
    let bytes = [0; 12];
    for (describe, part) in [
        (f32_vector as fn(&str, i32) -> Vec<u8>, "is [3], expected [32]"),
        (|key, len| tensor_of(key, 0, &[len], &[1], len * 2), "expected F32"),
    ] {
        let names = ["1_feed_forward.w1_0", "1_feed_forward.w2_0", "1_feed_forward.w3_0"];
        let tensors = names.iter().map(|&name| {
            let describe: Box<dyn Fn(&str) -> Vec<u8>> = Box::new(move |key| describe(key, 3));
            (name, describe, &bytes[..])
        });
        fs::write(fp8.join("fp8_scales_0.pt"), described(tensors)).unwrap();
        assert_says(&failure(&fp8, &Request::default()), &["1_feed_forward.w", part]);
    }
}

#[test]
fn an_adapter_is_merged_into_the_weights_that_are_meant() {
    let folder = tempfile::tempdir().unwrap();
    let [fp8, plain] = ["fp8", "plain"].map(|form| folder.path().join(form).join("original"));
    write_both(&fp8, &plain);
    let adapter = tempfile::tempdir().unwrap();
    Made::new(1).with_embedding().write(adapter.path());
    let overrides = Overrides::default().with_name(Some("The same".to_owned()));
    let options = OpenOptions { overrides, ..merging([(adapter.path(), 1.0)]) };
    let [fp8, plain] = [fp8, plain]
        .map(|folder| try_open_and_write(&folder, &options, &Request::default()).unwrap());
    let model = Model::from_bytes(fp8).unwrap();
    let types = ["token_embd", "blk.1.ffn_up"]
        .map(|stem| model.tensor(&format!("{stem}.weight")).unwrap().tensor_type);
    assert_eq!(types, [TensorType::BF16; 2]);
    let plain = Model::from_bytes(plain).unwrap();
    for tensor in plain.tensors() {
        let found = model.tensor(&tensor.name).unwrap();
        assert!(model.data(found) == plain.data(tensor), "{}", tensor.name);
    }
    assert_eq!(model.metadata().string("general.name").unwrap(), "The same");
}
