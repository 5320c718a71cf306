//! Importance matrices: both forms of the field's files, and what is refused.

use std::{fs, path::Path};

use llq_convert::{Entry, Error, Imatrix, ImatrixError, ImatrixFormat, Overwrite};
use llq_fixtures::shared;
use llq_gguf::{Metadata, TensorSpec, TensorType, to_bytes};

use crate::support::{assert_says, listing};

fn small() -> Imatrix {
    let mut imatrix = Imatrix::new(vec!["text.txt".to_owned()], 2, 512);
    let dense = Entry::new("blk.0.attn_q.weight", vec![1024.0, 0.0, 3.5, 7.0], vec![1024.0]);
    imatrix.add("blk.0.attn_q.weight", dense.unwrap()).unwrap();
    let experts = Entry::new("x", vec![1.0, 2.0, 0.0, 0.0], vec![512.0, 0.0]).unwrap();
    imatrix.add("blk.0.ffn_up_exps.weight", experts).unwrap();
    imatrix
}

fn written(imatrix: &Imatrix, format: ImatrixFormat) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("importance");
    imatrix.write(&path, format, Overwrite::Forbid).unwrap();
    (folder, path)
}

#[test]
fn the_golden_file_is_written_as_it_was_read() {
    let Some(path) = shared("golden/imatrix.gguf") else { return };
    let (imatrix, note) = Imatrix::read(&path).unwrap();
    assert_eq!((imatrix.chunks, imatrix.chunk_tokens, note), (128, 512, None));
    let (_folder, copy) = written(&imatrix, ImatrixFormat::Gguf);
    assert!(fs::read(copy).unwrap() == fs::read(path).unwrap());
}

#[test]
fn gguf_keeps_everything() {
    let imatrix = small();
    let (_folder, path) = written(&imatrix, ImatrixFormat::Gguf);
    let (read, _) = Imatrix::read(&path).unwrap();
    assert_eq!(read.name(), "importance");
    assert!(read.entries().eq(imatrix.entries()));
    assert_eq!((&read.datasets, read.chunks), (&imatrix.datasets, 2));
    let error = imatrix.write(&path, ImatrixFormat::Gguf, Overwrite::Forbid).unwrap_err();
    assert_says(&error, &["importance", "exists"]);
}

#[test]
fn the_older_form_keeps_means() {
    let imatrix = small();
    let (_folder, path) = written(&imatrix, ImatrixFormat::Dat);
    let (read, note) = Imatrix::read(&path).unwrap();
    assert!(note.unwrap().0.contains("512 tokens"));
    assert_eq!((&read.datasets, read.chunks), (&imatrix.datasets, 2));
    for (name, entry) in imatrix.entries() {
        // An expert that saw nothing has ones.
        assert_eq!(read.entry(name).unwrap().mean_squares(), entry.mean_squares(), "{name}");
    }
    // The form, byte by byte: two entries, of which the first has 2 calls and 4 values.
    let bytes = fs::read(path).unwrap();
    assert_eq!(bytes[..8], [2, 0, 0, 0, 19, 0, 0, 0]);
    assert_eq!(&bytes[8..27], b"blk.0.attn_q.weight");
    assert_eq!(bytes[27..39], [2, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 64]);
    assert!(bytes.ends_with(b"\x02\0\0\0\x08\0\0\0text.txt"));
}

#[test]
fn merging_adds_up() {
    let (mut all, other) = (small(), {
        let mut other = Imatrix::new(vec!["code.txt".to_owned()], 3, 1024);
        let entry = Entry::new("q", vec![1.0, 2.0, 3.0, 4.0], vec![3072.0]).unwrap();
        other.add("blk.0.attn_q.weight", entry.clone()).unwrap();
        other.add("blk.1.attn_q.weight", entry).unwrap();
        other
    });
    all.merge(&other).unwrap();
    let merged = Entry::new("q", vec![1025.0, 2.0, 6.5, 11.0], vec![4096.0]).unwrap();
    assert_eq!(all.entry("blk.0.attn_q.weight"), Some(&merged));
    assert_eq!(all.entry("blk.1.attn_q.weight"), other.entry("blk.1.attn_q.weight"));
    assert_eq!(all.entries().len(), 3);
    assert_eq!(
        (all.chunks, &all.datasets[..]),
        (2 + 6, &["text.txt".into(), "code.txt".into()][..])
    );

    let mut narrow = Imatrix::new(Vec::new(), 1, 512);
    narrow.add("blk.0.attn_q.weight", Entry::new("q", vec![1.0], vec![1.0]).unwrap()).unwrap();
    let error = all.merge(&narrow).unwrap_err();
    assert!(error.to_string().contains("blk.0.attn_q.weight"), "{error}");
}

#[test]
fn statistics_tell_even_from_uneven() {
    let even = Entry::new("q", vec![2.0; 200], vec![2.0]).unwrap().statistics();
    assert_eq!((even.sum, even.max_over_mean, even.top_share), (200.0, 1.0, 0.01));
    assert!((even.evenness - 1.0).abs() < 1e-12);
    let mut one = vec![0.0; 200];
    one[7] = 5.0;
    let one = Entry::new("q", one, vec![1.0]).unwrap().statistics();
    assert_eq!((one.max_over_mean, one.evenness, one.top_share), (200.0, 0.0, 1.0));
}

#[test]
fn numbers_that_are_no_sums_are_refused_by_name() {
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let error = Entry::new("blk.7.ffn_up.weight", vec![1.0, bad], vec![1.0]).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("blk.7.ffn_up.weight") && said.contains("column 1"), "{said}");
        let error = Entry::new("t", vec![1.0, 1.0], vec![1.0, bad]).unwrap_err();
        assert!(error.to_string().contains("count of matrix 1"), "{error}");
    }
    for (sums, counts) in [(0, 1), (1, 0), (3, 2), (1, 2)] {
        let error = Entry::new("t", vec![1.0; sums], vec![1.0; counts]).unwrap_err();
        assert!(matches!(error, ImatrixError::Counts { .. }), "{error}");
    }
}

/// What reading these bytes fails with.
fn refusal(bytes: &[u8]) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.dat");
    fs::write(&path, bytes).unwrap();
    let error = Imatrix::read(&path).unwrap_err();
    assert_eq!(listing(folder.path()), ["hostile.dat"]);
    error
}

#[test]
fn hostile_files_of_the_older_form_are_refused() {
    let (_folder, path) = written(&small(), ImatrixFormat::Dat);
    let good = fs::read(path).unwrap();
    // Nothing shorter is a file, but for one that ends after its entries.
    let without_trailer = good.len() - 16;
    for end in (0..good.len()).filter(|&end| end != without_trailer) {
        refusal(&good[..end]);
    }
    let with = |at: usize, number: i32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        refusal(&bytes)
    };
    assert_says(&with(0, i32::MAX), &["hostile.dat"]);
    assert_says(&with(0, -1), &["number of entries is -1"]);
    assert_says(&with(4, i32::MAX), &["name", "2147483647 bytes"]);
    assert_says(&with(27, -2), &["number of calls is -2"]);
    assert_says(&with(31, i32::MAX), &["8589934588 bytes", "to the end of the file"]);
    assert_says(&with(31, 0), &["values", "expected at least 1"]);
    assert_says(&with(35, f32::NAN.to_bits() as i32), &["blk.0.attn_q.weight", "NaN"]);
    assert_says(&refusal(&[&good[..], b"x"].concat()), &["1 bytes"]);
    let twice = [&2i32.to_le_bytes()[..], &good[4..51], &good[4..51]].concat();
    assert_says(&refusal(&twice), &["blk.0.attn_q.weight", "twice"]);
}

#[test]
fn gguf_of_other_kinds_is_refused() {
    type Tensor = (&'static str, u64, TensorType);
    let file = |kind: &str, tensors: &[Tensor]| {
        let mut metadata = Metadata::from_iter([("general.type", kind)]);
        metadata.set("imatrix.datasets", vec!["text"]);
        metadata.set("imatrix.chunk_count", 1u32);
        metadata.set("imatrix.chunk_size", 512u32);
        let tensors = tensors.iter().map(|&(name, columns, tensor_type)| {
            let bytes = vec![0; tensor_type.row_bytes(columns).unwrap() as usize];
            (TensorSpec::new(name, [columns], tensor_type), bytes)
        });
        to_bytes(&metadata, tensors).unwrap()
    };
    let sums = ("a.in_sum2", 4, TensorType::F32);
    let counts = ("a.counts", 1, TensorType::F32);
    assert_says(&refusal(&file("model", &[sums, counts])), &["\"model\"", "imatrix"]);
    assert_says(&refusal(&file("imatrix", &[sums])), &["a.in_sum2", "a.counts"]);
    assert_says(&refusal(&file("imatrix", &[counts])), &["a.counts", "a.in_sum2"]);
    let half = ("a.in_sum2", 4, TensorType::F16);
    assert_says(&refusal(&file("imatrix", &[half, counts])), &["a.in_sum2", "F16"]);
    let many = ("a.counts", 3, TensorType::F32);
    assert_says(&refusal(&file("imatrix", &[sums, many])), &["4 sums and 3 counts"]);
    let no_keys = to_bytes(
        &Metadata::from_iter([("general.type", "imatrix")]),
        Vec::<(TensorSpec, Vec<u8>)>::new(),
    );
    assert_says(&refusal(&no_keys.unwrap()), &["imatrix.datasets"]);
    assert!(Imatrix::read(Path::new("/dev/null")).is_err());
}
