//! What is left when a run is killed, the disk refuses or the input changes: the old file or the new
//! one, never half of one, and nothing that the next run does not remove.
#![cfg(unix)]

use std::{
    fs::{self, OpenOptions},
    process::{Child, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::harness::{Outcome, Place, tiny_gguf};

/// Slow enough that it can be met at work.
const SLOW: &str =
    "quantize tiny.gguf -o out.gguf --type q2_k --effort best --threads 1 --no-check -q";

fn tiny() -> Place {
    let place = Place::new();
    fs::copy(tiny_gguf(), place.path("tiny.gguf")).unwrap();
    place
}

fn start(place: &Place, line: &str) -> Child {
    let mut command = place.command();
    command.args(line.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Runs killed at many moments, from before the first byte to after the last.
#[test]
fn kill_leaves_no_half_file() {
    let place = tiny();
    place.run(&SLOW.replace("out.gguf", "whole.gguf")).ok();
    let whole = fs::read(place.path("whole.gguf")).unwrap();
    fs::remove_file(place.path("whole.gguf")).unwrap();
    for wait in (0..20).map(|i| i * i * 3) {
        let mut run = start(&place, &format!("{SLOW} --force"));
        sleep(Duration::from_millis(wait));
        run.kill().unwrap();
        run.wait().unwrap();
        if let Ok(found) = fs::read(place.path("out.gguf")) {
            assert!(found == whole, "half a file after {wait} ms");
            fs::remove_file(place.path("out.gguf")).unwrap();
        }
    }
    assert!(fs::read(place.path("tiny.gguf")).unwrap() == fs::read(tiny_gguf()).unwrap());
    // What is left now was left by the last run at most.
    let partial = |name: &String| name.ends_with(".partial");
    assert!(place.files().iter().filter(|name| partial(name)).count() <= 1, "{:?}", place.files());
    place.run(SLOW).ok();
    assert_eq!(place.files(), ["out.gguf", "tiny.gguf"]);
    assert!(fs::read(place.path("out.gguf")).unwrap() == whole);
}

/// A run does not take away what another is writing beside it.
#[test]
fn runs_side_by_side_leave_each_other_alone() {
    let place = tiny();
    let mut first = start(&place, SLOW);
    for name in ["a.gguf", "b.gguf", "c.gguf"] {
        place.run(&format!("quantize tiny.gguf -o {name} --type q8_0 --no-check -q")).ok();
    }
    assert!(first.wait().unwrap().success());
    assert_eq!(place.files(), ["a.gguf", "b.gguf", "c.gguf", "out.gguf", "tiny.gguf"]);
}

/// A limit on the size of files refuses like a full disk.
#[test]
fn a_refused_write_leaves_nothing() {
    let place = tiny();
    for (line, blocks) in [
        ("quantize tiny.gguf -o out.gguf --type q8_0", 2000),
        ("convert tiny.gguf -o out.gguf", 9000),
        ("split tiny.gguf -o out.gguf --max-size 8M", 9000),
        ("edit tiny.gguf --set general.name=a-longer-name-than-there-is-room-for", 9000),
        ("imatrix tiny.gguf --corpus text -o out.gguf", 20),
    ] {
        fs::copy(crate::harness::corpus(), place.path("text")).unwrap();
        let mut shell = std::process::Command::new("sh");
        shell
            .current_dir(place.path(""))
            .arg("-c")
            .arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" {line}"));
        shell.arg(assert_cmd::cargo::cargo_bin!("llq"));
        let outcome = Outcome::of(&mut shell);
        assert_eq!(outcome.code, Some(2), "{line}\n{outcome}");
        assert_eq!(outcome.stderr.matches("error: ").count(), 1, "{line}\n{outcome}");
        assert_eq!(place.files(), ["text", "tiny.gguf"], "{line}");
        assert!(fs::read(place.path("tiny.gguf")).unwrap() == fs::read(tiny_gguf()).unwrap());
    }
}

/// Whoever writes to a model that is read breaks the rule of memory maps: the run may end by a signal
/// or an error, but no file gets a name that is not what the input was. Quantizing copies from the
/// file, evaluating reads it through the map.
#[test]
fn an_input_cut_while_it_is_read_gives_no_file() {
    let place = tiny();
    fs::copy(crate::harness::corpus(), place.path("text")).unwrap();
    let evaluating = "--corpus text --chunks 4 --threads 1 -q";
    for line in [
        SLOW,
        &format!("imatrix tiny.gguf {evaluating} -o out.gguf"),
        &format!("perplexity tiny.gguf {evaluating} --save-logits out.gguf"),
    ] {
        place.run(&format!("{} --force", line.replace("out.gguf", "whole.gguf"))).ok();
        let whole = fs::read(place.path("whole.gguf")).unwrap();
        for wait in [5, 20, 60, 150, 400] {
            fs::copy(tiny_gguf(), place.path("tiny.gguf")).unwrap();
            let mut run = start(&place, &format!("{line} --force"));
            sleep(Duration::from_millis(wait));
            let input = OpenOptions::new().write(true).open(place.path("tiny.gguf")).unwrap();
            input.set_len(5_000_000).unwrap();
            let ended = run.wait().unwrap();
            match fs::read(place.path("out.gguf")) {
                Ok(found) => assert!(ended.success() && found == whole, "{line} after {wait} ms"),
                Err(_) => assert!(!ended.success(), "{line} after {wait} ms"),
            }
            let _ = fs::remove_file(place.path("out.gguf"));
        }
        fs::copy(tiny_gguf(), place.path("tiny.gguf")).unwrap();
    }
    // A signal leaves a temporary file, which the next run there takes away.
    place.run("quantize tiny.gguf -o out.gguf --type q8_0 --no-check -q").ok();
    assert_eq!(place.files(), ["out.gguf", "text", "tiny.gguf", "whole.gguf"]);
}

/// Ctrl-C at many moments: exit code 130, and nothing is left but what was complete by then.
#[test]
fn an_interrupted_run_leaves_nothing() {
    let place = tiny();
    fs::copy(crate::harness::corpus(), place.path("text")).unwrap();
    for (line, files) in [
        (SLOW, 1),
        ("split tiny.gguf -o out.gguf --max-size 4M -q", 4),
        ("imatrix tiny.gguf --corpus text --threads 1 -o out.gguf -q", 1),
    ] {
        for wait in [30, 60, 120, 250] {
            let mut run = start(&place, line);
            sleep(Duration::from_millis(wait));
            let id = run.id().to_string();
            std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
            let ended = run.wait().unwrap();
            let is_output = |name: &String| name.starts_with("out");
            let (made, others): (Vec<_>, Vec<_>) = place.files().into_iter().partition(is_output);
            assert_eq!(others, ["text", "tiny.gguf"], "{line} after {wait} ms");
            // It may come when all is in place already.
            let is_whole = made.len() == files;
            match ended.code() {
                Some(130) => {
                    assert!(made.is_empty() || is_whole, "{line} after {wait} ms: {made:?}");
                }
                Some(0) => assert!(is_whole, "{line} after {wait} ms: {made:?}"),
                _ => panic!("{line} after {wait} ms: {ended}"),
            }
            made.iter().for_each(|name| fs::remove_file(place.path(name)).unwrap());
        }
    }
}
