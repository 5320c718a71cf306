//! GGUF files that break the rules of the format.

use llq_gguf::{Endian, Metadata, TensorSpec, TensorType, Value};

use crate::{
    case::Case,
    raw::{Encoder, encode},
};

/// Every command that opens a GGUF file.
pub(crate) const EVERY_COMMAND: &[&str] = &[
    "inspect m.gguf",
    "inspect m.gguf --json --tensors --metadata",
    "verify m.gguf",
    "hash m.gguf",
    "convert m.gguf -o out.gguf",
    "quantize m.gguf -o out.gguf --type q8_0",
    "quantize m.gguf -o out.gguf --type q4_k_m --resume",
    "split m.gguf -o out.gguf --max-tensors 1",
    "edit m.gguf --set general.name=x",
    "diff m.gguf m.gguf",
    "tokenize m.gguf abc",
    "perplexity m.gguf --corpus text --ctx 8",
    "sweep m.gguf --corpus text --ctx 8 --types q8_0",
    "imatrix m.gguf --corpus text --ctx 8 -o out.gguf",
];

/// The commands that a person gives to a file from elsewhere.
pub(crate) const COMMANDS: &[&str] = &[
    "inspect m.gguf",
    "verify m.gguf",
    "quantize m.gguf -o out.gguf --type q8_0",
    "perplexity m.gguf --corpus text --ctx 8",
];

const U8: u32 = 0;
const U32: u32 = 4;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

const F32: u32 = 0;
const Q8_0: u32 = 8;
const Q4_K: u32 = 12;
const I8: u32 = 24;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cut();
    cases.extend(other_files());
    cases.extend(counts_and_strings());
    cases.extend(keys());
    cases.extend(values());
    cases.extend(alignments());
    cases.extend(shapes());
    cases.extend(types());
    cases.extend(places());
    cases.extend(names());
    cases.extend(data());
    cases
}

/// A file that no command takes.
fn refused(name: impl Into<String>, file: Vec<u8>, place: impl AsRef<str>) -> Case {
    let write = move |to: &crate::harness::Place| drop(to.write("m.gguf", file));
    Case::new(name, write).refused(COMMANDS, &["m.gguf: ", place.as_ref()])
}

/// What does not start as a GGUF file; `start` is how it does, as a message shows it.
fn other(name: impl Into<String>, file: Vec<u8>, place: &str, start: &str) -> Case {
    let start = format!("a file that starts with \"{start}\"");
    Case::new(name, move |to| drop(to.write("m.gguf", file)))
        .refused(&["inspect m.gguf", COMMANDS[3], "tokenize m.gguf abc"], &["m.gguf: ", place])
        .refused(&["verify m.gguf", COMMANDS[2]], &["m.gguf is no checkpoint", &start])
}

/// The same, asked of every command.
fn refused_by_all(name: &str, file: Vec<u8>, place: &str) -> Case {
    refused(name, file, place).refused(EVERY_COMMAND, &["m.gguf: ", place])
}

fn accepted(name: &str, file: Vec<u8>, lines: &[&str]) -> Case {
    Case::new(name, move |place| drop(place.write("m.gguf", file))).accepted(lines)
}

/// Cut before each field, one byte before and one byte behind.
fn cut() -> Vec<Case> {
    let fields = fields();
    let whole: Vec<u8> = fields.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let mut cases = vec![accepted("whole", whole.clone(), &["inspect m.gguf", "verify m.gguf"])];
    let mut start = 0;
    for (field, bytes) in &fields {
        for end in start.max(1) - 1..=(start + 1).min(whole.len() - 1) {
            let name = format!("cut at {end}, where {field} starts at {start}");
            let front = whole[..end].to_vec();
            cases.push(match end {
                0..4 => other(name, front, "at byte 0 needs 4 bytes", &"GGUF"[..end]),
                _ => refused(name, front, "are left"),
            });
        }
        start += bytes.len();
    }
    let name = "data section short by 1";
    let place = "data of tensor \"b\" at byte 192 needs 34 bytes, but 33 are left";
    cases.push(refused_by_all(name, whole[..whole.len() - 1].to_vec(), place));
    cases
}

/// The fields of a sound file, by name.
fn fields() -> Vec<(&'static str, Vec<u8>)> {
    let number = |n: u64| n.to_le_bytes().to_vec();
    let word = |n: u32| n.to_le_bytes().to_vec();
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("magic", text("GGUF")),
        ("version", word(3)),
        ("tensor count", number(2)),
        ("key count", number(2)),
        ("length of a key", number(5)),
        ("key", text("array")),
        ("value type", word(ARRAY)),
        ("element type", word(STRING)),
        ("array length", number(1)),
        ("length of an element", number(3)),
        ("element", text("abc")),
        ("length of a key", number(6)),
        ("key", text("number")),
        ("value type", word(U32)),
        ("value", word(7)),
        ("length of a name", number(1)),
        ("name", text("a")),
        ("dimension count", word(1)),
        ("extent", number(8)),
        ("tensor type", word(F32)),
        ("offset", number(0)),
        ("length of a name", number(1)),
        ("name", text("b")),
        ("dimension count", word(2)),
        ("extent", number(32)),
        ("extent", number(1)),
        ("tensor type", word(Q8_0)),
        ("offset", number(32)),
        ("data", vec![1; 32]),
        ("data", vec![1; 34]),
    ]
}

fn other_files() -> Vec<Case> {
    let with = |start: &[u8]| [start, &[0; 60]].concat();
    let version = |version| Encoder::new(version, Endian::Little, 0, 0).finish();
    let swapped = Encoder::new(3, Endian::Big, 0, 0).finish();
    vec![
        other("empty", Vec::new(), "magic at byte 0 needs 4 bytes, but 0 are left", ""),
        refused_by_all("four bytes", b"GGUF".to_vec(), "at byte 4"),
        other("bad magic", with(b"\x7fELF"), "found \"\\x7fELF\"", "\\u{7f}ELF"),
        other("magic GGML", with(b"GGML"), "found \"GGML\"", "GGML"),
        Case::new("magic ggjt", |place| drop(place.write("m.gguf", b"tjgg\x03\0\0\0")))
            .refused(
                &["inspect m.gguf", "perplexity m.gguf --corpus text"],
                &["a legacy ggml file"],
            )
            .refused(&["quantize m.gguf -o out.gguf --type q8_0"], &["m.gguf: header at byte 8"]),
        other("magic reversed", with(b"FUGG"), "reversed", "FUGG"),
        other("a zip archive", with(b"PK\x03\x04"), "a zip archive", "PK\\u{3}\\u{4}"),
        Case::new("a Git LFS pointer", |place| {
            drop(place.write("m.gguf", "version https://git-lfs.github.com/spec/v1\n"));
        })
        .refused(&["inspect m.gguf", COMMANDS[3]], &["m.gguf: ", "git-lfs pointer"])
        .refused(&["verify m.gguf", COMMANDS[2]], &["m.gguf: ", "Git LFS pointer"]),
        refused("version 0", version(0), "version"),
        accepted("version 1", version(1), &["inspect m.gguf"]),
        accepted("version 2", version(2), &["inspect m.gguf"]),
        accepted("version 3", version(3), &["inspect m.gguf"]),
        refused("version 4", version(4), "version"),
        refused("version -1", version(u32::MAX), "version"),
        accepted("byte-swapped, empty", swapped, &["inspect m.gguf"]),
        Case::new("byte-swapped", |place| {
            let spec = TensorSpec::new("a", [32], TensorType::F32);
            let file = encode(3, Endian::Big, &Metadata::new(), &[(spec, vec![0; 128])]);
            drop(place.write("m.gguf", file));
        })
        .accepted(&["inspect m.gguf", "convert m.gguf -o out.gguf", "verify m.gguf"]),
    ]
}

fn counts_and_strings() -> Vec<Case> {
    let mut cases = Vec::new();
    for (count, name) in [(1 << 31, "2^31"), (1 << 63, "2^63"), (u64::MAX, "-1")] {
        let tensors = Encoder::v3(count, 0).finish();
        let keys = Encoder::v3(0, count).finish();
        let place = |what| format!("{count} {what} at byte 24");
        cases.push(refused_by_all(&format!("n_tensors {name}"), tensors, &place("tensor infos")));
        cases.push(refused_by_all(&format!("n_kv {name}"), keys, &place("metadata keys")));
    }
    // Ten bytes are left where the text should be.
    for (length, name) in [(11, "rest + 1"), (1 << 32, "2^32"), (1 << 63, "2^63"), (u64::MAX, "-1")]
    {
        let key = Encoder::v3(0, 1).length(length).bytes(&[b'k'; 10]).finish();
        let value = Encoder::v3(0, 1).string("key").u32(STRING).length(length).zeros(10).finish();
        let element = Encoder::v3(0, 1).string("key").u32(ARRAY).u32(STRING).length(1);
        let element = element.length(length).zeros(10).finish();
        let tensor = Encoder::v3(1, 0).length(length.max(60)).zeros(50).finish();
        let value_place = format!("needs {length} bytes, but 10 are left");
        cases.extend([
            refused(format!("string length {name}, of a key"), key, "metadata key number 0"),
            refused(format!("string length {name}, of a value"), value, &value_place),
            refused(format!("string length {name}, of an element"), element, &value_place),
            refused(format!("string length {name}, of a name"), tensor, "name of tensor number 0"),
        ]);
    }
    let empty = Encoder::v3(0, 1).entry("general.name", &"".into()).finish();
    cases.push(accepted("string length 0", empty, &["inspect m.gguf", "verify m.gguf"]));
    cases
}

fn keys() -> Vec<Case> {
    let file = |key: &[u8]| Encoder::v3(0, 1).string(key).u32(U32).u32(1).finish();
    let twice = Encoder::v3(0, 2).entry("k", &1u8.into()).entry("k", &2u8.into()).finish();
    let hostile = "\u{1b}]0;owned\u{7}\n\u{202e}";
    let shown = Encoder::v3(0, 1).entry(hostile, &hostile.into()).finish();
    let told = Encoder::v3(0, 2).entry(hostile, &1u8.into()).entry(hostile, &1u8.into()).finish();
    vec![
        refused("key empty", file(b""), "number 0 at byte 24: expected 1 to 65535 bytes"),
        refused("key twice", twice, "metadata key \"k\" at byte 38 stands there twice"),
        refused("key not UTF-8", file(b"ab\xff"), "at byte 34: expected utf-8"),
        accepted("key of 65535 bytes", file(&[b'k'; 65_535]), &["inspect m.gguf"]),
        refused("key of 65536 bytes", file(&[b'k'; 65_536]), "found 65536 bytes"),
        refused("key with NUL", file(b"a\0b"), "found a nul"),
        accepted(
            "key steers terminals",
            shown,
            &["inspect m.gguf --metadata", "diff m.gguf m.gguf"],
        ),
        refused_by_all("refused key steers terminals", told, "stands there twice"),
    ]
}

fn values() -> Vec<Case> {
    let file = |type_id: u32| Encoder::v3(0, 1).string("key").u32(type_id);
    let array = |element: u32| file(ARRAY).u32(element);
    let nested = |depth: usize| {
        let levels = (0..depth).fold(array(ARRAY).length(1), |file, _| file.u32(ARRAY).length(1));
        levels.u32(U8).length(0).finish()
    };
    let mut cases = vec![
        refused_by_all("array of arrays, depth 1", nested(1), "\"key\""),
        refused("array of arrays, depth 64", nested(64), "\"key\""),
        refused("array of arrays, depth 10^6", nested(1_000_000), "\"key\""),
        refused(
            "bool 2",
            file(BOOL).bytes(&[2]).finish(),
            "byte 39: expected bool 0 or 1, found 2",
        ),
        refused("bool 2 in an array", array(BOOL).length(1).bytes(&[2]).finish(), "found 2"),
        refused("string not UTF-8", file(STRING).string(b"ok\xc0\x80").finish(), "found byte 0xc0"),
    ];
    for type_id in [13, 255, u32::MAX] {
        let (value, element) = (file(type_id).zeros(9), array(type_id).length(0));
        let place = format!("expected a value type from 0 to 12, found {type_id}");
        cases.push(refused(format!("value type {type_id}"), value.finish(), &place));
        cases.push(refused(format!("element type {type_id}"), element.finish(), &place));
    }
    // The last two times the size of an element wrap to 0 and to 8.
    for length in [17, 1 << 31, 1 << 63, u64::MAX, 1 << 61, (1 << 61) + 1] {
        let file = array(10).length(length).zeros(16).finish();
        let name = format!("array of {length} u64");
        cases.push(refused_by_all(&name, file, "value of metadata key \"key\""));
    }
    for element in [U8, U32, BOOL, STRING] {
        let file = array(element).length(1 << 62).zeros(16).finish();
        let name = format!("array of 2^62 elements of type {element}");
        cases.push(refused(name, file, "value of metadata key \"key\""));
    }
    cases
}

fn alignments() -> Vec<Case> {
    let file = |value: Value| {
        let file = Encoder::v3(1, 1).entry("general.alignment", &value);
        file.tensor("x", &[8], F32, 0).pad(64).zeros(32).finish()
    };
    let mut cases = vec![accepted("alignment 64", file(Value::U32(64)), &["inspect m.gguf"])];
    for bad in [0u32, 1, 3, 7, 1 << 31] {
        let place = format!("found {bad}");
        cases.push(refused_by_all(&format!("alignment {bad}"), file(bad.into()), &place));
    }
    cases.extend([
        refused("alignment as string", file("32".into()), "found string"),
        refused("alignment as u64", file(32u64.into()), "found u64"),
    ]);
    cases
}

fn shapes() -> Vec<Case> {
    let file = |shape: &[u64], type_id| {
        Encoder::v3(1, 0).tensor("x", shape, type_id, 0).pad(32).zeros(4096).finish()
    };
    let dimensions = Encoder::v3(1, 0).string("x").u32(u32::MAX).zeros(64).finish();
    let limit = "expected at most 9223372036854775807 weights and bytes";
    let half = i64::MAX as u64;
    let sum = Encoder::v3(3, 0)
        .tensor("x", &[half], I8, 0)
        .tensor("y", &[half], I8, 1 << 63)
        .tensor("z", &[half], I8, 0);
    vec![
        refused("n_dims 0", file(&[], F32), "tensor \"x\""),
        refused("n_dims 5", file(&[1; 5], F32), "expected 1 to 4 dimensions, found 5"),
        refused("n_dims 2^32 - 1", dimensions, "expected 1 to 4 dimensions, found 4294967295"),
        refused_by_all("ne 0", file(&[0], F32), "extents of at least 1, found [0]"),
        refused("ne 0 behind another", file(&[8, 0], F32), "tensor \"x\""),
        refused("ne -1", file(&[u64::MAX], F32), limit),
        refused_by_all("product wraps to 0", file(&[1 << 32, 1 << 32], F32), limit),
        refused("product of four wraps to 0", file(&[1 << 16; 4], F32), limit),
        refused("product wraps to 4", file(&[(1 << 63) + 2, 2], F32), limit),
        refused("product 2^63", file(&[1 << 63], I8), limit),
        refused("bytes wrap to 0", file(&[1 << 62], F32), limit),
        refused("2^63 - 1 weights", file(&[half], I8), "data of tensor \"x\" at byte"),
        refused("sizes together wrap", sum.finish(), "data of tensor"),
        refused("row of Q4_K not whole", file(&[255], Q4_K), "found 255 columns"),
        refused("row of Q8_0 not whole", file(&[8, 4], Q8_0), "found 8 columns"),
    ]
}

fn types() -> Vec<Case> {
    let file =
        |type_id| Encoder::v3(1, 0).tensor("x", &[256], type_id, 0).pad(32).zeros(4096).finish();
    let case = |type_id: u32, place: &str| {
        refused(format!("tensor type {type_id}"), file(type_id), format!("tensor \"x\": {place}"))
    };
    vec![
        case(4, "tensor type 4 (Q4_2) was removed"),
        case(5, "tensor type 5 (Q4_3) was removed"),
        case(31, "tensor type 31 (Q4_0_4_4) was removed"),
        case(36, "tensor type 36 (IQ4_NL_4_4) was removed"),
        case(43, "tensor type 43 is not assigned"),
        case(1 << 31, "tensor type 2147483648 is not assigned"),
        case(u32::MAX, "tensor type 4294967295 is not assigned"),
    ]
}

fn places() -> Vec<Case> {
    let file = |first: u64, second: u64| {
        let infos = Encoder::v3(2, 0).tensor("x", &[9], F32, first).tensor("y", &[8], F32, second);
        infos.pad(32).zeros(96).finish()
    };
    let y = "offset of tensor \"y\" at byte 82: expected 64";
    vec![
        refused("offset not 0", file(32, 96), "offset of tensor \"x\" at byte 49: expected 0"),
        refused("offset misaligned", file(0, 63), y),
        refused_by_all("tensors overlap", file(0, 32), y),
        refused("one tensor over another", file(0, 0), y),
        refused("a gap between tensors", file(0, 96), y),
        refused("offset beyond the file", file(0, 1 << 40), y),
        refused_by_all("offset 2^64 - 1", file(0, u64::MAX), y),
        refused("offset 2^64 - 32", file(0, u64::MAX - 31), y),
    ]
}

fn names() -> Vec<Case> {
    let file =
        |name: &[u8]| Encoder::v3(1, 0).tensor(name, &[8], F32, 0).pad(32).zeros(32).finish();
    let twice = Encoder::v3(2, 0).tensor("x", &[8], F32, 0).tensor("x", &[8], F32, 32);
    let twice = twice.pad(32).zeros(64).finish();
    let hostile = "\u{1b}]0;owned\u{7}\n\u{202e}";
    let told = Encoder::v3(1, 0).tensor(hostile, &[0], F32, 0).finish();
    let shown = file(hostile.as_bytes());
    let show = ["inspect m.gguf --tensors", "hash m.gguf", "verify m.gguf", "diff m.gguf m.gguf"];
    vec![
        accepted("name of 63 bytes", file(&[b'n'; 63]), &["inspect m.gguf"]),
        accepted("name of 64 bytes", file(&[b'n'; 64]), &["inspect m.gguf"]),
        refused("name of 65 bytes", file(&[b'n'; 65]), "found 65 bytes"),
        refused_by_all("name twice", twice, "tensor \"x\" is there already"),
        refused("name empty", file(b""), "tensor number 0"),
        refused("name not UTF-8", file(b"\xf0"), "expected utf-8"),
        refused("name with NUL", file(b"a\0"), "found a nul"),
        accepted("name steers terminals", shown, &show),
        refused_by_all("refused name steers terminals", told, "extents of at least 1"),
    ]
}

fn data() -> Vec<Case> {
    let file = |padding: usize| {
        Encoder::v3(1, 0).tensor("x", &[1], F32, 0).pad(32).zeros(4 + padding).finish()
    };
    let zip_end = [b"PK\x05\x06".as_slice(), &[0; 18]].concat();
    let zip = crate::support::pickle::zip(&[("evil.txt", b"hidden")]);
    let vocabulary = Encoder::v3(0, 0).zeros(9).finish();
    vec![
        accepted("padding at the end", file(28), &["inspect m.gguf"]),
        refused_by_all("trailing garbage", file(29), "1 bytes follow the model's end at byte 96"),
        refused("trailing garbage behind metadata", vocabulary, "1 bytes follow"),
        refused_by_all("trailing zip", [file(28), zip_end].concat(), "a zip archive by the look"),
        refused("trailing zip of a file", [file(28), zip].concat(), "m.gguf: "),
    ]
}
