//! Disks that fail: of every command that writes, each system call is refused in turn, and all of its
//! kind that follow. Either the command does its work all the same, or there is one message, exit code
//! 2 and nothing that was not there before.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::{
    harness::{Outcome, Place},
    support::{converted, lora::Made, request, tiny::Tiny},
};

/// Calls, and how they are refused: no space left (28) or an error of the device (5).
const REFUSALS: &[(&str, i32)] = &[
    ("read", 5),
    ("pread64", 5),
    ("write", 28),
    ("write", 5),
    ("pwrite64", 28),
    ("pwrite64", 5),
    ("fsync", 5),
    ("fdatasync", 5),
    ("ftruncate64", 28),
    ("flock", 5),
];

const LINES: &[&str] = &[
    "convert model -o out.gguf --type q8_0",
    "convert model -o out.gguf --lora adapter",
    "quantize m.gguf -o out.gguf --type q8_0 --no-check",
    "quantize m.gguf -o out.gguf --type q8_0 --no-check --resume",
    "split m.gguf -o out.gguf --max-tensors 5",
    "merge p-00001-of-00002.gguf -o out.gguf",
    "edit m.gguf --set general.name=a-longer-name-than-there-was",
    "edit m.gguf --set general.name=x",
    "imatrix m.gguf --corpus text --ctx 8 -o out.gguf",
    "perplexity m.gguf --corpus text --ctx 8 --save-logits out.logits",
];

/// The library to preload; `None`, with a printed line, where it cannot be built.
fn injector() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/inject.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("inject.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
        compiler.output().is_ok_and(|output| output.status.success()).then_some(library)
    });
    if built.is_none() {
        llq_fixtures::skipped("no C compiler that builds what refuses system calls");
    }
    built.as_deref()
}

#[test]
fn every_system_call_may_fail() {
    let Some(library) = injector() else { return };
    let mut faults = 0;
    for line in LINES {
        let place = prepared();
        let before = snapshot(&place);
        place.run(line).ok();
        let whole = snapshot(&place);
        restore(&place, &before);
        for &(call, errno) in REFUSALS {
            for from in 0.. {
                let what = format!("llq {line}, {call} number {from} refused with {errno}");
                let mark = place.path(".mark");
                let mut command = place.command();
                command.args(line.split(' ')).env("LD_PRELOAD", library);
                command.env("FAULT_CALL", call).env("FAULT_FROM", from.to_string());
                command.env("FAULT_ERRNO", errno.to_string()).env("FAULT_MARK", &mark);
                let outcome = Outcome::of(&mut command);
                let injected = fs::remove_file(&mark).is_ok();
                check(&outcome, &snapshot(&place), &before, &whole, &what);
                if line.contains("--resume") && !place.path("out.gguf").exists() {
                    // The disk is well again.
                    place.run(line).ok();
                    assert!(snapshot(&place) == whole, "{what}: not resumed");
                }
                restore(&place, &before);
                if !injected {
                    assert_eq!(outcome.code, Some(0), "{what}\n{outcome}");
                    break;
                }
                faults += 1;
            }
        }
    }
    // The macros' output is captured while a test passes; this is to be seen.
    let _ = writeln!(io::stdout(), "system calls refused: {faults}, in {} commands", LINES.len());
}

type Files = Vec<(PathBuf, Vec<u8>)>;

#[track_caller]
fn check(outcome: &Outcome, after: &Files, before: &Files, whole: &Files, what: &str) {
    let names = |files: &Files| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    match outcome.code {
        Some(0) => {
            // Of its folder a run with --resume may leave the lock, which the next takes away.
            let made: Files = after.iter().filter(|(path, _)| !is_resumed(path)).cloned().collect();
            assert!(made == *whole, "{what}: {:?}\n{outcome}", names(after));
        }
        Some(2) => {
            assert_eq!(outcome.stderr.matches("error: ").count(), 1, "{what}\n{outcome}");
            // What was all written and only could not be synced at its place stays.
            // So does what --resume goes on with.
            let is_kept = |file: &(PathBuf, Vec<u8>)| {
                before.contains(file) || whole.contains(file) || is_resumed(&file.0)
            };
            assert!(after.iter().all(is_kept), "{what}: {:?}\n{outcome}", names(after));
            assert!(names(before).iter().all(|name| names(after).contains(name)), "{what}");
        }
        _ => panic!("{what}\n{outcome}"),
    }
}

fn is_resumed(path: &Path) -> bool {
    path.parent().is_some_and(|folder| folder.ends_with(".llq-out.gguf.resume"))
}

/// What the commands work on.
fn prepared() -> Place {
    let place = Place::new();
    for folder in ["model", "adapter"] {
        fs::create_dir(place.path(folder)).unwrap();
    }
    Tiny::new().write(&place.path("model"));
    Made::new(1).write(&place.path("adapter"));
    place.write("m.gguf", converted(&place.path("model"), &request(llq_quant::mix::Mix::F32)));
    place.write("text", "abcdefghijklm".repeat(3));
    place.run("split m.gguf -o p.gguf --max-tensors 12").ok();
    place
}

fn snapshot(place: &Place) -> Files {
    let mut files = Vec::new();
    let mut folders = vec![place.path("")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                files.push((path, bytes));
            }
        }
    }
    files.sort();
    files
}

/// The folder as it was.
fn restore(place: &Place, before: &Files) {
    for (path, bytes) in snapshot(place) {
        if !before.contains(&(path.clone(), bytes)) {
            fs::remove_file(path).unwrap();
        }
    }
    for (path, bytes) in before {
        if !path.exists() {
            fs::write(path, bytes).unwrap();
        }
    }
    for name in place.files().iter().filter(|name| name.starts_with(".llq-")) {
        fs::remove_dir_all(place.path(name)).unwrap();
    }
}
