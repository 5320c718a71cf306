//! Files that lie: every class of the negative corpus gets a typed error that names the place.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::path::Path;

use common::{Encoder, encode, every_value_type};
use llq_gguf::{Endian, Error, Header, Model, TensorSpec, TensorType, Value};
use proptest::prelude::*;

const F32: u32 = 0;

fn parse(bytes: &[u8]) -> Result<Header, Error> {
    Header::parse(bytes, Path::new("hostile.gguf"))
}

/// Checks that each file is refused with a message that holds the text beside it.
fn assert_refused(cases: impl IntoIterator<Item = (Vec<u8>, impl AsRef<str>)>) {
    for (number, (bytes, expected)) in cases.into_iter().enumerate() {
        let expected = expected.as_ref();
        let message = match parse(&bytes) {
            Ok(_) => panic!("case {number} was accepted; expected {expected:?}"),
            Err(error) => error.to_string(),
        };
        assert!(message.contains(expected), "case {number}: {message:?} lacks {expected:?}");
        assert!(message.starts_with("hostile.gguf: "), "{message:?}");
    }
}

/// A good file with every value type and three tensors, and no padding behind the last.
fn good_file(version: u32, endian: Endian) -> Vec<u8> {
    let tensors = [
        (TensorSpec::new("norm", [3], TensorType::F32), vec![1; 12]),
        (TensorSpec::new("a", [32, 2], TensorType::Q8_0), vec![2; 68]),
        (TensorSpec::new("b", [256], TensorType::Q4_K), vec![3; 144]),
    ];
    encode(version, endian, &every_value_type(), &tensors)
}

fn all_kinds() -> impl Iterator<Item = Vec<u8>> {
    (1..=3)
        .flat_map(|version| [Endian::Little, Endian::Big].map(|endian| good_file(version, endian)))
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for file in all_kinds() {
        assert!(parse(&file).is_ok());
        for length in 0..file.len() {
            let error = parse(&file[..length]).unwrap_err();
            assert!(matches!(error, Error::Truncated { .. }), "{length}: {error}");
        }
    }
}

#[test]
fn a_header_is_read_from_any_front_that_holds_it() {
    let path = Path::new("hostile.gguf");
    for file in all_kinds() {
        let whole = parse(&file).unwrap();
        for length in 0..=file.len() {
            let front = Header::parse_front(&file[..length], file.len() as u64, path).unwrap();
            match front {
                Some(header) => assert_eq!(header.tensors, whole.tensors),
                None => assert!((length as u64) < whole.data_start, "{length}"),
            }
        }
        let short = Header::parse_front(&file, file.len() as u64 - 1, path).unwrap();
        assert!(short.is_some(), "no file is shorter than what is at hand of it");
        let front = &file[..whole.data_start as usize];
        for (length, kind) in
            [(file.len() - 1, "data of tensor"), (file.len() + 99, "follow the model")]
        {
            let error = Header::parse_front(front, length as u64, path).unwrap_err().to_string();
            assert!(error.contains(kind), "{error}");
        }
    }
}

#[test]
fn any_changed_byte_is_survived() {
    survive_changes(good_file(3, Endian::Little), |good| (0..=u8::MAX).filter(move |&b| b != good));
    for file in all_kinds() {
        survive_changes(file, |good| (0..8).map(move |bit| good ^ (1 << bit)));
    }
}

/// Reads the file with each byte of its header changed in turn to each of its `changes`.
fn survive_changes<I: Iterator<Item = u8>>(mut file: Vec<u8>, changes: impl Fn(u8) -> I) {
    let header_bytes = parse(&file).unwrap().data_start as usize;
    for position in 0..header_bytes {
        let good = file[position];
        for bad in changes(good) {
            file[position] = bad;
            if let Ok(model) = Model::from_bytes(file.clone()) {
                model.tensors().iter().for_each(|tensor| drop(model.data(tensor).to_vec()));
            }
        }
        file[position] = good;
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(tail: Vec<u8>, version in 1u32..4) {
        let mut file = b"GGUF".to_vec();
        file.extend(version.to_le_bytes());
        file.extend(tail);
        let _ = parse(&file);
    }

    #[test]
    fn spliced_files_are_survived(
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        length in 0usize..24,
        version in 1u32..4,
    ) {
        let mut file = good_file(version, Endian::Little);
        let from = from.index(file.len() - 24);
        let to = to.index(file.len() - 24);
        file.copy_within(from..from + length, to);
        let _ = parse(&file);
    }
}

#[test]
fn other_files_are_named() {
    let with = |start: &[u8]| [start, &[0; 60]].concat();
    assert_refused([
        (with(b"GGML"), "found \"GGML\""),
        (with(b"tjgg"), "a legacy ggml file"),
        (with(b"lmgg"), "a legacy ggml file"),
        (with(b"FUGG"), "reversed"),
        (with(b"PK\x03\x04"), "a zip archive"),
        (with(b"version https://git-lfs"), "git-lfs pointer"),
        (with(b"\x7fELF"), "\"\\x7fELF\""),
        (Vec::new(), "magic at byte 0 needs 4 bytes, but 0 are left"),
        (b"GGU".to_vec(), "magic at byte 0 needs 4 bytes, but 3 are left"),
    ]);
}

#[test]
fn counts_beyond_the_file_are_refused() {
    for count in [5, 1 << 31, 1 << 32, 1 << 60, 1 << 63, u64::MAX] {
        assert_refused([
            (Encoder::v3(0, count).finish(), format!("{count} metadata keys at byte 24")),
            (Encoder::v3(count, 0).finish(), format!("{count} tensor infos at byte 24")),
        ]);
    }
}

#[test]
fn string_lengths_beyond_the_file_are_refused() {
    let rest = 10u64;
    for length in [rest + 1, 1 << 32, 1 << 63, u64::MAX] {
        let left = format!("needs {length} bytes, but {rest} are left");
        let key = Encoder::v3(0, 1).length(length).bytes(&[b'k'; 10]).finish();
        let value = Encoder::v3(0, 1).string("key").u32(8).length(length).zeros(10).finish();
        let name = Encoder::v3(1, 0).length(length).zeros(10).finish();
        assert_refused([(key, "metadata key number 0"), (value, &left)]);
        assert_refused([(name, "1 tensor infos at byte 24")]);
        let name = Encoder::v3(1, 0).length(length.max(60)).zeros(50).finish();
        assert_refused([(name, "name of tensor number 0")]);
    }
}

#[test]
fn array_lengths_beyond_the_file_are_refused() {
    for element_type in [0u32, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12] {
        for length in [17, 1 << 31, 1 << 61, 1 << 62, 1 << 63, u64::MAX] {
            let file = Encoder::v3(0, 1).string("list").u32(9).u32(element_type).length(length);
            assert_refused([(file.zeros(16).finish(), "value of metadata key \"list\"")]);
        }
    }
}

#[test]
fn bad_keys_are_refused() {
    let file = |key: &[u8]| Encoder::v3(0, 1).string(key).u32(4).u32(1).finish();
    assert!(parse(&file(b"k")).is_ok());
    assert!(parse(&file(&[b'k'; 65_535])).is_ok());
    assert_refused([
        (file(b""), "an empty key"),
        (file(&[b'k'; 65_536]), "found 65536 bytes"),
        (file(b"a\0b"), "found a nul"),
        (file(b"ab\xff"), "at byte 34: expected utf-8 text, found byte 0xff"),
    ]);
    let twice = Encoder::v3(0, 2).entry("k\u{1b}", &1u8.into()).entry("k\u{1b}", &2u8.into());
    assert_refused([(twice.finish(), r#"metadata key "k\u{1b}" at byte 39 stands there twice"#)]);
}

#[test]
fn bad_values_are_refused() {
    let file = |type_id: u32| Encoder::v3(0, 1).string("key").u32(type_id);
    let array = |element: u32| file(9).u32(element);
    assert_refused([
        (file(13).zeros(8).finish(), "expected a value type from 0 to 12, found 13"),
        (file(255).zeros(8).finish(), "found 255"),
        (file(u32::MAX).zeros(8).finish(), "found 4294967295"),
        (
            file(7).bytes(&[2]).finish(),
            "value of metadata key \"key\" at byte 39: expected bool 0 or 1, found 2",
        ),
        (file(8).string(b"ok\xc0\x80").finish(), "expected utf-8 text, found byte 0xc0"),
        (array(13).length(0).finish(), "expected a value type from 0 to 12, found 13"),
        (array(7).length(3).bytes(&[0, 1, 255]).finish(), "expected bool 0 or 1, found 255"),
        (array(8).length(2).string("a").string(b"\xff").finish(), "expected utf-8 text"),
    ]);
}

#[test]
fn arrays_of_arrays_are_refused_at_any_depth() {
    for depth in [1, 64, 1_000_000] {
        let mut file = Encoder::v3(0, 1).string("nest").u32(9);
        for _ in 0..depth {
            file = file.u32(9).length(1);
        }
        let error = parse(&file.u32(0).length(0).finish()).unwrap_err();
        assert!(matches!(&error, Error::NestedArray { key, .. } if key == "nest"), "{error}");
    }
}

#[test]
fn bad_alignments_are_refused() {
    let file = |value: Value| Encoder::v3(0, 1).entry("general.alignment", &value).finish();
    assert!(parse(&file(Value::U32(64))).is_ok());
    for bad in [0u32, 1, 3, 4, 7, 24, 1 << 31, u32::MAX] {
        assert_refused([(file(bad.into()), format!("2097152 as u32, found {bad}"))]);
    }
    assert_refused([
        (file("32".into()), "found string"),
        (file(32u64.into()), "found u64"),
        (file(32i32.into()), "found i32"),
    ]);
}

#[test]
fn bad_tensor_names_are_refused() {
    let file = |name: &[u8]| Encoder::v3(1, 0).tensor(name, &[1], F32, 0).pad(32).zeros(4).finish();
    assert!(parse(&file(&[b'n'; 64])).is_ok());
    assert_refused([
        (file(b""), "an empty name"),
        (file(&[b'n'; 65]), "expected 1 to 64 bytes without nul, found 65 bytes"),
        (file(b"a\0"), "found a nul"),
        (file(b"\xf0"), "expected utf-8 text"),
    ]);
    let twice = Encoder::v3(2, 0).tensor("x", &[8], F32, 0).tensor("x", &[8], F32, 32);
    assert_refused([(twice.pad(32).zeros(64).finish(), "tensor \"x\" is there already")]);
}

#[test]
fn bad_shapes_are_refused() {
    let file = |shape: &[u64], type_id| {
        Encoder::v3(1, 0).tensor("x", shape, type_id, 0).pad(32).zeros(4096).finish()
    };
    let limit = "expected at most 9223372036854775807 weights and bytes";
    assert_refused([
        (file(&[], F32), "expected 1 to 4 dimensions, found 0"),
        (file(&[1; 5], F32), "expected 1 to 4 dimensions, found 5"),
        (file(&[0], F32), "expected extents of at least 1, found [0]"),
        (file(&[4, 0], F32), "expected extents of at least 1"),
        (file(&[u64::MAX], F32), limit),
        (file(&[1 << 32, 1 << 32], F32), limit),
        (file(&[1 << 16, 1 << 16, 1 << 16, 1 << 16], F32), limit),
        (file(&[1 << 63], 24), limit),
        (file(&[1 << 62], F32), limit),
        (file(&[i64::MAX as u64], 24), "data of tensor \"x\""),
        (file(&[255], 12), "expected rows of whole Q4_K blocks of 256, found 255 columns"),
        (file(&[8, 4], 8), "expected rows of whole Q8_0 blocks of 32, found 8 columns"),
    ]);
    let dimensions = Encoder::v3(1, 0).string("x").u32(u32::MAX).zeros(64).finish();
    assert_refused([(dimensions, "expected 1 to 4 dimensions, found 4294967295")]);
}

#[test]
fn bad_tensor_types_are_refused_by_name() {
    let file = |type_id| Encoder::v3(1, 0).tensor("blk.0", &[256], type_id, 0).zeros(4096).finish();
    assert_refused([
        (file(4), "tensor \"blk.0\": tensor type 4 (Q4_2) was removed"),
        (file(5), "(Q4_3) was removed"),
        (file(31), "(Q4_0_4_4) was removed"),
        (file(36), "(IQ4_NL_4_4) was removed"),
        (file(43), "tensor type 43 is not assigned"),
        (file(1 << 31), "tensor type 2147483648 is not assigned"),
        (file(u32::MAX), "tensor type 4294967295 is not assigned"),
    ]);
}

#[test]
fn tensors_must_lie_one_behind_the_other() {
    let file = |first: u64, second: u64| {
        Encoder::v3(2, 0)
            .tensor("x", &[9], F32, first)
            .tensor("y", &[8], F32, second)
            .pad(32)
            .zeros(96)
            .finish()
    };
    assert!(parse(&file(0, 64)).is_ok());
    let second =
        "offset of tensor \"y\" at byte 82: expected 64, the aligned end of the tensor before it";
    assert_refused([
        (file(32, 96), "offset of tensor \"x\" at byte 49: expected 0"),
        (file(0, 63), second),
        (file(0, 32), second),
        (file(0, 96), second),
        (file(0, 0), second),
        (file(0, u64::MAX), second),
    ]);
}

#[test]
fn sizes_that_overflow_together_are_refused() {
    let half = i64::MAX as u64;
    let file = Encoder::v3(3, 0)
        .tensor("x", &[half], 24, 0)
        .tensor("y", &[half], 24, 1 << 63)
        .tensor("z", &[half], 24, 0)
        .finish();
    assert_refused([(file, "data of tensor \"y\"")]);
}

#[test]
fn a_short_data_section_names_the_tensor() {
    let file = |bytes| {
        let header = Encoder::v3(2, 0).tensor("x", &[8], F32, 0).tensor("y", &[8], F32, 32);
        header.pad(32).zeros(bytes).finish()
    };
    assert!(parse(&file(64)).is_ok());
    assert_refused([
        (file(63), "data of tensor \"y\" at byte 128 needs 32 bytes, but 31 are left"),
        (file(32), "data of tensor \"y\" at byte 128 needs 32 bytes, but 0 are left"),
        (file(31), "data of tensor \"x\" at byte 96 needs 32 bytes, but 31 are left"),
        (file(0), "data of tensor \"x\""),
    ]);
}

#[test]
fn nothing_but_padding_may_follow() {
    let file = |padding: usize| {
        Encoder::v3(1, 0).tensor("x", &[1], F32, 0).pad(32).zeros(4 + padding).finish()
    };
    assert!(parse(&file(0)).is_ok());
    assert!(parse(&file(28)).is_ok());
    assert_refused([(file(29), "1 bytes follow the model's end at byte 96")]);

    let zip_end = [b"PK\x05\x06".as_slice(), &[0; 18]].concat();
    assert_refused([([file(28), zip_end].concat(), "a zip archive by the look of them")]);

    let vocabulary = |bytes| Encoder::v3(0, 0).zeros(bytes).finish();
    assert!(parse(&vocabulary(0)).is_ok());
    assert!(parse(&vocabulary(8)).is_ok());
    assert_refused([(vocabulary(9), "1 bytes follow")]);
}

#[test]
fn names_cannot_write_to_the_terminal() {
    let name = "\u{1b}]0;owned\u{7}\n\u{202e}";
    let file = Encoder::v3(1, 0).tensor(name, &[0], F32, 0).finish();
    let message = parse(&file).unwrap_err().to_string();
    assert!(!message.contains(char::is_control) && !message.contains('\u{202e}'), "{message:?}");
}
