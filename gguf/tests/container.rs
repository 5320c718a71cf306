//! Models inside of archives, as llamafile packs them: read in place, and what is ambiguous refused.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{cell::Cell, convert::Infallible, fs};

use llq_gguf::{
    Error, Metadata, Model, TensorSpec, TensorType, to_bytes,
    zip::{Archive, ReadAt, ZipError},
};

/// An entry as `zipalign` writes it: sizes and places in 64 bits, data aligned to 4096.
struct Entry<'a> {
    name: &'a str,
    data: &'a [u8],
    method: u16,
}

fn stored<'a>(name: &'a str, data: &'a [u8]) -> Entry<'a> {
    Entry { name, data, method: 0 }
}

/// A program with an archive behind it.
fn llamafile(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut file = b"\x7fELF and so on".to_vec();
    let mut directory = Vec::new();
    for Entry { name, data, method } in entries {
        let header = 30 + name.len() + 20;
        file.resize((file.len() + header).next_multiple_of(4096) - header, 0);
        let start = file.len() as u64;
        let size = (data.len() as u64).to_le_bytes();
        let fields = |extra: u16| {
            let mut fields = [20u16, 1 << 11, *method, 0, 0].map(u16::to_le_bytes).concat();
            fields.extend([0; 4]);
            fields.extend([0xff; 8]);
            fields.extend((name.len() as u16).to_le_bytes());
            fields.extend(extra.to_le_bytes());
            fields
        };
        file.extend(b"PK\x03\x04");
        file.extend(fields(20));
        file.extend(name.bytes());
        file.extend([1, 0, 16, 0]);
        file.extend([size, size].concat());
        file.extend(*data);
        directory.extend(b"PK\x01\x02\x14\x03");
        directory.extend(fields(28));
        directory.extend([0; 10]);
        directory.extend([0xff; 4]);
        directory.extend(name.bytes());
        directory.extend([1, 0, 24, 0]);
        directory.extend([size, size, start.to_le_bytes()].concat());
    }
    let (start, count) = (file.len() as u64, entries.len() as u64);
    let bytes = directory.len() as u64;
    file.extend(directory);
    file.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x14\x03\x14\0");
    file.extend([0; 8]);
    file.extend([count, count, bytes, start].map(u64::to_le_bytes).concat());
    file.extend(b"PK\x06\x07\0\0\0\0");
    file.extend((start + bytes).to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count as u16, count as u16].map(u16::to_le_bytes).concat());
    file.extend((bytes as u32).to_le_bytes());
    file.extend([0xff; 4]);
    file.extend([0; 2]);
    file
}

fn model(architecture: &str) -> Vec<u8> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", architecture);
    let tensor = |name, fill| (TensorSpec::new(name, [8], TensorType::F32), [fill; 32]);
    to_bytes(&metadata, [tensor("a", 1), tensor("b", 2)]).unwrap()
}

#[track_caller]
fn refused(file: Vec<u8>) -> Error {
    Model::from_bytes(file).unwrap_err()
}

#[test]
fn the_model_is_read_in_place() {
    let inside = model("llama");
    let args = stored(".args", b"-m\nmodel.gguf\n");
    let deflated = Entry { name: "usr/share/zoneinfo/UTC", data: b"\x01\x02", method: 8 };
    let file = llamafile(&[deflated, stored("model.GGUF", &inside), args]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.llamafile");
    fs::write(&path, &file).unwrap();

    let model = Model::open(&path).unwrap();
    let plain = Model::from_bytes(inside.clone()).unwrap();
    assert_eq!(model.path(), path);
    assert_eq!(model.entry(), Some("model.GGUF"));
    assert_eq!(plain.entry(), None);
    assert_eq!(model.file_bytes(), inside.len() as u64);
    assert_eq!(model.tensors(), plain.tensors());
    assert_eq!(model.metadata(), plain.metadata());
    for tensor in plain.tensors() {
        assert_eq!(model.data(tensor), plain.data(tensor));
        // zipalign has kept the alignment of the tensors.
        let place = model.data(tensor).as_ptr() as usize;
        assert!(place.is_multiple_of(32), "{place:#x}");
    }

    let last = &model.tensors()[1];
    let mut some = [0; 5];
    model.read_at(last, 27, &mut some).unwrap();
    assert_eq!(some, [2; 5]);
    plain.read_at(last, 27, &mut some).unwrap();
    assert_eq!(some, [2; 5]);
    if !cfg!(unix) {
        return; // A mapped file cannot be shortened.
    }
    // A copy of what is gone is an error, not a signal.
    fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let error = model.read_at(last, 0, &mut some).unwrap_err();
    assert!(error.to_string().contains("model.llamafile"), "{error}");
}

#[test]
fn a_projector_beside_the_model_is_passed_over() {
    let (inside, projector) = (model("llama"), model("clip"));
    let file = llamafile(&[stored("mmproj.gguf", &projector), stored("m.gguf", &inside)]);
    assert_eq!(Model::from_bytes(file).unwrap().entry(), Some("m.gguf"));
}

#[test]
fn bytes_behind_the_archive_are_named() {
    let mut file = llamafile(&[stored("m.gguf", &model("llama"))]);
    file.extend(b"signature");
    let error = refused(file);
    assert!(matches!(&error, Error::Archive { .. }), "{error}");
    assert!(error.to_string().contains("more bytes follow its end"), "{error}");
}

#[test]
fn not_just_one_model_is_refused() {
    let inside = model("llama");
    let two = refused(llamafile(&[stored("x.gguf", &inside), stored("y.gguf", &inside)]));
    assert!(matches!(&two, Error::Entries { found, .. } if *found == ["x.gguf", "y.gguf"]));
    assert!(two.to_string().contains(r#"2 models, "x.gguf", "y.gguf"; expected one"#), "{two}");
    let none = refused(llamafile(&[stored("model.bin", &inside)]));
    assert!(none.to_string().contains("no model"), "{none}");
}

#[test]
fn a_compressed_model_is_named() {
    let file = llamafile(&[Entry { name: "m.gguf", data: b"\x01\x02", method: 8 }]);
    let error = refused(file);
    assert!(matches!(&error, Error::Compressed { entry, .. } if entry == "m.gguf"), "{error}");
    assert!(error.to_string().contains("extract it first"), "{error}");
}

#[test]
fn a_compressed_entry_is_called_so_whatever_its_flags() {
    let mut file = llamafile(&[Entry { name: "x", data: b"\x01\x02", method: 8 }]);
    let find = |needle: &[u8]| file.windows(4).rposition(|bytes| bytes == needle).unwrap();
    let (local, central) = (find(b"PK\x03\x04"), find(b"PK\x01\x02"));
    // Deflated as far as possible.
    (file[local + 6], file[central + 8]) = (2, 2);
    let archive = Archive::read(&file[..]).unwrap().unwrap();
    let error = archive.locate_all(&file[..]).unwrap().unwrap_err();
    assert!(error.to_string().contains("is compressed"), "{error}");
}

/// Bytes, and how many of them were read.
struct Counted {
    bytes: Vec<u8>,
    read: Cell<u64>,
}

impl ReadAt for Counted {
    type Error = Infallible;

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, Infallible> {
        self.read.set(self.read.get() + len);
        self.bytes[..].read(offset, len)
    }
}

#[test]
fn local_headers_inside_each_other_are_not_read_again_and_again() {
    // Each says that 60,000 bytes follow its name, in which the next ones lie.
    const ENTRIES: usize = 1000;
    let names: Vec<String> = (0..ENTRIES).map(|index| format!("{index:04}")).collect();
    let empty: Vec<Entry<'_>> = names.iter().map(|name| stored(name, &[])).collect();
    let plain = llamafile(&empty);
    let directory = plain.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    let first = plain.windows(4).position(|bytes| bytes == b"PK\x03\x04").unwrap();
    let mut header = plain[first..first + 30 + 4 + 20].to_vec();
    header[28..30].copy_from_slice(&60_000u16.to_le_bytes());
    let mut bytes = b"\x7fELF".to_vec();
    let mut starts = Vec::new();
    for name in &names {
        starts.push(bytes.len() as u64);
        header[30..34].copy_from_slice(name.as_bytes());
        bytes.extend(&header);
    }
    bytes.resize(bytes.len() + 60_000, 0);
    let moved = bytes.len() as u64;
    let mut tail = plain[directory..].to_vec();
    for (index, start) in starts.iter().enumerate() {
        let end = (index + 1) * (46 + 4 + 28);
        tail[end - 8..end].copy_from_slice(&start.to_le_bytes());
    }
    // In the 64-bit record and its locator.
    let end64 = ENTRIES * (46 + 4 + 28);
    tail[end64 + 48..end64 + 56].copy_from_slice(&moved.to_le_bytes());
    tail[end64 + 64..end64 + 72].copy_from_slice(&(moved + end64 as u64).to_le_bytes());
    bytes.extend(tail);

    let file = Counted { bytes, read: Cell::new(0) };
    let archive = Archive::read(&file).unwrap().unwrap();
    assert_eq!(archive.entries().len(), ENTRIES);
    let error = archive.locate_all(&file).unwrap().unwrap_err();
    assert!(error.to_string().contains("overlaps another"), "{error}");
    assert!(file.read.get() < 3 * file.size(), "{} of {}", file.read.get(), file.size());
}

#[test]
fn the_end_of_the_entry_bounds_the_model() {
    let inside = model("llama");
    let short = &inside[..inside.len() - 1];
    let error = refused(llamafile(&[stored("m.gguf", short), stored("z", &[0; 999])]));
    assert!(matches!(error, Error::Truncated { .. }), "{error}");
    assert!(error.to_string().contains("memory/m.gguf"), "{error}");
    let long = [&inside[..], &[0; 64]].concat();
    let error = refused(llamafile(&[stored("m.gguf", &long)]));
    assert!(matches!(error, Error::TrailingData { .. }), "{error}");
    let error = refused(llamafile(&[stored("m.gguf", b"lmgg")]));
    assert!(matches!(error, Error::Magic { .. }), "{error}");
}

#[test]
fn what_two_readers_could_read_in_two_ways_is_refused() {
    let inside = model("llama");
    let sound = llamafile(&[stored("m.gguf", &inside)]);
    Model::from_bytes(sound.clone()).unwrap();
    let find = |needle: &[u8]| sound.windows(needle.len()).rposition(|w| w == needle).unwrap();
    let local = find(b"PK\x03\x04");
    let central = find(b"PK\x01\x02");
    let (end64, locator, end) = (find(b"PK\x06\x06"), find(b"PK\x06\x07"), find(b"PK\x05\x06"));
    let name = 30 + 6;
    let changes = [
        // Flags, method, name and sizes, in the local header and in the directory.
        (local + 6, 1),
        (local + 8, 8),
        (local + 30, b'n'),
        (local + name + 4, 7),
        (local + name + 12, 7),
        (central + 8, 1),
        (central + 46, b'n'),
        (central + 46 + 6 + 4, 7),
        (central + 46 + 6 + 12, 7),
        (central + 46 + 6 + 20, 7),
        // Counts, sizes and places in the three records at the end.
        (end64 + 24, 2),
        (end64 + 32, 2),
        (end64 + 40, 1),
        (end64 + 48, 1),
        (locator + 8, 1),
        (end + 4, 1),
        (end + 10, 2),
        (end + 12, 1),
    ];
    for (at, value) in changes {
        let mut damaged = sound.clone();
        assert_ne!(damaged[at], value);
        damaged[at] = value;
        let error = refused(damaged);
        assert!(matches!(error, Error::Archive { .. }), "byte {at}: {error}");
    }
    let twice = llamafile(&[stored("m.gguf", &inside), stored("m.gguf", &inside)]);
    let twice = refused(twice);
    let Error::Archive { problem: ZipError::Entry { problem: "occurs twice", .. }, .. } = twice
    else {
        panic!("{twice}")
    };
    for cut in [sound.len() - 1, end, end64, central, local + 40, 3] {
        assert!(matches!(
            refused(sound[..cut].to_vec()),
            Error::Magic { .. } | Error::Truncated { .. }
        ));
    }
}

#[test]
fn a_part_of_a_split_model_inside_is_refused() {
    let mut metadata = Metadata::new();
    metadata.set("split.count", 2u16);
    let part = to_bytes::<[u8; 0]>(&metadata, []).unwrap();
    let error = refused(llamafile(&[stored("m-00001-of-00002.gguf", &part)]));
    assert!(matches!(error, Error::Shard { .. }), "{error}");
}

#[test]
fn no_byte_can_make_it_panic() {
    let inside = model("llama");
    let sound = llamafile(&[stored("m.gguf", &inside)]);
    let first = sound.len() - 250;
    for at in first..sound.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut damaged = sound.clone();
            damaged[at] = value;
            let _ = Model::from_bytes(damaged);
        }
    }
}
