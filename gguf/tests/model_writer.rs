//! Models in one file or several: where they are cut, and that all files appear or none.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{fs, path::PathBuf};

use llq_gguf::{
    Endian, Error, Metadata, Model, ModelLayout, ModelWriter, Overwrite, Split, TensorSpec,
    TensorType,
};
use tempfile::TempDir;

fn metadata() -> Metadata {
    let mut metadata = Metadata::from_iter([("general.architecture", "llama")]);
    metadata.set("tokenizer.ggml.tokens", vec!["a"; 100]);
    metadata.set("general.count", 258u32);
    metadata
}

/// Ten tensors of 1 to 10 KiB.
fn specs() -> Vec<TensorSpec> {
    let spec = |i: u64| TensorSpec::new(format!("blk.{i}.t"), [256, i + 1], TensorType::F32);
    (0..10).map(spec).collect()
}

fn plan(endian: Endian, split: Split) -> ModelLayout {
    ModelLayout::plan(&metadata(), specs(), endian, split).unwrap()
}

fn data(index: usize) -> Vec<u8> {
    vec![index as u8 + 1; 1024 * (index + 1)]
}

fn written(layout: &ModelLayout, folder: &TempDir, overwrite: Overwrite) -> ModelWriter {
    let target = folder.path().join("model.gguf");
    let writer = ModelWriter::create(&target, layout.clone(), overwrite).unwrap();
    for index in 0..10 {
        writer.write_at(index, 0, &data(index)).unwrap();
    }
    writer
}

fn names(folder: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn part(folder: &TempDir, number: usize, count: usize) -> PathBuf {
    folder.path().join(format!("model-{number:05}-of-{count:05}.gguf"))
}

#[test]
fn parts_read_back_as_one_model() {
    let cases = [(Split::Never, 1), (Split::Tensors(3), 4), (Split::Bytes(20_000), 4)];
    for endian in [Endian::Little, Endian::Big] {
        for (split, count) in cases {
            let layout = plan(endian, split);
            assert_eq!(layout.parts().len(), count, "{split:?}");
            let folder = tempfile::tempdir().unwrap();
            written(&layout, &folder, Overwrite::Forbid).seal().unwrap().publish().unwrap();
            assert_eq!(names(&folder).len(), count);
            let first = match count {
                1 => folder.path().join("model.gguf"),
                _ => part(&folder, 1, count),
            };
            let model = Model::open(&first).unwrap();
            assert_eq!(model.endian(), endian);
            assert_eq!(model.metadata(), &metadata());
            assert_eq!(model.file_bytes(), layout.file_bytes());
            for (index, tensor) in model.tensors().iter().enumerate() {
                assert_eq!(tensor.name, format!("blk.{index}.t"));
                assert_eq!(model.data(tensor), data(index));
            }
        }
    }
}

#[test]
fn only_the_first_part_has_the_metadata() {
    let layout = plan(Endian::Little, Split::Tensors(4));
    let folder = tempfile::tempdir().unwrap();
    let sealed = written(&layout, &folder, Overwrite::Forbid).seal().unwrap();
    for (number, header) in sealed.headers().enumerate() {
        let metadata = &header.metadata;
        assert_eq!(metadata.get("split.no"), Some(&(number as u16).into()));
        assert_eq!(metadata.get("split.count"), Some(&3u16.into()));
        assert_eq!(metadata.get("split.tensors.count"), Some(&10i32.into()));
        assert_eq!(metadata.len(), if number == 0 { 6 } else { 3 });
    }
}

#[test]
fn no_part_is_larger_than_asked_but_for_one_tensor() {
    for most in [1, 5_000, 12_000, 20_000, 40_000] {
        let layout = plan(Endian::Little, Split::Bytes(most));
        assert_eq!(layout.tensors().count(), 10);
        for part in layout.parts() {
            let fits = part.file_bytes() <= most;
            assert!(fits || part.tensors().len() == 1, "{most}: {}", part.file_bytes());
        }
    }
}

#[test]
fn a_split_that_one_file_is_enough_for_is_none() {
    let layout = plan(Endian::Little, Split::Bytes(1 << 30));
    assert_eq!(layout.parts()[0].header(), plan(Endian::Little, Split::Never).parts()[0].header());
}

#[test]
fn parts_are_named_for_the_whole() {
    let layout = plan(Endian::Little, Split::Tensors(5));
    for target in ["a/m.gguf", "a/m", "a/m-00001-of-00009.gguf"] {
        let paths = layout.paths(target.as_ref()).unwrap();
        let expected = ["a/m-00001-of-00002.gguf", "a/m-00002-of-00002.gguf"];
        assert_eq!(paths, expected.map(PathBuf::from), "{target}");
    }
    let whole = plan(Endian::Little, Split::Never);
    let error = whole.paths("m-00001-of-00002.gguf".as_ref()).unwrap_err();
    assert!(matches!(error, Error::Shard { .. }), "{error}");
}

#[test]
fn more_parts_than_can_be_counted_are_refused() {
    let spec = |i| TensorSpec::new(format!("t{i}"), [1], TensorType::F32);
    let specs = (0..70_000).map(spec).collect();
    let split = Split::Tensors(1);
    let error = ModelLayout::plan(&Metadata::new(), specs, Endian::Little, split).unwrap_err();
    assert!(matches!(error, Error::TooManyParts { parts: 70_000, .. }), "{error}");
}

#[test]
fn all_parts_appear_or_none() {
    let layout = plan(Endian::Little, Split::Tensors(4));
    let folder = tempfile::tempdir().unwrap();
    let sealed = written(&layout, &folder, Overwrite::Forbid).seal().unwrap();
    assert!(names(&folder).iter().all(|name| name.ends_with(".partial")));
    fs::write(part(&folder, 3, 3), "precious").unwrap();
    let error = sealed.publish().unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(names(&folder), ["model-00003-of-00003.gguf"]);
    assert_eq!(fs::read(part(&folder, 3, 3)).unwrap(), b"precious");

    // An incomplete part keeps the complete ones from appearing.
    let target = folder.path().join("model.gguf");
    let writer = ModelWriter::create(&target, layout.clone(), Overwrite::Replace).unwrap();
    for index in 0..9 {
        writer.write_at(index, 0, &data(index)).unwrap();
    }
    let error = writer.seal().unwrap_err();
    assert!(matches!(error, Error::Incomplete { .. }), "{error}");
    assert_eq!(names(&folder), ["model-00003-of-00003.gguf"]);

    let error = ModelWriter::create(&target, layout.clone(), Overwrite::Forbid).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    written(&layout, &folder, Overwrite::Replace).seal().unwrap().publish().unwrap();
    assert_eq!(Model::open(&part(&folder, 2, 3)).unwrap().tensors().len(), 10);
}

#[test]
fn a_part_that_replaced_none_is_removed_again() {
    let layout = plan(Endian::Little, Split::Tensors(4));
    let folder = tempfile::tempdir().unwrap();
    fs::write(part(&folder, 1, 3), "old").unwrap();
    let sealed = written(&layout, &folder, Overwrite::Replace).seal().unwrap();
    // Nothing can be renamed to a folder.
    fs::create_dir(part(&folder, 3, 3)).unwrap();
    sealed.publish().unwrap_err();
    assert_eq!(names(&folder), ["model-00001-of-00003.gguf", "model-00003-of-00003.gguf"]);
}

#[test]
fn room_is_looked_for_before_the_first_byte() {
    let folder = tempfile::tempdir().unwrap();
    let spec = |i| TensorSpec::new(format!("t{i}"), [1 << 58], TensorType::I8);
    let specs = (0..2).map(spec).collect();
    let split = Split::Tensors(1);
    let layout = ModelLayout::plan(&Metadata::new(), specs, Endian::Little, split).unwrap();
    let target = folder.path().join("model.gguf");
    let all = layout.file_bytes();
    let error = ModelWriter::create(&target, layout, Overwrite::Forbid).unwrap_err();
    let Error::NotEnoughSpace { needed, available, .. } = error else { panic!("{error}") };
    assert!(needed == all && available < needed);
    assert!(names(&folder).is_empty());
}

#[test]
fn a_tensor_may_change_its_type_but_not_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.gguf");
    let planned = |tensor_type, columns| {
        let specs = ["a", "b"].map(|name| TensorSpec::new(name, [columns, 2], tensor_type));
        let specs =
            vec![specs[0].clone(), TensorSpec { tensor_type: TensorType::F16, ..specs[1].clone() }];
        ModelLayout::plan(&metadata(), specs, Endian::Little, Split::Tensors(1)).unwrap()
    };
    let layout = planned(TensorType::F16, 32);
    let mut writer = ModelWriter::create(&target, layout, Overwrite::Forbid).unwrap();
    for index in 0..2 {
        writer.write_at(index, 0, &[1; 128]).unwrap();
    }
    let error = writer.replace_layout(planned(TensorType::F32, 32)).unwrap_err();
    assert!(matches!(error, Error::OtherLayout { .. }), "{error}");
    let in_one = plan(Endian::Little, Split::Never);
    let error = writer.replace_layout(in_one).unwrap_err();
    assert!(matches!(error, Error::OtherLayout { .. }), "{error}");
    writer.replace_layout(planned(TensorType::BF16, 32)).unwrap();
    // The other tensor is complete still.
    writer.write_at(0, 0, &[2; 128]).unwrap();
    writer.seal().unwrap().publish().unwrap();
    let model = Model::open(&part(&folder, 1, 2)).unwrap();
    assert_eq!(model.tensors()[0].tensor_type, TensorType::BF16);
    assert_eq!(model.data(&model.tensors()[0]), [2; 128]);
    assert_eq!(model.data(&model.tensors()[1])[..], [1; 128]);
}
