//! Safetensors files, and the index that names several.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use serde_json::json;

use crate::{
    case::{CHECKPOINT, Case, checkpoint},
    harness::Place,
    support::tiny::{Tiny, safetensors, with_header},
};

const FILE: &str = "model/model.safetensors: ";

pub(crate) fn cases() -> Vec<Case> {
    let sound = Case::new("sound", |place| Tiny::new().write(&checkpoint(place)));
    let mut cases = vec![sound.accepted(CHECKPOINT)];
    cases.extend(lengths());
    cases.extend(headers());
    cases.extend(tensors());
    cases.extend(sub_byte());
    cases
}

/// The small model with these bytes for weights.
fn refused(name: impl Into<String>, bytes: Vec<u8>, place: &str) -> Case {
    let write = move |place: &Place| {
        let folder = checkpoint(place);
        Tiny::new().write_all_but_weights(&folder);
        fs::write(folder.join("model.safetensors"), bytes).unwrap();
    };
    Case::new(name, write).refused(CHECKPOINT, &[FILE, place])
}

fn lengths() -> Vec<Case> {
    let with_length = |length: u64| [&length.to_le_bytes()[..], b"{}      "].concat();
    let whole = safetensors(Tiny::new().tensors.iter());
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let cut = |end: usize| whole[..end].to_vec();
    let mut cases = vec![
        refused("empty", Vec::new(), "0 bytes are too few"),
        refused("shorter than 8 bytes", cut(7), "7 bytes are too few"),
        refused("header length 0", with_length(0), "header"),
        refused("header length 1", with_length(1), "header"),
        refused("header length 7", with_length(7), "tensor data is 1 bytes, the header says 0"),
        refused("header length beyond the file", with_length(9), "a header of 9 bytes"),
        refused(
            "header length 2^63",
            with_length(1 << 63),
            "a header of 9223372036854775808 bytes",
        ),
        refused("header length 2^64 - 1", with_length(u64::MAX), "a header of 1844674407370955161"),
        refused("cut in the header", cut(header - 1), "a header of"),
        refused("cut behind the header", cut(header), "tensor data is 0 bytes"),
        refused("cut by one byte", cut(whole.len() - 1), "the file is cut off"),
        refused("trailing bytes", [&whole[..], b"x"].concat(), "the file is cut off or damaged"),
        refused(
            "trailing zip",
            [&whole[..], &crate::support::pickle::zip(&[])].concat(),
            "damaged",
        ),
        refused(
            "Git LFS pointer",
            b"version https://git-lfs.github.com/spec/v1\n".into(),
            "Git LFS",
        ),
    ];
    // As long as the specification allows, and one byte longer; what is not written is a hole.
    let padded = |length: u64| {
        move |place: &Place| {
            let folder = checkpoint(place);
            Tiny::new().write_all_but_weights(&folder);
            write_padded(&folder.join("model.safetensors"), length);
        }
    };
    let longest = 100_000_000;
    let limit = format!("a header of {} bytes does not fit", longest + 1);
    cases.push(
        Case::new("header length 100000001", padded(longest + 1))
            .refused(CHECKPOINT, &[FILE, &limit]),
    );
    cases.push(
        Case::new("header length 100000000", padded(longest))
            .with_bytes(longest)
            .accepted(&CHECKPOINT[..1]),
    );
    cases
}

/// The small model's weights, their header filled up with spaces to `length` bytes.
fn write_padded(path: &Path, length: u64) {
    let whole = safetensors(Tiny::new().tensors.iter());
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap());
    let (header, data) = whole[8..].split_at(header as usize);
    let mut file = File::create(path).unwrap();
    file.write_all(&length.to_le_bytes()).unwrap();
    file.write_all(header).unwrap();
    let spaces = [b' '; 1 << 16];
    let mut left = length as usize - header.len();
    while left > 0 {
        let some = left.min(spaces.len());
        file.write_all(&spaces[..some]).unwrap();
        left -= some;
    }
    file.write_all(data).unwrap();
}

fn headers() -> Vec<Case> {
    let tensor = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let of =
        |name: &str, header: &str, place: &str| refused(name, with_header(header, &[0; 4]), place);
    let with = |name: &str, shape: &str, offsets: &str| {
        let entry =
            format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
        of(name, &entry, "header: ")
    };
    let invalid = [b"\x0a\0\0\0\0\0\0\0{\"\xff\":1}   ".as_slice()].concat();
    let mut cases = vec![
        of("header starts with a space", " {}", "the header starts with byte 0x20"),
        of("header is a list", "[]", "the header starts with byte 0x5b"),
        of("header is null", "null", "the header starts with byte 0x6e"),
        of("header starts with a byte-order mark", "\u{feff}{}", "starts with byte 0xef"),
        of("header ends with NUL", &format!("{{{tensor}}}\0\0"), "line 1 column"),
        refused("header not UTF-8", invalid, "header: "),
        of("header ends early", "{\"a\"", "line 1 column"),
        of("tensor twice", &format!("{{{tensor},{tensor}}}"), "\"a\""),
        of(
            "key of a tensor twice",
            &tensor
                .replace("{", "{\"dtype\":\"F32\",")
                .replacen("\"a\"", "{\"a\"", 1)
                .replace("}", "}}"),
            "dtype",
        ),
        of("__metadata__ with a number", r#"{"__metadata__":{"a":1}}"#, "header: "),
        of("__metadata__ twice", r#"{"__metadata__":{},"__metadata__":{}}"#, "header: "),
        with("shape negative", "[-1]", "[0,4]"),
        with("shape float", "[1.5]", "[0,4]"),
        with("shape 1.0", "[1.0]", "[0,4]"),
        with("shape 2^64", "[18446744073709551616]", "[0,4]"),
        with("shape with a large exponent", "[1e99]", "[0,4]"),
        with(
            "shape with an exponent of a million digits",
            &format!("[1e{}]", "9".repeat(1_000_000)),
            "[0,4]",
        ),
        with("shape of a million digits", &format!("[{}]", "9".repeat(1_000_000)), "[0,4]"),
        with("shape of 10^6 extents", &format!("[{}1]", "1,".repeat(1_000_000)), "[0,4]"),
        with("offset negative", "[1]", "[-4,0]"),
        with("offset 2^64", "[1]", "[0,18446744073709551616]"),
        with("three offsets", "[1]", "[0,4,8]"),
        with("one offset", "[1]", "[4]"),
        of("no offsets", r#"{"a":{"dtype":"F32","shape":[1]}}"#, "data_offsets"),
    ];
    for (name, depth) in [("10^5", 100_000), ("10^7", 10_000_000)] {
        for (what, front) in [("a tensor", "{\"a\":"), ("__metadata__", "{\"__metadata__\":")] {
            let header = format!("{front}{}", "[".repeat(depth));
            cases.push(of(&format!("{name} lists in {what}"), &header, "header: "));
        }
        let header = format!("{{\"a\":{{\"x\":{}", "[".repeat(depth));
        cases.push(of(&format!("{name} lists in an unknown key"), &header, "header: "));
    }
    let many = |i| format!(r#""t{i}":{{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}"#);
    let many = format!("{{{}}}", (0..70_000).map(many).collect::<Vec<_>>().join(","));
    cases.push(refused("70000 tensors", with_header(&many, &[]), "more than 65536 tensors"));
    let long = format!("{{\"{}\":1}}", "\u{1b}[2J".repeat(1 << 20));
    cases.push(of("name of 4 MB steers terminals", &long, "header: "));
    cases
}

fn tensors() -> Vec<Case> {
    let entry = |name: &str, shape: &str, begin: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let of = |name: &str, entries: &[String], place: &str| {
        refused(name, with_header(&format!("{{{}}}", entries.join(",")), &[0; 8]), place)
    };
    let steering = entry("\\u001b[2J\\u202e", "[3]", 0, 8);
    let unknown = entry("a", "[1]", 0, 4).replace("F32", "F33\\u001b[2J");
    vec![
        of("begin behind end", &[entry("a", "[1]", 8, 4)], "tensor \"a\" of shape [1]"),
        of("size is another", &[entry("a", "[3]", 0, 8)], "does not take the bytes 0..8"),
        of("shape wraps to 0", &[entry("a", "[9223372036854775808,2]", 0, 0)], "tensor \"a\""),
        of(
            "shape wraps to 0 in four",
            &[entry("a", "[65536,65536,65536,65536]", 0, 0)],
            "tensor \"a\"",
        ),
        of("bytes wrap to 0", &[entry("a", "[4611686018427387904]", 0, 0)], "tensor \"a\""),
        of(
            "2^61 weights",
            &[entry("a", "[144115188075855872]", 0, 1 << 59)],
            "tensor data is 8 bytes",
        ),
        of("end 2^64 - 1", &[entry("a", "[1]", u64::MAX - 4, u64::MAX)], "tensor \"a\""),
        of(
            "overlap",
            &[entry("a", "[1]", 0, 4), entry("b", "[1]", 2, 6)],
            "tensor \"b\" starts at byte 2 of the data, expected 4",
        ),
        of(
            "the same bytes twice",
            &[entry("a", "[2]", 0, 8), entry("b", "[2]", 0, 8)],
            "starts at byte 0 of the data, expected 8",
        ),
        of(
            "hole",
            &[entry("a", "[0]", 0, 0), entry("b", "[1]", 4, 8)],
            "tensor \"b\" starts at byte 4 of the data, expected 0",
        ),
        of("not starting at 0", &[entry("a", "[1]", 4, 8)], "tensor \"a\" starts at byte 4"),
        of("ends before the file does", &[entry("a", "[1]", 0, 4)], "the header says 4"),
        of("ends behind the file", &[entry("a", "[3]", 0, 12)], "the header says 12"),
        of("unknown dtype", &[unknown], "tensor \"a\" has unknown dtype"),
        of("refused name steers terminals", &[steering], "of shape [3]"),
        Case::new("integers in place of weights", |place| {
            let folder = checkpoint(place);
            Tiny::new().write(&folder);
            let path = folder.join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            let at = bytes.windows(4).position(|window| window == b"BF16").unwrap();
            let changed = [&bytes[..at], b"I16\" ", &bytes[at + 5..]].concat();
            fs::write(&path, changed).unwrap();
        })
        .refused(CHECKPOINT, &["lm_head.weight", "I16"]),
    ]
}

/// Types of less than a byte must fill whole ones.
fn sub_byte() -> Vec<Case> {
    let of = |dtype: &str, count: u64, bytes: usize| {
        let entry =
            json!({ "a": { "dtype": dtype, "shape": [count], "data_offsets": [0, bytes] } });
        let file = with_header(&entry.to_string(), &vec![0; bytes]);
        refused(format!("{count} weights of {dtype}"), file, "tensor \"a\"")
    };
    vec![of("F4", 3, 2), of("F4", 3, 1), of("F6_E2M3", 3, 3), of("F6_E3M2", 1, 1)]
}

/// What an index of several files may say.
pub(crate) fn index_cases() -> Vec<Case> {
    const FIRST: &str = "model-00001-of-00002.safetensors";
    const SECOND: &str = "model-00002-of-00002.safetensors";
    const INDEX: &str = "model/model.safetensors.index.json: ";
    fn sharded(place: &Place) -> std::path::PathBuf {
        let folder = checkpoint(place);
        Tiny::new().write_sharded(&folder);
        folder
    }
    let index = |name: &str, text: String| {
        Case::new(name, move |place| {
            let folder = sharded(place);
            fs::write(folder.join("model.safetensors.index.json"), text).unwrap();
        })
    };
    let named = |file: &str| {
        let text = json!({ "weight_map": { "lm_head.weight": file } }).to_string();
        let place = format!("tensor \"lm_head.weight\" is said to be in {file:?}");
        index(&format!("weight_map names {file:?}"), text).refused(CHECKPOINT, &[INDEX, &place])
    };
    let mut cases = vec![Case::new("two files", |place| drop(sharded(place))).accepted(CHECKPOINT)];
    let escaping =
        ["../x", "/etc/passwd", "a/b.safetensors", "./x", "..", ".", "", "a/../model.safetensors"];
    cases.extend(escaping.map(named));
    cases.extend([
        Case::new("a file is a link out of the folder", |place| {
            let folder = sharded(place);
            let outside = place.write("outside", "root:x:0:0:\n");
            fs::remove_file(folder.join(SECOND)).unwrap();
            std::os::unix::fs::symlink(outside, folder.join(SECOND)).unwrap();
        })
        .refused(CHECKPOINT, &[SECOND, "a header of"]),
        Case::new("a file is a link in a circle", |place| {
            let folder = sharded(place);
            fs::remove_file(folder.join(SECOND)).unwrap();
            std::os::unix::fs::symlink(SECOND, folder.join(SECOND)).unwrap();
        })
        .refused(CHECKPOINT, &[SECOND]),
        Case::new("a file is a device", |place| {
            let folder = sharded(place);
            fs::remove_file(folder.join(SECOND)).unwrap();
            std::os::unix::fs::symlink("/dev/zero", folder.join(SECOND)).unwrap();
        })
        .refused(CHECKPOINT, &[SECOND, "not a regular file"]),
        Case::new("missing file", |place| {
            fs::remove_file(sharded(place).join(SECOND)).unwrap();
        })
        .refused(CHECKPOINT, &["model: no ", SECOND, "index.json names"]),
        Case::new("a tensor is absent from the file named", |place| {
            let folder = sharded(place);
            fs::copy(folder.join(FIRST), folder.join(SECOND)).unwrap();
        })
        .refused(
            CHECKPOINT,
            &[SECOND, "is not in it, though model.safetensors.index.json says so"],
        ),
        Case::new("a tensor in two files", |place| {
            let all = safetensors(Tiny::new().tensors.iter());
            fs::write(sharded(place).join(SECOND), all).unwrap();
        })
        .refused(CHECKPOINT, &[SECOND, "is also in model/model-00001-of-00002.safetensors"]),
        Case::new("total_size is wrong", |place| {
            let path = sharded(place).join("model.safetensors.index.json");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text.replace("\"metadata\":{}", "\"metadata\":{\"total_size\":1}"))
                .unwrap();
        })
        .accepted(CHECKPOINT),
        index("empty map", r#"{"weight_map":{}}"#.into())
            .refused(CHECKPOINT, &[INDEX, "no tensor"]),
        index("no map", "{}".into()).refused(CHECKPOINT, &[INDEX, "weight_map"]),
        index("map of numbers", r#"{"weight_map":{"a":1}}"#.into())
            .refused(CHECKPOINT, &[INDEX, "line 1"]),
        index("not JSON", "{\"weight_map\":{\"a\"".into()).refused(CHECKPOINT, &[INDEX, "line 1"]),
        index("empty", String::new()).refused(CHECKPOINT, &[INDEX, "line 1"]),
        index("10^6 lists", format!("{{\"x\":{}", "[".repeat(1_000_000)))
            .refused(CHECKPOINT, &[INDEX]),
        index("10^6 entries", {
            let entry = |i| format!("\"{i}\":\"a\"");
            format!(
                "{{\"weight_map\":{{{}}}}}",
                (0..1_000_000).map(entry).collect::<Vec<_>>().join(",")
            )
        })
        .refused(CHECKPOINT, &[INDEX, "more than 262144 tensors at line 1"]),
        index("names steer terminals", r#"{"weight_map":{"\u001b[2J":"\u001b[2J/"}}"#.into())
            .refused(CHECKPOINT, &[INDEX, "is said to be in"]),
        index("Git LFS pointer", "version https://git-lfs.github.com/spec/v1\n".into())
            .refused(CHECKPOINT, &[INDEX, "Git LFS"]),
    ]);
    cases
}
