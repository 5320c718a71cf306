//! PyTorch files: pickles that would run something or lie, and archives that say two things.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
};

use crate::{
    case::{CHECKPOINT, Case, checkpoint},
    harness::Place,
    support::{
        pickle::{archive, int, state_dict, tensor, tensor_of, text, zip},
        tiny::{Tiny, lonely_pth},
    },
};

const FILE: &str = "model/pytorch_model.bin: ";

pub(crate) fn cases() -> Vec<Case> {
    let sound = Case::new("sound", |place| Tiny::new().write_bin(&checkpoint(place)));
    let mut cases = vec![sound.accepted(CHECKPOINT)];
    cases.extend(calls());
    cases.extend(machines());
    cases.extend(bombs());
    cases.extend(storages());
    cases.extend(archives());
    cases.extend(entries());
    cases.extend(other_forms());
    cases
}

fn refused(name: impl Into<String>, file: Vec<u8>, place: &str) -> Case {
    Case::new(name, move |to| write(to, &file)).refused(CHECKPOINT, &[FILE, place])
}

fn write(place: &Place, file: &[u8]) {
    let folder = checkpoint(place);
    Tiny::new().write_all_but_weights(&folder);
    fs::write(folder.join("pytorch_model.bin"), file).unwrap();
}

/// A description of tensors in a sound archive.
fn pickle(name: impl Into<String>, pickle: &[u8], place: &str) -> Case {
    refused(name, archive(pickle, &[0; 8]), place)
}

/// The value of a tensor in a sound description.
fn value(name: impl Into<String>, value: &[u8], place: &str) -> Case {
    pickle(name, &state_dict("norm.weight", value), place)
}

fn calls() -> Vec<Case> {
    let argument = [text("touch owned"), b"\x85R".to_vec()].concat();
    let mut cases = Vec::new();
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "exec"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch.storage", "_load_from_bytes"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("o\u{1b}[2Js", "system"),
    ] {
        let global = [format!("c{module}\n{name}\n").into_bytes(), argument.clone()].concat();
        let on_stack = [text(module), text(name), b"\x93".to_vec(), argument.clone()].concat();
        let place = if module.contains('\u{1b}') { "at byte" } else { &format!("{module}.{name}") };
        cases.push(value(format!("GLOBAL {module} {name}"), &global, place));
        cases.push(value(format!("STACK_GLOBAL {module} {name}"), &on_stack, place));
    }
    let reduced = [b"ccollections\nOrderedDict\n".to_vec(), argument].concat();
    cases.extend([
        value("REDUCE of an allowed name with arguments", &reduced, "REDUCE"),
        value("REDUCE of a dict", b"}}R", "REDUCE"),
        value("REDUCE of a storage class", b"ctorch\nHalfStorage\n)R", "REDUCE"),
        value("INST", b"(ios\nsystem\n", "at byte"),
        value("OBJ", b"(ctorch\nHalfStorage\no", "at byte"),
        value("NEWOBJ", b"ctorch\nHalfStorage\n)\x81", "at byte"),
        value("NEWOBJ_EX", b"ctorch\nHalfStorage\n)}\x92", "at byte"),
        value("EXT1", b"\x82\x01", "at byte"),
        value("EXT2", b"\x83\x01\x00", "at byte"),
        value("EXT4", b"\x84\x01\0\0\0", "at byte"),
        value("BUILD of a tensor", &[tensor(0, &[4], &[1], 4), b"}b".to_vec()].concat(), "BUILD"),
    ]);
    cases
}

fn machines() -> Vec<Case> {
    let long1 = [&[0x8a, 255][..], &[1; 255]].concat();
    let odd_ids: [&[u8]; 4] = [b"K\x01Q", b")Q", b"(X\x07\0\0\0storageNNNNtQ", b"}Q"];
    let mut cases = vec![
        value("LONG1 with 255 bytes", &long1, "more than 64 bits"),
        value("LONG1 with 9 bytes", &[&[0x8a, 9][..], &[1; 9]].concat(), "more than 64 bits"),
        value("LONG4 of negative length", b"\x8b\xff\xff\xff\xff", "at byte"),
        value("DUP", b"N2", "at byte"),
        value("PERSID by line", b"P0\n", "at byte"),
        pickle("missing STOP", b"\x80\x02}", "pickle"),
        pickle("nothing but STOP", b".", "at byte 0"),
        pickle("empty", b"", "pickle"),
        pickle("stack underflow of TUPLE2", b"\x80\x02K\x01\x86.", "stack underflow"),
        pickle("stack underflow of TUPLE1 at a MARK", b"\x80\x02K\x01(\x85.", "stack underflow"),
        pickle("stack underflow of REDUCE", b"\x80\x02R.", "at byte 2"),
        pickle("MARK missing for TUPLE", b"\x80\x02t.", "at byte 2"),
        pickle("MARK missing for SETITEMS", b"\x80\x02}u.", "at byte 3"),
        pickle("MARK left over", b"\x80\x02(}.", "STOP leaves something"),
        pickle("key without value", b"\x80\x02}(K\x01u.", "a key without value"),
        pickle("SETITEM on a list", b"\x80\x02]K\x01K\x02s.", "SETITEM on what is no dict"),
        pickle(
            "SETITEMS on an integer",
            b"\x80\x02K\x01(K\x01K\x02u.",
            "SETITEM on what is no dict",
        ),
        pickle("APPEND to a dict", b"\x80\x02}K\x01a.", "APPEND"),
        pickle("memo entry unset", b"\x80\x02h\x05.", "memo"),
        pickle("root is an integer", b"\x80\x02K\x01.", "pickle"),
        pickle("bytes behind STOP", b"\x80\x02}.}", "STOP leaves something"),
        pickle("protocol 6", b"\x80\x06}.", "protocol"),
        pickle("text not UTF-8", b"\x80\x02X\x02\0\0\0\xff\xfe.", "UTF-8"),
        pickle("text of 2^32 - 1 bytes", b"\x80\x02X\xff\xff\xff\xff", "pickle"),
        pickle("text of 2^64 - 1 bytes", b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "pickle"),
        pickle("bytes of 2^31 bytes", b"\x80\x02B\0\0\0\x80", "pickle"),
        pickle("a line without end", b"\x80\x02ctorch", "pickle"),
    ];
    let odd = |(number, id): (usize, &&[u8])| {
        value(format!("PERSID of odd shape {number}"), id, "persistent id")
    };
    cases.extend(odd_ids.iter().enumerate().map(odd));
    let whole = state_dict("norm.weight", &tensor(0, &[4], &[1], 4));
    for end in [1, 3, 10, 30, whole.len() / 2, whole.len() - 2] {
        cases.push(pickle(format!("cut at byte {end}"), &whole[..end], "pickle"));
    }
    cases
}

fn bombs() -> Vec<Case> {
    let mega = 1_000_000;
    let bomb = |front: &[u8], unit: &[u8], count: usize, end: &[u8]| {
        archive(&[b"\x80\x02", front, &unit.repeat(count), end, b"."].concat(), &[0; 8])
    };
    let of = |name: &str, front: &[u8], unit: &[u8], count: usize, end: &[u8]| {
        refused(name, bomb(front, unit, count, end), "of the pickle")
    };
    // Nothing is wrong with it but that no tensor is there.
    let empty = |name: &str, front: &[u8], unit: &[u8], count: usize, end: &[u8]| {
        let file = bomb(front, unit, count, end);
        Case::new(name, move |to| write(to, &file))
            .refused(CHECKPOINT, &["model: tensor ", "is missing"])
    };
    vec![
        empty("memo of 10^6 entries", b"}", b"\x94", mega, b""),
        empty("memo of distant numbers", b"}", b"r\xff\xff\xff\xff", 200_000, b""),
        of("10^6 nested tuples", b")", b"\x85", mega, b""),
        empty("10^6 values", b"}(", b"N", mega, b"u"),
        of("10^6 dicts", b"](", b"}", mega, b"e"),
        of("10^6 marks", b"", b"(", mega, b""),
        of("10^6 lists, each in the one before", b"]", b"]a", mega / 2, b""),
        of("a list that holds itself", b"]q\x00", b"h\x00a", 300_000, b""),
        // Each tuple has the one before twice: 2^100000 items if any were copied.
        of("doubling", b")q\x00", b"h\x00h\x00\x86q\x00", 100_000, b""),
        of("a list is appended to itself over and over", b"]q\x00(", b"h\x00", 400_000, b"e"),
        refused(
            "longer than any description",
            bomb(b"", b"N", 5 << 20, b""),
            "an archive whose data.pkl is larger than 1 MiB",
        ),
        of(
            "10^5 tensors of one name",
            b"}(",
            &[text("a"), tensor(0, &[4], &[1], 4)].concat(),
            6_000,
            b"u",
        ),
    ]
}

fn storages() -> Vec<Case> {
    let of = |name: &str, offset, shape: &[i32], stride: &[i32], elements, place: &str| {
        value(name, &tensor(offset, shape, stride, elements), place)
    };
    let long = |n: u64| [&[0x8a, 8][..], &n.to_le_bytes()].concat();
    let changed = |from: &[u8], to: &[u8]| {
        let whole = tensor(0, &[4], &[1], 4);
        let at = whole.windows(from.len()).rposition(|window| window == from).unwrap();
        [&whole[..at], to, &whole[at + from.len()..]].concat()
    };
    // The first `4` is the number of elements, the last the extent.
    let elements = |n: u64| {
        let whole = tensor(0, &[4], &[1], 4);
        let four = int(4);
        let at = whole.windows(5).position(|window| window == four).unwrap();
        [&whole[..at], &long(n), &whole[at + 5..]].concat()
    };
    let storage = "norm.weight";
    vec![
        of("offset + extent beyond the storage", 1, &[4], &[1], 4, "beyond its storage"),
        of("stride beyond the storage", 0, &[2, 2], &[3, 1], 4, "beyond its storage"),
        of("size x stride overflows", 0, &[i32::MAX, 2], &[i32::MAX, 1], 4, "beyond its storage"),
        of("shape overflows", 0, &[i32::MAX; 8], &[0; 8], 4, "are not rows"),
        of("columns first", 0, &[2, 2], &[1, 2], 4, "are not rows"),
        of("rows over one another", 0, &[1 << 20, 4], &[0, 1], 4, "are not rows"),
        of("extent 0", 0, &[0], &[1], 4, "holds no weights"),
        of("stored size is another", 0, &[4], &[1], 5, "has 8 bytes"),
        of("numel 2^31 - 1", 0, &[4], &[1], i32::MAX, "has 8 bytes"),
        of("negative offset", -1, &[4], &[1], 4, "no count"),
        of("negative extent", 0, &[-4], &[1], 4, "no count"),
        of("negative stride", 0, &[4], &[-1], 4, "no count"),
        of("negative numel", 0, &[4], &[1], -4, "negative number of elements"),
        of("more strides than extents", 0, &[4], &[1, 1], 4, "more extents than strides"),
        value("numel 2^63", &elements(1 << 63), "negative number of elements"),
        value("numel 2^63 - 1", &elements((1 << 63) - 1), storage),
        value("numel 2^62, whose bytes wrap", &elements(1 << 62), storage),
        value("extent 2^63 - 1", &changed(&int(4), &long((1 << 63) - 1)), storage),
        value("unknown storage type", &replaced("BFloat16Storage", "QInt8Storage"), "QInt8Storage"),
        value("storage of another size", &replaced("BFloat16Storage", "LongStorage"), storage),
        value("storage key ../x", &tensor_of("../x", 0, &[4], &[1], 4), storage),
        value("storage key /etc/passwd", &tensor_of("/etc/passwd", 0, &[4], &[1], 4), storage),
        value("storage key of terminals", &tensor_of("\u{1b}[2J", 0, &[4], &[1], 4), storage),
        value("storage that is not there", &tensor_of("7", 0, &[4], &[1], 4), storage),
    ]
}

fn replaced(from: &str, to: &str) -> Vec<u8> {
    let whole = tensor(0, &[4], &[1], 4);
    let at = whole.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    [&whole[..at], to.as_bytes(), &whole[at + from.len()..]].concat()
}

/// Bytes of a sound archive, one of which lies.
fn archives() -> Vec<Case> {
    let sound = lonely_pth();
    let find = |needle: &[u8]| sound.windows(needle.len()).position(|w| w == needle).unwrap();
    let (central, end) = (find(b"PK\x01\x02"), find(b"PK\x05\x06"));
    let changed = |name: &str, at: usize, value: u8| {
        let mut file = sound.clone();
        file[at] = value;
        let place = match name.split_once(':') {
            Some(("EOCD", " a comment")) => "no ZIP directory at the end",
            Some(("EOCD", _)) => "damaged ZIP directory: ",
            _ => "entry \"",
        };
        refused(name, file, place)
    };
    let cut = |name: &str, end: usize| refused(name, sound[..end].to_vec(), "");
    let mut crc = sound.clone();
    crc[14] = 1;
    let zip64 = {
        // Sizes that are in an extra field which is not there.
        let mut file = sound.clone();
        file[central + 20..central + 28].fill(0xff);
        file
    };
    vec![
        changed("local flags: encrypted", 6, 1),
        changed("central flags: encrypted", central + 8, 1),
        changed("central flags: sizes follow", central + 8, 8),
        changed("local method: deflated", 8, 8),
        changed("central method: deflated", central + 10, 8),
        changed("local and central size differ", 18, 7),
        changed("local and central name differ", 30, b'n'),
        changed("central and local name differ", central + 46, b'n'),
        changed("central size is another", central + 20, 7),
        changed("central offset is another", central + 42, 1),
        changed("EOCD: another disk", end + 4, 1),
        changed("EOCD: entries of this disk", end + 8, 3),
        changed("EOCD: entries", end + 10, 3),
        changed("EOCD: size of the directory", end + 12, 3),
        changed("EOCD: start of the directory", end + 16, 3),
        changed("EOCD: a comment", end + 20, 1),
        cut("no EOCD", end),
        cut("EOCD cut", end + 20),
        cut("cut in the directory", central + 10),
        refused("zip64 sizes without zip64", zip64, "lacks its 64-bit sizes"),
        refused("zip64 end that lies", zip64_end(&sound, end), "damaged ZIP directory: "),
        refused(
            "bytes behind the archive",
            [&sound[..], b"PK"].concat(),
            "more bytes follow its end",
        ),
        refused(
            "bytes before the archive",
            [b"PK\x03\x04", &sound[..]].concat(),
            "damaged ZIP directory: ",
        ),
        // PyTorch can be told to leave the sum out; what is read is checked by its content.
        Case::new("CRC wrong", move |place| write(place, &crc))
            .refused(CHECKPOINT, &["model", "is missing"]),
    ]
}

/// The archive with a zip64 end record that counts 2^63 entries.
fn zip64_end(sound: &[u8], end: usize) -> Vec<u8> {
    let record = [
        &b"PK\x06\x06"[..],
        &44u64.to_le_bytes(),
        &[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &(1u64 << 63).to_le_bytes(),
        &(1u64 << 63).to_le_bytes(),
        &u64::MAX.to_le_bytes(),
        &u64::MAX.to_le_bytes(),
    ]
    .concat();
    let locator =
        [&b"PK\x06\x07"[..], &[0; 4], &(end as u64).to_le_bytes(), &[1, 0, 0, 0]].concat();
    let mut tail = sound[end..].to_vec();
    tail[8..20].fill(0xff);
    [&sound[..end], &record, &locator, &tail].concat()
}

fn entries() -> Vec<Case> {
    let none = state_dict("a", b"N");
    let of =
        |name: &str, entries: &[(&str, &[u8])], place: &str| refused(name, zip(entries), place);
    vec![
        of("data.pkl absent", &[("m/version", b"3")], "data.pkl"),
        of("data.pkl twice", &[("m/data.pkl", &none), ("m/data.pkl", &none)], "data.pkl"),
        of("data.pkl in two folders", &[("m/data.pkl", &none), ("n/data.pkl", &none)], ""),
        of(
            "a storage twice",
            &[("m/data.pkl", &none), ("m/data/0", b""), ("m/data/0", b"")],
            "data/0",
        ),
        of("byteorder big", &[("m/data.pkl", &none), ("m/byteorder", b"big")], "big"),
        of("prefix absent", &[("data.pkl", &none)], ""),
        of("prefixes mixed", &[("m/data.pkl", &none), ("n/data/0", b"")], ""),
        // No name becomes a path: what is wrong is that no tensor is there.
        Case::new("name escapes", move |place| {
            write(place, &zip(&[("m/data.pkl", &state_dict("a", b"N")), ("m/../../x", b"")]));
        })
        .refused(CHECKPOINT, &["model: tensor ", "is missing"]),
        of("name steers terminals", &[("m/\u{1b}[2J", b""), ("m/\u{1b}[2J", b"")], "twice"),
        of("no entry", &[], ""),
        Case::new("zip bomb of 10 GB", |place| {
            let folder = checkpoint(place);
            Tiny::new().write_all_but_weights(&folder);
            fs::write(folder.join("pytorch_model.bin"), deflated_bomb()).unwrap();
        })
        .refused(CHECKPOINT, &[FILE, "compressed"]),
        Case::new("data.pkl of 1 GB", |place| {
            let folder = checkpoint(place);
            Tiny::new().write_all_but_weights(&folder);
            write_sparse(&folder.join("pytorch_model.bin"));
        })
        .refused(CHECKPOINT, &[FILE]),
    ]
}

/// An archive whose description is said to be 10 MB that inflate to 10 GB.
fn deflated_bomb() -> Vec<u8> {
    let mut file = zip(&[("m/data.pkl", &[0; 10_000])]);
    let find =
        |file: &[u8], needle: &[u8]| file.windows(4).rposition(|window| window == needle).unwrap();
    let central = find(&file, b"PK\x01\x02");
    let inflated = (u32::MAX - 1).to_le_bytes();
    file[8] = 8;
    file[22..26].copy_from_slice(&inflated);
    file[central + 10] = 8;
    file[central + 24..central + 28].copy_from_slice(&inflated);
    file
}

/// An archive whose description is a gigabyte of zeros, stored in a hole of the file.
fn write_sparse(path: &std::path::Path) {
    const HOLE: u32 = 1 << 30;
    let name = "m/data.pkl";
    let small = zip(&[(name, b"")]);
    let split = 30 + name.len();
    let (local, rest) = small.split_at(split);
    let (mut local, mut rest) = (local.to_vec(), rest.to_vec());
    let size = HOLE.to_le_bytes();
    local[18..22].copy_from_slice(&size);
    local[22..26].copy_from_slice(&size);
    rest[20..24].copy_from_slice(&size);
    rest[24..28].copy_from_slice(&size);
    let end = rest.len() - 22;
    rest[end + 16..end + 20].copy_from_slice(&(split as u32 + HOLE).to_le_bytes());
    let mut file = File::create(path).unwrap();
    file.write_all(&local).unwrap();
    file.seek(SeekFrom::Current(HOLE.into())).unwrap();
    file.write_all(&rest).unwrap();
}

fn other_forms() -> Vec<Case> {
    let legacy = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    vec![
        refused("legacy magic", legacy.to_vec(), "before 1.6"),
        refused("tar", tar, "tar"),
        refused("Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "LFS"),
        refused("empty", Vec::new(), ""),
        refused("two bytes of a zip", b"PK".to_vec(), ""),
        refused("a GGUF file", b"GGUF\x03\0\0\0".to_vec(), ""),
    ]
}
