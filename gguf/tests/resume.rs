//! Writing a model in several runs: what an interrupted one leaves, and what the next makes of it.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    fs,
    path::{Path, PathBuf},
};

use llq_gguf::{
    Earlier, Endian, Error, Fingerprint, Metadata, ModelLayout, ModelWriter, Overwrite, Split,
    TensorSpec, TensorType,
};
use tempfile::TempDir;

const TENSORS: usize = 6;
const BYTES: u64 = 4096;
const MINE: Fingerprint = Fingerprint([7; 32]);

/// Six tensors of 4 KiB, in one file or three.
fn plan(split: Split) -> ModelLayout {
    let metadata = Metadata::from_iter([("general.architecture", "llama")]);
    let spec = |i: usize| TensorSpec::new(format!("blk.{i}.t"), [256, 4], TensorType::F32);
    let specs = (0..TENSORS).map(spec).collect();
    ModelLayout::plan(&metadata, specs, Endian::Little, split).unwrap()
}

fn target(folder: &TempDir) -> PathBuf {
    folder.path().join("model.gguf")
}

fn unfinished(folder: &TempDir) -> PathBuf {
    folder.path().join(".llq-model.gguf.resume")
}

fn resume(folder: &TempDir, split: Split) -> Result<(ModelWriter, Earlier), Error> {
    ModelWriter::resume(&target(folder), plan(split), Overwrite::Forbid, MINE)
}

/// The second half of a tensor has other bytes than the first.
fn write_half(writer: &ModelWriter, index: usize, half: u64) {
    let bytes = vec![(2 * index as u64 + half) as u8 + 1; BYTES as usize / 2];
    writer.write_at(index, half * BYTES / 2, &bytes).unwrap();
    writer.keep(index, half * BYTES / 2..(half + 1) * BYTES / 2).unwrap();
}

/// Writes what is not there already; returns how many halves were.
fn finish(writer: ModelWriter) -> usize {
    let mut adopted = 0;
    for (index, half) in (0..TENSORS).flat_map(|index| [(index, 0), (index, 1)]) {
        match writer.adopt(index, half * BYTES / 2..(half + 1) * BYTES / 2).unwrap() {
            true => adopted += 1,
            false => write_half(&writer, index, half),
        }
    }
    writer.seal().unwrap().publish().unwrap();
    adopted
}

/// Leaves the first five halves and the last.
fn interrupt(folder: &TempDir, split: Split) {
    let (writer, earlier) = resume(folder, split).unwrap();
    assert_eq!(earlier, Earlier::default());
    for half in [0, 1, 2, 3, 4, 11] {
        write_half(&writer, half / 2, half as u64 % 2);
    }
}

/// Names and bytes of all files.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap_or_default())
        })
        .collect();
    files.sort();
    files
}

fn uninterrupted(split: Split) -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let writer = ModelWriter::create(&target(&folder), plan(split), Overwrite::Forbid).unwrap();
    assert_eq!(finish(writer), 0);
    files(folder.path())
}

#[test]
fn the_next_run_goes_on() {
    for split in [Split::Never, Split::Tensors(2)] {
        let folder = tempfile::tempdir().unwrap();
        interrupt(&folder, split);
        assert!(unfinished(&folder).join("journal").exists());
        let (writer, earlier) = resume(&folder, split).unwrap();
        assert_eq!(earlier, Earlier { bytes: 6 * BYTES / 2, damage: None });
        assert_eq!(finish(writer), 6);
        assert!(files(folder.path()) == uninterrupted(split), "{split:?}");
    }
}

#[test]
fn ranges_that_were_written_in_part_are_not_adopted() {
    let folder = tempfile::tempdir().unwrap();
    interrupt(&folder, Split::Never);
    let (writer, _) = resume(&folder, Split::Never).unwrap();
    assert!(!writer.adopt(2, 0..BYTES).unwrap());
    // And can be written as a whole.
    writer.write_at(2, 0, &vec![1; BYTES as usize]).unwrap();
    writer.keep(2, 0..BYTES).unwrap();
    drop(writer);
    let (_, earlier) = resume(&folder, Split::Never).unwrap();
    assert_eq!(earlier.bytes, 7 * BYTES / 2);
}

#[test]
fn a_run_with_another_fingerprint_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    interrupt(&folder, Split::Never);
    let before = files(&unfinished(&folder));
    let (other, path) = (Fingerprint([8; 32]), target(&folder));
    // The other run may have another layout too.
    for split in [Split::Never, Split::Tensors(2)] {
        let error = ModelWriter::resume(&path, plan(split), Overwrite::Forbid, other).unwrap_err();
        assert!(matches!(error, Error::OtherRun { .. }), "{error}");
    }
    assert!(files(&unfinished(&folder)) == before);
}

/// A journal that was cut or changed anywhere is not believed.
#[test]
fn a_damaged_journal_means_beginning_anew() {
    let folder = tempfile::tempdir().unwrap();
    interrupt(&folder, Split::Never);
    let left = files(&unfinished(&folder));
    let journal = fs::read(unfinished(&folder).join("journal")).unwrap();
    let cuts = (0..journal.len()).step_by(5).map(|end| journal[..end].to_vec());
    let changes = (0..journal.len()).step_by(3).map(|at| {
        let mut journal = journal.clone();
        journal[at] ^= 1;
        journal
    });
    let foreign = [b"\xff".to_vec(), b"\n\n".to_vec(), b"another program's\n".to_vec()];
    for damaged in cuts.chain(changes).chain(foreign) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(unfinished(&folder)).unwrap();
        for (name, bytes) in &left {
            fs::write(unfinished(&folder).join(name), bytes).unwrap();
        }
        fs::write(unfinished(&folder).join("journal"), &damaged).unwrap();
        let (writer, earlier) = resume(&folder, Split::Never).unwrap();
        assert_eq!(earlier.bytes, 0, "{}", String::from_utf8_lossy(&damaged));
        assert!(earlier.damage.unwrap().contains("journal"));
        drop(writer);
    }
}

/// What lies between tensors is zero, whatever was in the file before.
#[test]
fn without_a_journal_nothing_of_a_file_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    interrupt(&folder, Split::Never);
    let bytes = vec![0xff; plan(Split::Never).file_bytes() as usize];
    fs::write(unfinished(&folder).join("part-1"), bytes).unwrap();
    fs::remove_file(unfinished(&folder).join("journal")).unwrap();
    let (writer, earlier) = resume(&folder, Split::Never).unwrap();
    assert_eq!(earlier, Earlier::default());
    assert_eq!(finish(writer), 0);
    assert!(files(folder.path()) == uninterrupted(Split::Never));
}

/// Also where the run that notices it is killed before it has written anything.
#[test]
fn a_part_of_another_size_means_beginning_anew() {
    let split = Split::Tensors(2);
    for size in [None, Some(0), Some(100), Some(1 << 20)] {
        let folder = tempfile::tempdir().unwrap();
        interrupt(&folder, split);
        let part = unfinished(&folder).join("part-1");
        match size {
            None => fs::remove_file(&part).unwrap(),
            Some(size) => {
                fs::OpenOptions::new().write(true).open(&part).unwrap().set_len(size).unwrap();
            }
        }
        let (writer, earlier) = resume(&folder, split).unwrap();
        assert_eq!(earlier.bytes, 0);
        assert!(earlier.damage.unwrap().contains("part 1"));
        let killed = tempfile::tempdir().unwrap();
        fs::create_dir(unfinished(&killed)).unwrap();
        for (name, bytes) in files(&unfinished(&folder)) {
            fs::write(unfinished(&killed).join(name), bytes).unwrap();
        }
        assert_eq!(finish(writer), 0);
        assert!(files(folder.path()) == uninterrupted(split), "{size:?}");
        assert_eq!(finish(resume(&killed, split).unwrap().0), 0);
    }
}

#[test]
fn tensors_that_get_another_type_are_forgotten() {
    let retyped = |tensor_type| {
        let metadata = Metadata::from_iter([("general.architecture", "llama")]);
        let specs = ["a", "b"].map(|name| TensorSpec::new(name, [256], tensor_type));
        ModelLayout::plan(&metadata, specs.into(), Endian::Little, Split::Never).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let resume = |tensor_type| {
        let layout = retyped(tensor_type);
        ModelWriter::resume(&target(&folder), layout, Overwrite::Forbid, MINE).unwrap()
    };
    let (mut writer, _) = resume(TensorType::F16);
    writer.write_at(0, 0, &[1; 512]).unwrap();
    writer.keep(0, 0..512).unwrap();
    writer.replace_layout(retyped(TensorType::BF16)).unwrap();
    drop(writer);
    assert_eq!(resume(TensorType::F16).1.bytes, 0);
}

#[test]
fn one_run_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, _) = resume(&folder, Split::Never).unwrap();
    let error = resume(&folder, Split::Never).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    // A run that does not resume leaves the other's files alone.
    let layout = plan(Split::Never);
    drop(ModelWriter::create(&target(&folder), layout, Overwrite::Forbid).unwrap());
    assert_eq!(finish(writer), 0);
    assert!(files(folder.path()) == uninterrupted(Split::Never));
}

#[test]
fn what_nobody_can_go_on_with_does_not_stay() {
    let folder = tempfile::tempdir().unwrap();
    drop(resume(&folder, Split::Never).unwrap());
    assert!(!unfinished(&folder).exists());
    interrupt(&folder, Split::Never);
    assert_eq!(llq_gguf::unfinished(&target(&folder)), Some(unfinished(&folder)));
    resume(&folder, Split::Never).unwrap().0.discard();
    assert!(!unfinished(&folder).exists());
}

/// A folder of this name may come from anybody.
#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), unfinished(&folder)).unwrap();
    assert!(matches!(resume(&folder, Split::Never).unwrap_err(), Error::Io { .. }));
    fs::remove_file(unfinished(&folder)).unwrap();

    fs::create_dir(unfinished(&folder)).unwrap();
    let other = elsewhere.path().join("other");
    fs::write(&other, "whole").unwrap();
    for name in ["journal", "journal.new", "part-1"] {
        std::os::unix::fs::symlink(&other, unfinished(&folder).join(name)).unwrap();
    }
    finish(resume(&folder, Split::Never).unwrap().0);
    assert_eq!(fs::read(other).unwrap(), b"whole");
}

#[test]
fn a_run_that_does_not_resume_removes_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    interrupt(&folder, Split::Never);
    let layout = plan(Split::Never);
    let writer = ModelWriter::create(&target(&folder), layout, Overwrite::Forbid).unwrap();
    assert!(!unfinished(&folder).exists());
    finish(writer);
    assert!(files(folder.path()) == uninterrupted(Split::Never));
}

/// A run may be killed before it has kept anything, and between giving a file its name and removing
/// the folder; what another target still has to be resumed from stays.
#[test]
fn folders_of_no_use_are_removed_by_any_run_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    interrupt(&folder, Split::Never);
    for name in ["empty", "locked", "done", "begun"] {
        fs::create_dir(folder.path().join(format!(".llq-{name}.resume"))).unwrap();
    }
    fs::write(folder.path().join(".llq-locked.resume/lock"), "").unwrap();
    fs::write(folder.path().join(".llq-done.resume/lock"), "").unwrap();
    fs::write(folder.path().join(".llq-done.resume/journal"), "").unwrap();
    fs::write(folder.path().join(".llq-begun.resume/lock"), "").unwrap();
    fs::write(folder.path().join(".llq-begun.resume/part-1"), "half").unwrap();
    let other = folder.path().join("other.gguf");
    finish(ModelWriter::create(&other, plan(Split::Never), Overwrite::Forbid).unwrap());
    let names: Vec<String> = files(folder.path()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [".llq-model.gguf.resume", "other.gguf"]);
}
