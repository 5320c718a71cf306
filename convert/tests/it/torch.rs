//! PyTorch files: what is read, and that nothing is executed.

use std::fs;

use llq_convert::{Error, PickleError, Request, TorchError, ZipError};
use llq_fixtures::fixture;
use proptest::prelude::*;

use crate::support::{
    assert_says, converted_model, failure, meta,
    pickle::{archive, int, state_dict, tensor, text, zip},
    tiny::{Tiny, lonely_pth, write_meta},
};

/// What happens to a Meta folder with this `.pth`.
fn error_of(pth: &[u8]) -> Error {
    let folder = tempfile::tempdir().unwrap();
    write_meta(folder.path(), pth);
    failure(folder.path(), &Request::default())
}

#[track_caller]
fn problem(pth: &[u8]) -> TorchError {
    match error_of(pth) {
        Error::Torch { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

#[track_caller]
fn pickle_problem(pickle: &[u8]) -> PickleError {
    match problem(&archive(pickle, &[0; 8])) {
        TorchError::Pickle(problem) => problem,
        other => panic!("{other}"),
    }
}

#[test]
fn the_builder_of_these_tests_writes_what_is_read() {
    // All that is wrong with this file is that it is no whole model.
    assert!(matches!(error_of(&lonely_pth()), Error::MissingTensor { .. }));
}

#[test]
fn a_pickle_that_would_run_code_is_refused_by_name() {
    let mut call = b"cos\nsystem\n(".to_vec();
    call.extend(text("touch /tmp/llq-was-here"));
    call.extend(b"tR");
    let pth = archive(&state_dict("weight", &call), &[0; 8]);
    let error = error_of(&pth);
    assert_says(&error, &["consolidated.00.pth", "os.system", "at byte"]);
    let Error::Torch { problem: TorchError::Pickle(PickleError::Global { at, .. }), .. } = error
    else {
        panic!("{error}")
    };
    assert_eq!(at, 4 + 5 + "weight".len());
}

#[test]
fn only_names_of_weights_are_allowed() {
    let names = [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "exec"),
        ("posix", "system"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch.storage", "_load_from_bytes"),
        ("numpy.core.multiarray", "_reconstruct"),
    ];
    for (module, name) in names {
        let global = format!("c{module}\n{name}\n").into_bytes();
        let stack_global = [text(module), text(name), b"\x93".to_vec()].concat();
        for value in [global, stack_global] {
            let problem = pickle_problem(&state_dict("a", &value));
            assert!(matches!(problem, PickleError::Global { .. }), "{module}.{name}: {problem}");
        }
    }
}

#[test]
fn opcodes_that_no_weights_need_are_refused() {
    // INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1, EXT2, EXT4, PERSID, DUP, POP, PUT, LONG4, …
    for opcode in *b"io\x81\x92\x82\x83\x84P201pg\x8bISVUTFLdl\x8f\x90\x91\x96\x97\x98" {
        let problem = pickle_problem(&[0x80, 2, opcode, 1, 1, 1, 1, b'\n', b'.']);
        assert!(matches!(problem, PickleError::Opcode { .. }), "{opcode:#x}: {problem}");
    }
}

#[test]
fn malformed_pickles_are_refused() {
    let long = |bytes: u8| [&[0x80, 2, 0x8a, bytes][..], &[1; 255][..bytes.into()], b"."].concat();
    let odd_id = [b"\x80\x02}(".to_vec(), text("a"), text("id"), b"Qu.".to_vec()].concat();
    let malformed: Vec<Vec<u8>> = vec![
        b"\x80\x06}.".to_vec(),
        // Stack and marks.
        b".".to_vec(),
        b"t.".to_vec(),
        b"\x85.".to_vec(),
        b"K\x01\x86.".to_vec(),
        b"K\x01(\x85.".to_vec(),
        b"}u.".to_vec(),
        b"}(K\x01u.".to_vec(),
        b"K\x01(.".to_vec(),
        b"}}.".to_vec(),
        b"}.}".to_vec(),
        b"q\x00.".to_vec(),
        b"h\x05.".to_vec(),
        // Dict operations on what is no dict, and the other way.
        b"](K\x01K\x02u.".to_vec(),
        b"]K\x01K\x02s.".to_vec(),
        b"}K\x01a.".to_vec(),
        b"]}b.".to_vec(),
        // Calls.
        b"}}R.".to_vec(),
        b"})R.".to_vec(),
        b"ccollections\nOrderedDict\n}R.".to_vec(),
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.".to_vec(),
        b"ctorch\nHalfStorage\n)R.".to_vec(),
        odd_id,
        // Roots that are no dict.
        b"K\x01.".to_vec(),
        b"].".to_vec(),
        long(9),
        long(255),
        b"X\x02\0\0\0\xff\xfe.".to_vec(),
    ];
    for pickle in malformed {
        let problem = pickle_problem(&pickle);
        assert!(matches!(problem, PickleError::Malformed { .. }), "{pickle:?}: {problem}");
    }
    let cut = state_dict("norm.weight", &tensor(0, &[4], &[1], 4));
    for length in 0..cut.len() {
        pickle_problem(&cut[..length]);
    }
    for claims in
        [&b"X\xff\xff\xff\xff"[..], b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", b"B\xff\xff\xff\x7f"]
    {
        assert!(matches!(pickle_problem(claims), PickleError::Truncated { .. }));
    }
}

#[test]
fn bombs_stay_small() {
    // A million nested tuples, lists that hold themselves, memo entries without end.
    let nested = [&b"\x80\x02)"[..], &[0x85; 1_000_000], b"."].concat();
    let list = [&b"\x80\x02]q\x00"[..], &b"h\x00a".repeat(300_000), b"."].concat();
    let memo = [&b"\x80\x02}"[..], &[0x94; 1_000_000], b"."].concat();
    pickle_problem(&nested);
    pickle_problem(&list);
    assert!(matches!(error_of(&archive(&memo, &[0; 8])), Error::MissingTensor { .. }));
    // A description longer than any model's.
    let huge = [b"\x80\x02".to_vec(), vec![b'N'; 5 << 20], b".".to_vec()].concat();
    assert!(matches!(problem(&archive(&huge, &[0; 8])), TorchError::Form(_)));
}

#[test]
fn tensors_must_lie_in_their_storage() {
    type Extents = &'static [i32];
    let cases: [(&str, i32, Extents, Extents, i32); 10] = [
        ("beyond its storage", 1, &[4], &[1], 4),
        ("beyond its storage", 0, &[2, 2], &[3, 1], 4),
        ("beyond its storage", 0, &[i32::MAX, 2], &[i32::MAX, 1], 4),
        ("are not rows", 0, &[i32::MAX; 8], &[0; 8], 4),
        ("are not rows", 0, &[2, 2], &[1, 2], 4),
        ("are not rows", 0, &[1 << 20, 4], &[0, 1], 4),
        ("are not rows", 0, &[2, 1, 2], &[1, 2, 1], 4),
        ("holds no weights", 0, &[0], &[1], 4),
        ("has 8 bytes", 0, &[4], &[1], 5),
        ("has 8 bytes", 0, &[4], &[1], i32::MAX),
    ];
    for (expected, offset, shape, stride, elements) in cases {
        let pickle = state_dict("norm.weight", &tensor(offset, shape, stride, elements));
        match problem(&archive(&pickle, &[0; 8])) {
            TorchError::Tensor { problem, .. } => {
                assert!(problem.contains(expected), "{shape:?}: {problem}");
            }
            other => panic!("{shape:?}: {other}"),
        }
    }
    for (offset, shape, stride) in [(-1, [4], [1]), (0, [-4], [1]), (0, [4], [-1])] {
        let problem = pickle_problem(&state_dict("a", &tensor(offset, &shape, &stride, 4)));
        assert!(matches!(problem, PickleError::Malformed { .. }));
    }
    let negative = pickle_problem(&state_dict("a", &tensor(0, &[4], &[1], -4)));
    assert!(matches!(negative, PickleError::Malformed { .. }));
    let uneven = pickle_problem(&state_dict("a", &tensor(0, &[4], &[1, 1], 4)));
    assert!(matches!(uneven, PickleError::Malformed { .. }));

    let escaping = state_dict("norm.weight", &tensor(0, &[4], &[1], 4));
    let at = escaping.windows(6).position(|w| w == b"X\x01\0\0\x000").unwrap();
    let escaping = [&escaping[..at], &text("../x"), &escaping[at + 6..]].concat();
    assert!(matches!(problem(&archive(&escaping, &[0; 8])), TorchError::Tensor { .. }));
    let twice = [
        b"\x80\x02}(".to_vec(),
        text("a"),
        tensor(0, &[4], &[1], 4),
        text("a"),
        tensor(0, &[4], &[1], 4),
        b"u.".to_vec(),
    ]
    .concat();
    assert!(matches!(pickle_problem(&twice), PickleError::Malformed { .. }));
}

#[test]
fn a_small_file_is_not_many_tensors_over_the_same_bytes() {
    let shared = |tensors: usize| {
        let mut pickle = b"\x80\x02}(".to_vec();
        for index in 0..tensors {
            pickle.extend(text(&format!("layers.{index}.w")));
            pickle.extend(tensor(0, &[50, 1000], &[1000, 1], 50_000));
        }
        pickle.extend(b"u.");
        archive(&pickle, &[0; 100_000])
    };
    // An embedding that is the output matrix too.
    assert!(!error_of(&shared(2)).to_string().contains("share"));
    let problem = problem(&shared(6));
    assert!(matches!(problem, TorchError::Form(form) if form.contains("share")), "{problem}");
}

#[test]
fn other_forms_are_named() {
    let legacy = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    assert!(matches!(problem(legacy), TorchError::Form(form) if form.contains("before 1.6")));
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(matches!(problem(&tar), TorchError::Form(form) if form.contains("tar")));
    let pointer = b"version https://git-lfs.github.com/spec/v1\n";
    assert!(matches!(problem(pointer), TorchError::Form(form) if form.contains("LFS")));
    for bytes in [&b""[..], b"PK", b"GGUF", &[0; 600]] {
        assert!(matches!(problem(bytes), TorchError::Form(_)));
    }
}

#[test]
fn archives_that_two_readers_could_read_in_two_ways_are_refused() {
    let sound = lonely_pth();
    let find = |needle: &[u8]| sound.windows(needle.len()).position(|w| w == needle).unwrap();
    let central = find(b"PK\x01\x02");
    let end = find(b"PK\x05\x06");
    // Byte offset, new value: flags, method, sizes and names in one of the two headers, counts.
    let changes = [
        (6, 1),
        (8, 8),
        (18, 7),
        (22, 7),
        (30, b'n'),
        (central + 8, 1),
        (central + 8, 8),
        (central + 10, 8),
        (central + 20, 7),
        (central + 24, 7),
        (central + 42, 1),
        (central + 46, b'n'),
        (end + 4, 1),
        (end + 8, 3),
        (end + 10, 3),
        (end + 12, 3),
        (end + 16, 3),
        (end + 20, 1),
    ];
    for (at, value) in changes {
        let mut damaged = sound.clone();
        damaged[at] = value;
        assert!(matches!(problem(&damaged), TorchError::Zip(_)), "byte {at}");
    }
    let pickle = state_dict("a", b"N");
    let twice = zip(&[("m/data.pkl", &pickle), ("m/data.pkl", &pickle)]);
    assert!(matches!(problem(&twice), TorchError::Zip(ZipError::Entry { .. })));
    let archives: [&[(&str, &[u8])]; 4] = [
        &[("m/version", b"3")],
        &[("data.pkl", &pickle)],
        &[("m/data.pkl", &pickle), ("n/data/0", b"")],
        &[("m/data.pkl", &pickle), ("m/byteorder", b"big")],
    ];
    for entries in archives {
        assert!(matches!(problem(&zip(entries)), TorchError::Form(_)));
    }
    let trailing = [&sound[..], b"PK"].concat();
    assert!(matches!(problem(&trailing), TorchError::Zip(ZipError::Directory(_))));
    let leading = [&b"PK\x03\x04"[..], &sound].concat();
    assert!(matches!(problem(&leading), TorchError::Zip(_)));
}

#[test]
fn a_truncated_file_is_refused() {
    let whole = fs::read(fixture("tiny-llama-2/meta/consolidated.00.pth")).unwrap();
    for length in [10, 1000, whole.len() / 2, whole.len() - 1] {
        problem(&whole[..length]);
    }
}

#[test]
fn values_that_are_no_tensors_are_passed_over() {
    let pickle = state_dict("step", &int(3));
    assert!(matches!(error_of(&archive(&pickle, &[0; 8])), Error::MissingTensor { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_pickle_makes_it_panic(pickle in prop::collection::vec(opcode(), 0..40)) {
        error_of(&archive(&pickle.concat(), &[0; 8]));
    }

    #[test]
    fn no_damage_makes_it_panic(at in 0..1000usize, value: u8) {
        let mut pth = lonely_pth();
        let at = at % pth.len();
        pth[at] = value;
        error_of(&pth);
    }
}

/// Pieces of pickles, more often sound than random bytes are.
fn opcode() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<Vec<u8>> = vec![
        b"\x80\x02".to_vec(),
        b"}".to_vec(),
        b"]".to_vec(),
        b")".to_vec(),
        b"(".to_vec(),
        b"t".to_vec(),
        b"\x85".to_vec(),
        b"\x86".to_vec(),
        b"u".to_vec(),
        b"s".to_vec(),
        b"a".to_vec(),
        b"e".to_vec(),
        b"b".to_vec(),
        b"Q".to_vec(),
        b"R".to_vec(),
        b".".to_vec(),
        b"q\x00".to_vec(),
        b"h\x00".to_vec(),
        b"\x94".to_vec(),
        text("storage"),
        int(3),
        b"ctorch\nHalfStorage\n".to_vec(),
        b"ccollections\nOrderedDict\n".to_vec(),
        tensor(0, &[2, 2], &[2, 1], 4),
    ];
    prop_oneof![9 => prop::sample::select(pieces), 1 => prop::collection::vec(any::<u8>(), 1..4)]
}

#[test]
fn the_files_of_a_whole_model_are_read_at_strides() {
    // The fixture's weights as rows of a wider storage, and as a view that starts inside it.
    let folder = tempfile::tempdir().unwrap();
    let (plain, wide) = (folder.path().join("plain"), folder.path().join("wide"));
    for path in [&plain, &wide] {
        fs::create_dir(path).unwrap();
    }
    write_meta(&plain, &whole_model(0));
    write_meta(&wide, &whole_model(5));
    let plain = converted_model(&plain, &Request::default());
    let wide = converted_model(&wide, &Request::default());
    for tensor in plain.tensors() {
        assert!(plain.data(tensor) == wide.data(wide.tensor(&tensor.name).unwrap()));
    }
}

/// All tensors of the small model, with gaps between their rows.
fn whole_model(gap: u64) -> Vec<u8> {
    let tensors = Tiny::new().tensors;
    meta::pth(tensors.iter().map(|(name, tensor)| (meta::meta_name(name), tensor)), gap)
}
