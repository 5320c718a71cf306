//! Meta's lists of MD5 sums.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use llq_convert::{Error, Note, Progress, Silent, has_checksums, verify_checksums};
use llq_fixtures::fixture;

use crate::support::assert_says;

/// Keeps what it was told.
#[derive(Default)]
struct Counting {
    total: AtomicU64,
    done: AtomicU64,
}

impl Progress for Counting {
    fn begin(&self, total_bytes: u64) {
        self.total.store(total_bytes, Ordering::Relaxed);
    }
    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A model folder below another, with two small files and their list.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("7B");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("consolidated.00.pth"), "abc").unwrap();
    fs::write(folder.join("consolidated.01.pth"), "").unwrap();
    // The sums of RFC 1321.
    let list = "900150983cd24fb0d6963f7d28e17f72  consolidated.00.pth\n\
                D41D8CD98F00B204E9800998ECF8427E *consolidated.01.pth\r\n\n";
    fs::write(folder.join("checklist.chk"), list).unwrap();
    (above, folder)
}

fn verify(folder: &Path) -> Result<Vec<Note>, Error> {
    verify_checksums(folder, &Silent)
}

#[test]
fn sums_of_real_files_agree_and_progress_is_told() {
    let progress = Counting::default();
    let notes = verify_checksums(&fixture("tiny-llama-2/meta"), &progress).unwrap();
    let names: Vec<&str> = notes.iter().map(|note| note.0.as_str()).collect();
    assert_eq!(names, ["tokenizer.model is in no list of MD5 sums: it was not verified"]);
    let (total, done) = (progress.total.into_inner(), progress.done.into_inner());
    assert!(total > 13_000_000, "{total}");
    assert_eq!(done, total);
}

#[test]
fn swapped_shards_are_found() {
    let (_above, folder) = folder();
    assert_eq!(verify(&folder).unwrap(), []);
    fs::write(folder.join("consolidated.00.pth"), "").unwrap();
    fs::write(folder.join("consolidated.01.pth"), "abc").unwrap();
    let error = verify(&folder).unwrap_err();
    let Error::Checksum { path, .. } = &error else { panic!("{error}") };
    assert!(path.ends_with("consolidated.00.pth"));
    assert_says(
        &error,
        &[
            "is d41d8cd98f00b204e9800998ecf8427e",
            "expected 900150983cd24fb0d6963f7d28e17f72",
            "checklist.chk",
        ],
    );
}

#[test]
fn absent_and_unlisted_files_are_named() {
    let (_above, folder) = folder();
    fs::write(folder.join("consolidated.02.pth"), "").unwrap();
    let notes = verify(&folder).unwrap();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].0.starts_with("consolidated.02.pth is in no list"), "{}", notes[0]);
    fs::remove_file(folder.join("consolidated.01.pth")).unwrap();
    let error = verify(&folder).unwrap_err();
    assert!(matches!(error, Error::MissingFile { .. }), "{error}");
    assert_says(&error, &["no consolidated.01.pth, which checklist.chk lists"]);
}

#[test]
fn the_tokenizer_has_a_list_of_its_own() {
    let (above, folder) = folder();
    fs::write(above.path().join("tokenizer.model"), "abc").unwrap();
    let list = above.path().join("tokenizer_checklist.chk");
    fs::write(&list, "900150983cd24fb0d6963f7d28e17f72  tokenizer.model\n").unwrap();
    assert_eq!(verify(&folder).unwrap(), []);
    fs::write(above.path().join("tokenizer.model"), "abd").unwrap();
    assert_says(&verify(&folder).unwrap_err(), &["tokenizer.model", "tokenizer_checklist.chk"]);
}

#[test]
fn lists_that_are_none_are_refused() {
    let (_above, folder) = folder();
    for line in ["x", "../../etc/passwd", "900150983cd24fb0d6963f7d28e17f72  ../x"] {
        fs::write(folder.join("checklist.chk"), format!("\n{line}\n")).unwrap();
        assert_says(&verify(&folder).unwrap_err(), &["checklist.chk: line 2 is not"]);
    }
    fs::write(folder.join("checklist.chk"), vec![b'\n'; 1 << 20]).unwrap();
    assert!(matches!(verify(&folder), Err(Error::Io { .. })));
    fs::remove_file(folder.join("checklist.chk")).unwrap();
    assert!(!has_checksums(&folder));
    assert_says(&verify(&folder).unwrap_err(), &["no checklist.chk, Meta's list"]);
}
