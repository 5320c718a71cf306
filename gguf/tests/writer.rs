//! Writing: what a layout refuses, and that a file is complete or not there.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use llq_gguf::{
    Error, FileWriter, Layout, Metadata, Model, Overwrite, StreamWriter, TensorSpec, TensorType,
    to_bytes,
};
use tempfile::TempDir;

fn spec(name: &str, cols: u64, rows: u64, tensor_type: TensorType) -> TensorSpec {
    TensorSpec::new(name, [cols, rows], tensor_type)
}

fn plan_error(spec: TensorSpec) -> String {
    Layout::plan(&Metadata::new(), vec![spec]).unwrap_err().to_string()
}

fn two_tensors() -> Layout {
    let metadata = Metadata::from_iter([("general.architecture", "llama")]);
    let specs = vec![spec("a", 3, 5, TensorType::F32), spec("b", 32, 40, TensorType::Q8_0)];
    Layout::plan(&metadata, specs).unwrap()
}

/// A byte that tells its place.
fn byte(index: usize, offset: u64) -> u8 {
    (index as u64 * 101 + offset * 7 + (offset >> 8)) as u8
}

fn tensor_data(layout: &Layout, index: usize) -> Vec<u8> {
    (0..layout.tensors()[index].bytes).map(|offset| byte(index, offset)).collect()
}

fn streamed(layout: &Layout) -> Vec<u8> {
    let mut writer = StreamWriter::new(layout.clone(), Vec::new()).unwrap();
    for index in 0..layout.tensors().len() {
        writer.write(&tensor_data(layout, index)).unwrap();
    }
    writer.finish().unwrap()
}

fn write_all(writer: &FileWriter) {
    for index in 0..writer.layout().tensors().len() {
        writer.write_at(index, 0, &tensor_data(writer.layout(), index)).unwrap();
    }
}

fn entries(folder: &TempDir) -> Vec<PathBuf> {
    fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_layout_refuses_bad_tensors() {
    let f32 = TensorType::F32;
    assert!(Layout::plan(&Metadata::new(), vec![spec(&"n".repeat(63), 1, 1, f32)]).is_ok());
    assert!(plan_error(spec(&"n".repeat(64), 1, 1, f32)).contains("found 64 bytes"));
    assert!(plan_error(spec("", 1, 1, f32)).contains("an empty name"));
    assert!(plan_error(spec("a\0", 1, 1, f32)).contains("a nul"));
    assert!(plan_error(spec("a", 0, 1, f32)).contains("extents of at least 1"));
    assert!(plan_error(spec("a", 1 << 40, 1 << 40, f32)).contains("weights and bytes"));
    assert!(plan_error(spec("a", 31, 1, TensorType::Q4_0)).contains("whole Q4_0 blocks of 32"));
    assert!(plan_error(TensorSpec::new("a", [], f32)).contains("1 to 4 dimensions, found 0"));
    assert!(plan_error(TensorSpec::new("a", [1; 5], f32)).contains("1 to 4 dimensions, found 5"));
    let twice = vec![spec("a", 1, 1, f32), spec("b", 1, 1, f32), spec("a", 2, 1, f32)];
    let message = Layout::plan(&Metadata::new(), twice).unwrap_err().to_string();
    assert_eq!(message, "tensor \"a\": expected each name once, found it twice");
}

#[test]
fn the_layout_refuses_what_overflows_together() {
    let large = |name| TensorSpec::new(name, [i64::MAX as u64 - 7], TensorType::I8);
    assert!(Layout::plan(&Metadata::new(), vec![large("a")]).is_ok());
    let specs = vec![large("a"), large("b"), large("c")];
    let message = Layout::plan(&Metadata::new(), specs).unwrap_err().to_string();
    assert!(message.contains("a file of at most"), "{message}");
}

#[test]
fn the_layout_refuses_bad_metadata() {
    let message = |metadata: Metadata| Layout::plan(&metadata, vec![]).unwrap_err().to_string();
    assert!(message(Metadata::from_iter([("", 1u32)])).contains("an empty key"));
    assert!(message(Metadata::from_iter([("k".repeat(70_000), 1u32)])).contains("70000 bytes"));
    assert!(message(Metadata::from_iter([("general.alignment", 12u32)])).contains("found 12"));
    assert!(message(Metadata::from_iter([("general.alignment", 64u64)])).contains("found u64"));
}

#[test]
fn a_stream_may_come_in_any_pieces() {
    let layout = two_tensors();
    let whole: Vec<u8> = (0..2).flat_map(|index| tensor_data(&layout, index)).collect();
    let expected = streamed(&layout);
    assert_eq!(expected.len() as u64, layout.file_bytes());
    for piece in [1, 7, 60, 61, whole.len()] {
        let mut writer = StreamWriter::new(layout.clone(), Vec::new()).unwrap();
        for bytes in whole.chunks(piece) {
            writer.write(bytes).unwrap();
        }
        assert!(writer.finish().unwrap() == expected, "pieces of {piece}");
    }
}

#[test]
fn a_stream_must_bring_all_bytes_and_no_more() {
    let layout = two_tensors();
    let mut short = StreamWriter::new(layout.clone(), Vec::new()).unwrap();
    short.write(&[0; 59]).unwrap();
    let error = short.finish().unwrap_err();
    assert_eq!(error.to_string(), "tensor \"a\": expected 60 bytes, 59 were written");

    let mut long = StreamWriter::new(layout.clone(), Vec::new()).unwrap();
    let bytes: u64 = layout.tensors().iter().map(|t| t.bytes).sum();
    let error = long.write(&vec![0; bytes as usize + 1]).unwrap_err();
    assert_eq!(error.to_string(), "tensor \"b\": bytes 1360..1361 written behind the last tensor");
}

#[test]
fn to_bytes_counts_each_tensors_bytes() {
    let tensors = [(spec("a", 1, 1, TensorType::F32), vec![0; 5])];
    let message = to_bytes(&Metadata::new(), tensors).unwrap_err().to_string();
    assert_eq!(message, "tensor \"a\": expected 4 bytes of data, found 5");
}

#[test]
fn a_full_sink_is_an_error() {
    let layout = two_tensors();
    let mut small = [0; 100];
    let error = StreamWriter::new(layout, small.as_mut_slice()).unwrap_err();
    assert!(matches!(error, Error::Stream { .. }), "{error}");
}

#[test]
fn threads_write_the_same_file_as_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.gguf");
    let specs = (0..5).map(|i| spec(&format!("t{i}"), 32, 1000 + i, TensorType::Q8_0)).collect();
    let layout = Layout::plan(&Metadata::new(), specs).unwrap();
    let writer = FileWriter::create(&target, layout.clone(), Overwrite::Forbid).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let (writer, layout) = (&writer, &layout);
            scope.spawn(move || {
                for index in 0..layout.tensors().len() {
                    let data = tensor_data(layout, index);
                    for (number, piece) in data.chunks(1009).enumerate() {
                        if number % 4 == (thread + index) % 4 {
                            writer.write_at(index, number as u64 * 1009, piece).unwrap();
                        }
                    }
                }
            });
        }
    });
    assert!(!target.exists());
    writer.finish().unwrap();
    assert!(fs::read(&target).unwrap() == streamed(&layout));
    assert_eq!(entries(&folder), std::slice::from_ref(&target));
    let model = Model::open(&target).unwrap();
    assert_eq!(model.data(&model.tensors()[4]), tensor_data(&layout, 4));
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.gguf");
    let writer = FileWriter::create(&target, two_tensors(), Overwrite::Forbid).unwrap();
    assert_eq!(entries(&folder).len(), 1);
    drop(writer);
    assert!(entries(&folder).is_empty());
}

#[test]
fn an_incomplete_file_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.gguf");
    let writer = FileWriter::create(&target, two_tensors(), Overwrite::Forbid).unwrap();
    writer.write_at(0, 0, &tensor_data(writer.layout(), 0)).unwrap();
    writer.write_at(1, 10, &[0; 100]).unwrap();
    let message = writer.finish().unwrap_err().to_string();
    assert_eq!(message, "tensor \"b\": expected 1360 bytes, 100 were written");
    assert!(entries(&folder).is_empty());
}

#[test]
fn bytes_outside_a_tensor_or_twice_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.gguf");
    let writer = FileWriter::create(&target, two_tensors(), Overwrite::Forbid).unwrap();
    for (offset, count) in [(60, 1), (0, 61), (u64::MAX, 1), (59, 2)] {
        let error = writer.write_at(0, offset, &vec![0; count]).unwrap_err();
        assert!(matches!(error, Error::Misplaced { .. }), "{error}");
    }
    writer.write_at(0, 0, &[0; 40]).unwrap();
    let message = writer.write_at(0, 39, &[0; 21]).unwrap_err().to_string();
    assert_eq!(message, "tensor \"a\": bytes 39..60 written twice");
}

#[test]
fn an_existing_target_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.gguf");
    fs::write(&target, "precious").unwrap();
    let error = FileWriter::create(&target, two_tensors(), Overwrite::Forbid).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(entries(&folder), [target]);
}

#[test]
fn a_target_that_came_meanwhile_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.gguf");
    let writer = FileWriter::create(&target, two_tensors(), Overwrite::Forbid).unwrap();
    write_all(&writer);
    fs::write(&target, "precious").unwrap();
    let error = writer.finish().unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert_eq!(entries(&folder), [target]);
}

#[test]
fn a_target_is_replaced_only_by_a_complete_file() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.gguf");
    fs::write(&target, "old").unwrap();
    let create = || FileWriter::create(&target, two_tensors(), Overwrite::Replace).unwrap();
    assert!(create().finish().is_err());
    assert_eq!(fs::read(&target).unwrap(), b"old");
    let writer = create();
    write_all(&writer);
    assert_eq!(fs::read(&target).unwrap(), b"old");
    writer.finish().unwrap();
    assert!(fs::read(&target).unwrap() == streamed(&two_tensors()));
}

#[test]
fn a_folder_is_no_target() {
    let folder = tempfile::tempdir().unwrap();
    for target in [folder.path(), Path::new("/"), Path::new("..")] {
        let error = FileWriter::create(target, two_tensors(), Overwrite::Replace).unwrap_err();
        assert!(matches!(error, Error::NotAFile { .. }), "{error}");
        assert!(matches!(Model::open(target).unwrap_err(), Error::NotAFile { .. }));
    }
    let nowhere = folder.path().join("absent/model.gguf");
    let error = FileWriter::create(&nowhere, two_tensors(), Overwrite::Forbid).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == nowhere), "{error}");
}

#[cfg(target_os = "linux")] // elsewhere no room is reserved, and a sparse file may be that long
#[test]
fn a_file_too_large_for_the_disk_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.gguf");
    let huge = TensorSpec::new("a", [1 << 60], TensorType::I8);
    let layout = Layout::plan(&Metadata::new(), vec![huge]).unwrap();
    let needed = layout.file_bytes();
    let error = FileWriter::create(&target, layout, Overwrite::Forbid).unwrap_err();
    assert!(error.to_string().contains(&format!("no room for its {needed} bytes")), "{error}");
    assert!(entries(&folder).is_empty());
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_link_is_refused_or_replaced_but_never_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [linked, target] = ["linked", "model.gguf"].map(|name| folder.path().join(name));
        fs::write(&linked, "precious").unwrap();
        symlink(&linked, &target).unwrap();
        let error = FileWriter::create(&target, two_tensors(), Overwrite::Forbid).unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
        let writer = FileWriter::create(&target, two_tensors(), Overwrite::Replace).unwrap();
        write_all(&writer);
        writer.finish().unwrap();
        assert_eq!(fs::read(&linked).unwrap(), b"precious");
        assert!(target.symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn a_dangling_link_counts_as_existing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model.gguf");
        symlink("nowhere", &target).unwrap();
        let error = FileWriter::create(&target, two_tensors(), Overwrite::Forbid).unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
    }

    #[test]
    fn devices_are_refused() {
        let device = Path::new("/dev/null");
        let error = FileWriter::create(device, two_tensors(), Overwrite::Replace).unwrap_err();
        assert!(matches!(error, Error::NotAFile { .. }), "{error}");
        assert!(matches!(Model::open(device).unwrap_err(), Error::NotAFile { .. }));
    }

    #[test]
    fn a_model_is_readable_as_any_new_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let [plain, target] = ["plain", "model.gguf"].map(|name| folder.path().join(name));
        fs::write(&plain, "").unwrap();
        let writer = FileWriter::create(&target, two_tensors(), Overwrite::Forbid).unwrap();
        write_all(&writer);
        writer.finish().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        assert_eq!(mode(&target), mode(&plain));
    }
}
