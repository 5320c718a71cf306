//! The forms an output can have: kept types, parts, byte order, and what becomes of weights that
//! do not fit.

use std::path::{Path, PathBuf};

use llq_convert::{
    Endian, Error, OnOverflow, Output, Overwrite, Plan, Requantize, Request, Silent, Split, open,
    write,
};
use llq_fixtures::fixture;
use llq_gguf::{Metadata, Model, TensorSpec, TensorType, to_bytes};
use llq_quant::mix::Mix;
use tempfile::TempDir;

use crate::support::{
    assert_says, converted, converted_model, failure, listing, request, tiny::Tiny, try_convert,
};

/// The fixture as GGUF of this type.
fn gguf(folder: &TempDir, mix: Mix) -> PathBuf {
    let path = folder.path().join(format!("{mix}.gguf"));
    try_convert(&fixture("tiny-llama-2/hf"), &path, &request(mix)).unwrap();
    path
}

#[test]
fn gguf_is_copied_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    for mix in [Mix::Q4_K_M, Mix::F16] {
        let original = gguf(&folder, mix);
        let copy = converted(&original, &Request::default());
        assert!(copy == std::fs::read(&original).unwrap(), "{mix}");
    }
}

#[test]
fn types_that_llq_does_not_know_are_copied_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.gguf");
    let specs = [TensorType::IQ4_XS, TensorType::I32].map(|tensor_type| {
        let bytes = vec![7u8; tensor_type.row_bytes(512).unwrap() as usize];
        (TensorSpec::new(tensor_type.name(), [512], tensor_type), bytes)
    });
    let bytes = to_bytes(&Metadata::from_iter([("general.architecture", "other")]), specs);
    std::fs::write(&path, bytes.unwrap()).unwrap();
    assert!(converted(&path, &Request::default()) == std::fs::read(&path).unwrap());
    let error = failure(&path, &Request { endian: Endian::Big, ..Request::default() });
    assert!(matches!(error, Error::NoFormat { .. }), "{error}");
}

#[test]
fn of_split_keys_only_those_about_parts_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.gguf");
    let keys = [("general.architecture", "other"), ("split.by", "hand")];
    let tensor = (TensorSpec::new("a", [8], TensorType::F32), [0; 32]);
    std::fs::write(&path, to_bytes(&Metadata::from_iter(keys), [tensor]).unwrap()).unwrap();
    let copy = converted_model(&path, &Request::default());
    assert_eq!(copy.metadata().string("split.by").unwrap(), "hand");
}

#[test]
fn quantized_types_become_plain_without_leave() {
    let folder = tempfile::tempdir().unwrap();
    let quantized = gguf(&folder, Mix::Q8_0);
    let model = Model::open(&quantized).unwrap();
    let name = "blk.0.ffn_up.weight";
    let info = model.tensor(name).unwrap();
    let mut expected = vec![0.0; info.weights() as usize];
    llq_quant::format(TensorType::Q8_0)
        .unwrap()
        .dequantize(model.data(info), &mut expected)
        .unwrap();

    let plain = converted_model(&quantized, &request(Mix::F32));
    let bytes: Vec<u8> = expected.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    assert!(plain.data(plain.tensor(name).unwrap()) == bytes);
    assert_eq!(plain.metadata().count("general.file_type").unwrap(), 0);
}

#[test]
fn auto_says_which_tensors_of_a_checkpoint_it_narrows() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let path = folder.path().join("model.safetensors");
    widen(&path, "lm_head.weight");
    let source = open(folder.path()).unwrap();
    let plan = Plan::new(&*source, &Request::default()).unwrap();
    let notes: Vec<&str> = plan.notes().iter().map(|note| note.0.as_str()).collect();
    assert!(notes.contains(&"1 of the tensors are F32 and become BF16: output.weight first"));
}

/// Makes F32 of one BF16 tensor of a safetensors file.
fn widen(path: &Path, name: &str) {
    let bytes = std::fs::read(path).unwrap();
    let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes[8..8 + header_bytes]).unwrap();
    let mut entries: Vec<_> = header.into_iter().collect();
    entries.sort_by_key(|(_, entry)| entry["data_offsets"][0].as_u64());
    let mut data: Vec<u8> = Vec::new();
    for (tensor, entry) in &mut entries {
        let place = |index: usize| entry["data_offsets"][index].as_u64().unwrap() as usize;
        let published = &bytes[8 + header_bytes..][place(0)..place(1)];
        let start = data.len();
        if tensor == name {
            data.extend(published.chunks(2).flat_map(|half| [0, 0, half[0], half[1]]));
            entry["dtype"] = "F32".into();
        } else {
            data.extend(published);
        }
        entry["data_offsets"] = [start, data.len()].as_slice().into();
    }
    let header = serde_json::Value::Object(entries.into_iter().collect()).to_string();
    std::fs::write(path, crate::support::tiny::with_header(&header, &data)).unwrap();
}

#[test]
fn parts_hold_the_model_that_one_file_holds() {
    let whole = converted_model(&fixture("tiny-llama-2/hf"), &request(Mix::Q4_K_M));
    let folder = tempfile::tempdir().unwrap();
    let split = Request { split: Split::Bytes(1_000_000), ..request(Mix::Q4_K_M) };
    let target = folder.path().join("out.gguf");
    let report = try_convert(&fixture("tiny-llama-2/hf"), &target, &split).unwrap();
    let files = listing(folder.path());
    assert!(files.len() > 2);
    let model = Model::open(&folder.path().join(&files[1])).unwrap();
    assert_eq!(model.file_bytes(), report.file_bytes);
    assert_eq!(model.metadata(), whole.metadata());
    for tensor in whole.tensors() {
        let found = model.tensor(&tensor.name).unwrap();
        assert!(model.data(found) == whole.data(tensor), "{}", tensor.name);
    }
    // And back: the parts as one file are the bytes of the model that was never split.
    let joined = converted(&folder.path().join(&files[0]), &Request::default());
    assert!(joined == converted(&fixture("tiny-llama-2/hf"), &request(Mix::Q4_K_M)));
}

#[test]
fn a_part_never_replaces_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let split = Request { split: Split::Tensors(30), ..Request::default() };
    let target = folder.path().join("m.gguf");
    try_convert(&fixture("tiny-llama-2/hf"), &target, &split).unwrap();
    let files = listing(folder.path());
    let source = open(&folder.path().join(&files[0])).unwrap();
    let plan = Plan::new(&*source, &split).unwrap();
    let error = write(&*source, &plan, &target, Overwrite::Replace, &Silent).unwrap_err();
    assert!(matches!(error, Error::TargetIsSource { .. }), "{error}");
}

#[test]
fn big_endian_files_turn_back_into_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for mix in [Mix::BF16, Mix::Q4_K_M, Mix::Q5_1, Mix::Q3_K_S] {
        let little = gguf(&folder, mix);
        let big = folder.path().join("big.gguf");
        let swapped = Request { endian: Endian::Big, ..Request::default() };
        try_convert(&little, &big, &swapped).unwrap();
        let model = Model::open(&big).unwrap();
        assert_eq!(model.endian(), Endian::Big);
        assert!(std::fs::read(&big).unwrap() != std::fs::read(&little).unwrap());
        let back = converted(&big, &Request::default());
        assert!(back == std::fs::read(&little).unwrap(), "{mix}");
        std::fs::remove_file(&big).unwrap();
    }
}

/// The small model with weights that are too large for F16 in two tensors.
pub(crate) fn overflowing(folder: &TempDir) {
    let mut tiny = Tiny::new();
    tiny.tensors.get_mut("lm_head.weight").unwrap().weights[33] = -65536.0;
    let up = &mut tiny.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap().weights;
    (up[5], up[700], up[701]) = (1e30, 65536.0, f32::INFINITY);
    tiny.write(folder.path());
}

fn with_policy(mix: Mix, on_overflow: OnOverflow) -> Request {
    Request { on_overflow, ..request(mix) }
}

#[test]
fn every_tensor_that_does_not_fit_f16_is_named() {
    let folder = tempfile::tempdir().unwrap();
    overflowing(&folder);
    for threads in [1, 4] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let error = pool.install(|| failure(folder.path(), &request(Mix::F16)));
        let Error::Overflow { tensors } = &error else { panic!("{error}") };
        let found: Vec<_> =
            tensors.iter().map(|t| (t.tensor.as_str(), t.weights, t.largest)).collect();
        let large = half::bf16::from_f32(1e30).to_f32();
        assert_eq!(found, [("output.weight", 1, 65536.0), ("blk.1.ffn_up.weight", 2, large)]);
        assert_says(&error, &["output.weight", "blk.1.ffn_up.weight", "F16"]);
    }
}

#[test]
fn weights_that_do_not_fit_are_cut_on_request() {
    let folder = tempfile::tempdir().unwrap();
    overflowing(&folder);
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("out.gguf");
    let clamp = with_policy(Mix::F16, OnOverflow::Clamp);
    let report = try_convert(folder.path(), &target, &clamp).unwrap();
    assert_eq!(report.overflows.len(), 2);
    assert_eq!(report.non_finite[0].weights, 1);
    let model = Model::open(&target).unwrap();
    let number = |name: &str, index: usize| {
        let info = model.tensor(name).unwrap();
        let bytes = &model.data(info)[2 * index..][..2];
        half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    };
    assert_eq!(number("output.weight", 33), -65504.0);
    assert_eq!(number("blk.1.ffn_up.weight", 5), 65504.0);
    // An infinity is one in the source.
    assert_eq!(number("blk.1.ffn_up.weight", 701), f32::INFINITY);
}

#[test]
fn tensors_that_do_not_fit_stay_bf16_on_request() {
    let folder = tempfile::tempdir().unwrap();
    overflowing(&folder);
    let keep = with_policy(Mix::F16, OnOverflow::KeepBf16);
    let model = converted_model(folder.path(), &keep);
    let bf16 = converted_model(folder.path(), &request(Mix::BF16));
    let f16 = converted_model(folder.path(), &with_policy(Mix::F16, OnOverflow::Clamp));
    for tensor in model.tensors() {
        let kept = ["output.weight", "blk.1.ffn_up.weight"].contains(&tensor.name.as_str());
        let expected = if kept { &bf16 } else { &f16 };
        let info = expected.tensor(&tensor.name).unwrap();
        assert_eq!(tensor.tensor_type, info.tensor_type, "{}", tensor.name);
        assert!(model.data(tensor) == expected.data(info), "{}", tensor.name);
    }
    // In parts, the types stand in several headers.
    let out = tempfile::tempdir().unwrap();
    let split = Request { split: Split::Tensors(5), ..keep };
    try_convert(folder.path(), &out.path().join("out.gguf"), &split).unwrap();
    let parts = Model::open(&out.path().join(&listing(out.path())[0])).unwrap();
    for tensor in model.tensors() {
        let info = parts.tensor(&tensor.name).unwrap();
        assert_eq!(info.tensor_type, tensor.tensor_type);
        assert!(parts.data(info) == model.data(tensor));
    }
}

#[test]
fn weights_that_no_scale_is_large_enough_for_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    let up = &mut tiny.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap().weights;
    // The first fits: 127 × 65504 is larger.
    (up[5], up[300]) = (1e6, 1e10);
    tiny.write(folder.path());
    for policy in [OnOverflow::Error, OnOverflow::KeepBf16] {
        let error = failure(folder.path(), &with_policy(Mix::Q8_0, policy));
        let Error::Overflow { tensors } = &error else { panic!("{error}") };
        assert_eq!((tensors.len(), tensors[0].weights), (1, 1));
        assert_says(&error, &["blk.1.ffn_up.weight", "Q8_0"]);
    }
    let out = tempfile::tempdir().unwrap();
    let clamp = with_policy(Mix::Q8_0, OnOverflow::Clamp);
    let report = try_convert(folder.path(), &out.path().join("out.gguf"), &clamp).unwrap();
    assert_eq!(report.overflows[0].tensor, "blk.1.ffn_up.weight");
}

#[test]
fn quantizing_again_needs_leave_but_copying_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let quantized = gguf(&folder, Mix::Q8_0);
    let error = failure(&quantized, &request(Mix::Q4_0));
    assert!(matches!(error, Error::AlreadyQuantized { .. }), "{error}");
    let allowed = Request { requantize: Requantize::Allow, ..request(Mix::Q4_0) };
    converted(&quantized, &allowed);
    assert_eq!(Request::default().output, Output::Auto);
}
