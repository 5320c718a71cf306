//! Split models: all files read as one, and every way in which they may not fit.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    fs,
    path::{Path, PathBuf},
};

use llq_gguf::{Error, Metadata, Model, TensorSpec, TensorType, Value, to_bytes};
use tempfile::TempDir;

fn shard_path(folder: &Path, number: usize, count: usize) -> PathBuf {
    folder.join(format!("model-{number:05}-of-{count:05}.gguf"))
}

fn shard_metadata(number: usize, count: usize, tensors: usize) -> Metadata {
    let mut metadata = Metadata::new();
    if number == 1 {
        metadata.set("general.architecture", "llama");
        metadata.set("general.name", "whole");
    }
    metadata.set("split.no", number as u16 - 1);
    metadata.set("split.count", count as u16);
    metadata.set("split.tensors.count", tensors as i32);
    metadata
}

fn tensor(name: &str, fill: u8) -> (TensorSpec, [u8; 16]) {
    (TensorSpec::new(name, [4], TensorType::F32), [fill; 16])
}

fn write_shard(path: &Path, metadata: &Metadata, tensors: &[(&str, u8)]) {
    let tensors = tensors.iter().map(|&(name, fill)| tensor(name, fill));
    fs::write(path, to_bytes(metadata, tensors).unwrap()).unwrap();
}

/// A model of three files; the first holds metadata only, as `--no-tensor-first-split` makes it.
fn split_model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let shards: [&[(&str, u8)]; 3] = [&[], &[("b", 1), ("a", 2)], &[("c", 3)]];
    for (number, tensors) in (1..).zip(shards) {
        let metadata = shard_metadata(number, 3, 3);
        write_shard(&shard_path(folder.path(), number, 3), &metadata, tensors);
    }
    folder
}

fn open_error(folder: &TempDir) -> Error {
    Model::open(&shard_path(folder.path(), 1, 3)).unwrap_err()
}

#[test]
fn any_shard_opens_the_whole_model() {
    let folder = split_model();
    for number in 1..=3 {
        let model = Model::open(&shard_path(folder.path(), number, 3)).unwrap();
        assert_eq!(model.path(), shard_path(folder.path(), 1, 3));
        assert_eq!(model.paths().len(), 3);
        let names: Vec<&str> = model.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["b", "a", "c"]);
        for (name, fill, shard) in [("a", 2, 1), ("b", 1, 1), ("c", 3, 2)] {
            let tensor = model.tensor(name).unwrap();
            assert_eq!(tensor.shard, shard);
            assert_eq!(model.data(tensor), [fill; 16]);
        }
        let keys: Vec<&str> = model.metadata().iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["general.architecture", "general.name"]);
    }
}

#[test]
fn split_keys_may_be_of_any_integer_type() {
    let kinds: [fn(u8) -> Value; 4] =
        [|n| n.into(), |n| i64::from(n).into(), |n| u64::from(n).into(), |n| i32::from(n).into()];
    for kind in kinds {
        let folder = split_model();
        for (number, tensors) in [(1, [].as_slice()), (2, &[("b", 1), ("a", 2)]), (3, &[("c", 3)])]
        {
            let metadata = Metadata::from_iter([
                ("split.no", kind(number - 1)),
                ("split.count", kind(3)),
                ("split.tensors.count", kind(3)),
            ]);
            write_shard(&shard_path(folder.path(), number.into(), 3), &metadata, tensors);
        }
        assert!(Model::open(&shard_path(folder.path(), 2, 3)).is_ok());
    }
}

#[test]
fn a_missing_shard_is_named() {
    for missing in 1..=3 {
        let folder = split_model();
        let path = shard_path(folder.path(), missing, 3);
        fs::remove_file(&path).unwrap();
        let error = Model::open(&shard_path(folder.path(), 1 + missing % 3, 3)).unwrap_err();
        let Error::MissingShard { path: named, number, count: 3 } = error else {
            panic!("{error}")
        };
        assert_eq!((named, number), (path, missing as u64));
    }
}

#[test]
fn swapped_shards_are_refused() {
    let folder = split_model();
    let [second, third] = [2, 3].map(|number| shard_path(folder.path(), number, 3));
    let aside = folder.path().join("aside");
    fs::rename(&second, &aside).unwrap();
    fs::rename(&third, &second).unwrap();
    fs::rename(&aside, &third).unwrap();
    let message = open_error(&folder).to_string();
    assert!(message.ends_with("expected split.no 1, found 2"), "{message}");
    assert!(message.contains("model-00002-of-00003.gguf"), "{message}");
}

#[test]
fn a_shard_of_another_model_is_refused() {
    let folder = split_model();
    let third = shard_path(folder.path(), 3, 3);
    let refusal = |metadata: &Metadata| {
        write_shard(&third, metadata, &[("c", 3)]);
        let message = open_error(&folder).to_string();
        assert!(message.contains("model-00003-of-00003.gguf"), "{message}");
        message
    };
    assert!(refusal(&shard_metadata(3, 4, 3)).ends_with("expected split.count 3, found 4"));
    assert!(refusal(&shard_metadata(3, 3, 9)).ends_with("split.tensors.count 3, found 9"));
    assert!(refusal(&Metadata::new()).ends_with("expected a count split.no, found none"));
    let mut other = shard_metadata(3, 3, 3);
    other.set("general.architecture", "qwen2");
    assert!(refusal(&other).contains("general.architecture \"llama\" as in the first part"));
    let mut bad = shard_metadata(3, 3, 3);
    bad.set("split.no", "2");
    assert!(refusal(&bad).contains("expected an integer, found string"));
}

#[test]
fn a_wrong_number_of_tensors_is_refused() {
    let folder = split_model();
    write_shard(&shard_path(folder.path(), 3, 3), &shard_metadata(3, 3, 3), &[("c", 3), ("d", 4)]);
    let error = open_error(&folder);
    assert!(matches!(error, Error::ShardTensors { expected: 3, found: 4, .. }), "{error}");
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let folder = split_model();
    write_shard(&shard_path(folder.path(), 3, 3), &shard_metadata(3, 3, 3), &[("a", 3)]);
    let Error::DuplicateTensor { path, tensor, first } = open_error(&folder) else { panic!() };
    assert_eq!(tensor, "a");
    assert_eq!(path, shard_path(folder.path(), 3, 3));
    assert_eq!(first, shard_path(folder.path(), 2, 3));
}

#[test]
fn a_truncated_shard_is_named() {
    let folder = split_model();
    let path = shard_path(folder.path(), 2, 3);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();
    let error = open_error(&folder);
    assert!(matches!(&error, Error::Truncated { path: named, .. } if *named == path), "{error}");
}

#[test]
fn a_part_under_another_name_is_refused() {
    let folder = split_model();
    let renamed = folder.path().join("renamed.gguf");
    fs::copy(shard_path(folder.path(), 2, 3), &renamed).unwrap();
    let message = Model::open(&renamed).unwrap_err().to_string();
    assert!(message.contains("-00001-of-00003.gguf"), "{message}");
    assert!(Model::from_bytes(fs::read(&renamed).unwrap()).is_err());
}

#[test]
fn a_merged_model_is_whole() {
    for count in [0, 1] {
        let mut metadata = shard_metadata(1, 1, 1);
        metadata.set("split.count", count as u16);
        let model = Model::from_bytes(to_bytes(&metadata, [tensor("a", 1)]).unwrap()).unwrap();
        assert_eq!(model.metadata().len(), 2);
    }
}

#[cfg(unix)]
#[test]
fn links_to_shards_are_followed_by_their_own_names() {
    let blobs = split_model();
    let links = tempfile::tempdir().unwrap();
    for number in 1..=3 {
        let blob = blobs.path().join(format!("blob{number}"));
        fs::rename(shard_path(blobs.path(), number, 3), &blob).unwrap();
        std::os::unix::fs::symlink(blob, shard_path(links.path(), number, 3)).unwrap();
    }
    assert_eq!(Model::open(&shard_path(links.path(), 3, 3)).unwrap().tensors().len(), 3);
}
