//! Safetensors files, alone and sharded: what is read and what is refused.

use std::fs;

use half::f16;
use llq_convert::{Error, Request, SafetensorsError};
use llq_quant::mix::Mix;
use proptest::prelude::*;
use serde_json::json;

use crate::support::{
    assert_says, converted, failure, request,
    tiny::{Tiny, with_header},
};

#[test]
fn shards_give_the_file_that_the_single_file_gives() {
    let single = tempfile::tempdir().unwrap();
    let sharded = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.config["_name_or_path"] = json!("owner/tiny");
    tiny.write(single.path());
    tiny.write_sharded(sharded.path());
    let single = converted(single.path(), &Request::default());
    assert!(single == converted(sharded.path(), &Request::default()));
}

#[test]
fn number_types_may_be_mixed() {
    let (plain, mixed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut tiny = Tiny::new();
    tiny.config["_name_or_path"] = json!("owner/tiny");
    tiny.write(plain.path());
    tiny.write(mixed.path());
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (index, (name, tensor)) in tiny.tensors.iter().enumerate() {
        let begin = data.len();
        // All weights are exact in each of the three.
        let dtype = match index % 3 {
            0 => {
                data.extend(tensor.weights.iter().flat_map(|weight| weight.to_le_bytes()));
                "F32"
            }
            1 => {
                let halves = tensor.weights.iter().map(|&weight| f16::from_f32(weight));
                data.extend(halves.flat_map(f16::to_le_bytes));
                "F16"
            }
            _ => {
                data.extend(tensor.bf16());
                "BF16"
            }
        };
        let entry =
            json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [begin, data.len()] });
        header.insert(name.clone(), entry);
    }
    let file = with_header(&serde_json::Value::Object(header).to_string(), &data);
    fs::write(mixed.path().join("model.safetensors"), file).unwrap();
    for mix in [Mix::F32, Mix::F16, Mix::BF16, Mix::Q8_0] {
        let plain = converted(plain.path(), &request(mix));
        assert!(plain == converted(mixed.path(), &request(mix)), "{mix}");
    }
}

/// The error of a sharded checkpoint after `damage` to its folder.
fn sharded_failure(damage: impl Fn(&std::path::Path)) -> Error {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write_sharded(folder.path());
    damage(folder.path());
    failure(folder.path(), &Request::default())
}

#[test]
fn a_missing_shard_is_named() {
    let shard = "model-00002-of-00002.safetensors";
    let error = sharded_failure(|folder| fs::remove_file(folder.join(shard)).unwrap());
    assert!(matches!(error, Error::MissingFile { .. }));
    assert_says(&error, &[shard, "index.json"]);
}

#[test]
fn the_index_and_the_shards_must_agree() {
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    // The second shard's file is a copy of the first's.
    let error = sharded_failure(|folder| {
        fs::copy(folder.join(first), folder.join(second)).unwrap();
    });
    assert!(matches!(error, Error::Shards { .. }));
    assert_says(&error, &["is not in it"]);

    // One tensor in both, though the index has it once.
    let error = sharded_failure(|folder| {
        let tensors = Tiny::new().tensors;
        let all = crate::support::tiny::safetensors(tensors.iter());
        fs::write(folder.join(second), all).unwrap();
    });
    assert_says(&error, &["is also in", first]);
}

#[test]
fn index_entries_stay_in_the_folder() {
    for path in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "", ".", "..", "./x"] {
        let error = sharded_failure(|folder| {
            let index = json!({ "weight_map": { "lm_head.weight": path } });
            fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        });
        assert!(matches!(error, Error::Shards { .. }), "{path:?}: {error}");
    }
    let error = sharded_failure(|folder| {
        fs::write(folder.join("model.safetensors.index.json"), r#"{"weight_map":{}}"#).unwrap();
    });
    assert_says(&error, &["names no tensor"]);
}

/// What is wrong with a file of these bytes.
#[track_caller]
fn problem(bytes: &[u8]) -> SafetensorsError {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    match failure(folder.path(), &Request::default()) {
        Error::Safetensors { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

#[test]
fn truncated_files_are_refused() {
    let tensors = Tiny::new().tensors;
    let whole = crate::support::tiny::safetensors(tensors.iter());
    for length in [0, 1, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        problem(&whole[..length]);
    }
    let mut longer = whole;
    longer.push(0);
    assert!(matches!(problem(&longer), SafetensorsError::DataLength { .. }));
}

#[test]
fn headers_of_too_many_tensors_are_refused() {
    let entry = |i| format!(r#""t{i}":{{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}"#);
    let header = format!("{{{}}}", (0..70_000).map(entry).collect::<Vec<_>>().join(","));
    let problem = problem(&with_header(&header, &[]));
    assert!(problem.to_string().contains("more than 65536 tensors"), "{problem}");
}

#[test]
fn damaged_headers_are_refused() {
    let with_length = |length: u64| {
        let mut file = length.to_le_bytes().to_vec();
        file.extend(b"{}");
        file
    };
    for length in [3, 100_000_001, 1 << 63, u64::MAX] {
        assert!(matches!(problem(&with_length(length)), SafetensorsError::HeaderLength { .. }));
    }
    let not_objects = ["", " {}", "[]", "\0{}", "null"];
    for header in not_objects {
        let problem = problem(&with_header(header, &[]));
        assert!(matches!(problem, SafetensorsError::NotAnObject { .. }), "{header:?}");
    }
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let malformed = [
        "{",
        "{}\0\0",
        "{\"\u{fffd}",
        &deep,
        r#"{"__metadata__":{"a":1}}"#,
        r#"{"a":{"dtype":"F32","shape":[1]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1e99],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#,
        r#"{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
    ];
    for header in malformed {
        let problem = problem(&with_header(header, &[0; 4]));
        assert!(matches!(problem, SafetensorsError::Header(_)), "{problem}");
    }
    assert!(matches!(
        problem(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        SafetensorsError::LfsPointer
    ));
}

#[test]
fn tensors_that_do_not_fill_the_file_are_refused() {
    let entry = |name: &str, shape: &str, begin: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let problem_of =
        |entries: &[String]| problem(&with_header(&format!("{{{}}}", entries.join(",")), &[0; 8]));
    use SafetensorsError::{DataLength, Discontiguous, Size, UnknownDtype};
    let sizes = [("[1]", 0, 8), ("[3]", 0, 8), ("[1]", 8, 4), ("[9223372036854775808,2]", 0, 0)];
    for (shape, begin, end) in sizes {
        assert!(matches!(problem_of(&[entry("a", shape, begin, end)]), Size { .. }), "{shape}");
    }
    let hole = [entry("a", "[1]", 0, 4), entry("b", "[0]", 8, 8)];
    assert!(matches!(problem_of(&hole), Discontiguous { .. }));
    let overlap = [entry("a", "[1]", 0, 4), entry("b", "[1]", 2, 6)];
    assert!(matches!(problem_of(&overlap), Discontiguous { .. }));
    assert!(matches!(problem_of(&[entry("a", "[1]", 4, 8)]), Discontiguous { .. }));
    assert!(matches!(problem_of(&[entry("a", "[1]", 0, 4)]), DataLength { .. }));
    assert!(matches!(problem_of(&[entry("a", "[3]", 0, 12)]), DataLength { .. }));
    let unknown = entry("a", "[1]", 0, 4).replace("F32", "F33");
    assert!(matches!(problem_of(&[unknown]), UnknownDtype { .. }));
    // A header of a few bytes may not claim more than the file has.
    let huge = entry("a", "[144115188075855872]", 0, 1 << 59);
    assert!(matches!(problem_of(&[huge]), DataLength { .. }));
}

#[test]
fn numbers_that_are_no_weights_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny::new();
    tiny.write(folder.path());
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&bytes[8..]).into_owned();
    let header = &text[..text.find("}}").unwrap() + 2];
    // The same size, another meaning.
    let changed = header.replacen("BF16", "I16", 1).replacen("\"I16\"", "\"I16\" ", 1);
    let mut file = bytes;
    file[8..8 + header.len()].copy_from_slice(changed.as_bytes());
    fs::write(&path, file).unwrap();
    let error = failure(folder.path(), &Request::default());
    assert!(matches!(error, Error::Dtype { .. }), "{error}");
    assert_says(&error, &["lm_head.weight", "I16"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_damage_makes_it_panic(at in 0..3000usize, value: u8) {
        let folder = tempfile::tempdir().unwrap();
        Tiny::new().write(folder.path());
        let path = folder.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] = value;
        fs::write(&path, bytes).unwrap();
        // Sound or an error: most of these bytes are the header's.
        drop(llq_convert::open(folder.path()));
    }
}
