//! `--resume`: a run that was killed or interrupted goes on, and gives the bytes of one that was not.
#![cfg(unix)]

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::harness::{Outcome, Place, tiny_gguf};

/// Slow enough that it can be met at work.
const SLOW: &str = "quantize tiny.gguf -o out.gguf --type q2_k --effort best --no-check";

const FOLDER: &str = ".llq-out.gguf.resume";

fn tiny() -> Place {
    let place = Place::new();
    fs::copy(tiny_gguf(), place.path("tiny.gguf")).unwrap();
    place
}

/// The files that `line` makes, which are taken away again.
fn uninterrupted(place: &Place, line: &str) -> Vec<(String, Vec<u8>)> {
    place.run(line).ok();
    let mut made = place.files();
    made.retain(|name| name != "tiny.gguf");
    let take = |name: String| {
        let bytes = fs::read(place.path(&name)).unwrap();
        fs::remove_file(place.path(&name)).unwrap();
        (name, bytes)
    };
    made.into_iter().map(take).collect()
}

fn start(place: &Place, line: &str) -> Child {
    let mut command = place.command();
    command.args(line.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Interrupts a run as Ctrl-C does, once it writes; returns what it said.
fn interrupt(place: &Place, line: &str) -> String {
    let mut run = start(place, line);
    let writes = |name: &String| name == FOLDER || name.ends_with(".partial");
    while !place.files().iter().any(writes) {
        assert_eq!(run.try_wait().unwrap(), None, "it ended before it could be met");
        sleep(Duration::from_millis(2));
    }
    let sent = Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let ended = run.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    String::from_utf8(ended.stderr).unwrap()
}

/// Kills runs later and later until one comes to its end.
#[test]
fn killed_runs_go_on() {
    let place = tiny();
    for parts in ["", " --split-max-tensors 20"] {
        let line = format!("{SLOW}{parts}");
        let expected = uninterrupted(&place, &line);
        let mut ended = false;
        for number in 0_u64.. {
            let threads = 1 + number % 2;
            let mut run = start(&place, &format!("{line} --resume --threads {threads}"));
            sleep(Duration::from_millis(number * 130));
            let _ = run.kill();
            ended = run.wait().unwrap().success();
            let files = place.files();
            for (name, bytes) in &expected {
                if files.contains(name) {
                    assert!(fs::read(place.path(name)).unwrap() == *bytes, "half of {name}");
                }
            }
            // A run that was killed between two names is a finished one, but for the rest.
            if ended || files.contains(&expected[0].0) {
                break;
            }
            let left = files.iter().filter(|name| *name != "tiny.gguf");
            assert!(left.clone().count() <= 1, "{files:?}");
            assert!(left.clone().all(|name| name == FOLDER), "{files:?}");
        }
        if !ended {
            place.run(&format!("{line} --resume --force")).ok();
        }
        assert_eq!(place.files().len(), expected.len() + 1, "{:?}", place.files());
        for (name, bytes) in expected {
            assert!(fs::read(place.path(&name)).unwrap() == bytes, "{name}");
            fs::remove_file(place.path(&name)).unwrap();
        }
    }
}

#[test]
fn ctrl_c_leaves_what_the_next_run_goes_on_with() {
    let place = tiny();
    let expected = uninterrupted(&place, SLOW);
    let said = interrupt(&place, &format!("{SLOW} --threads 1"));
    assert!(!said.contains("--resume"), "{said}");
    assert_eq!(place.files(), ["tiny.gguf"]);

    let said = interrupt(&place, &format!("{SLOW} --threads 1 --resume"));
    assert!(said.contains(&format!("--resume goes on with what is in ./{FOLDER}")), "{said}");
    assert_eq!(place.files(), [FOLDER, "tiny.gguf"]);
    place.run("quantize tiny.gguf -o out.gguf --type q3_k --resume").refused(&[
        FOLDER,
        "other settings",
        "without --resume",
    ]);
    // Runs beside it let it be.
    place.run("convert tiny.gguf -o other.gguf").ok();
    fs::remove_file(place.path("other.gguf")).unwrap();
    let outcome = place.run(&format!("{SLOW} --resume")).ok();
    assert!(outcome.stderr.contains("are there from an interrupted run"), "{outcome}");
    assert_eq!(place.files(), ["out.gguf", "tiny.gguf"]);
    assert!(fs::read(place.path("out.gguf")).unwrap() == expected[0].1);
}

#[test]
fn without_the_option_a_run_begins_anew_if_it_is_made_to() {
    let place = tiny();
    interrupt(&place, &format!("{SLOW} --threads 1 --resume"));
    let other = "quantize tiny.gguf -o out.gguf --type q8_0 --no-check";
    place.run(other).refused(&[FOLDER, "--resume goes on with it", "--force"]);
    place.run(&format!("{other} --force")).ok();
    assert_eq!(place.files(), ["out.gguf", "tiny.gguf"]);
}

#[test]
fn convert_goes_on_and_tells_of_damage() {
    let place = tiny();
    let line = "convert tiny.gguf -o out.gguf --type q2_k --effort best";
    let expected = uninterrupted(&place, line);
    interrupt(&place, &format!("{line} --threads 1 --resume"));
    fs::write(place.path(FOLDER).join("journal"), "torn").unwrap();
    let outcome = place.run(&format!("{line} --resume")).ok();
    assert!(outcome.stderr.contains("its journal is damaged"), "{outcome}");
    assert_eq!(place.files(), ["out.gguf", "tiny.gguf"]);
    assert!(fs::read(place.path("out.gguf")).unwrap() == expected[0].1);
}

/// A limit on the size of files refuses like a full disk, before anything is written.
#[test]
fn where_there_is_no_room_nothing_stays() {
    let place = tiny();
    let expected = uninterrupted(&place, SLOW);
    let mut shell = Command::new("sh");
    shell.current_dir(place.path("")).arg("-c");
    shell.arg(format!("trap '' XFSZ; ulimit -f 2000; exec \"$0\" {SLOW} --resume"));
    shell.arg(assert_cmd::cargo::cargo_bin!("llq"));
    let outcome = Outcome::of(&mut shell);
    let outcome = outcome.refused(&["no room"]);
    assert_eq!(place.files(), ["tiny.gguf"], "{outcome}");
    place.run(&format!("{SLOW} --resume")).ok();
    assert_eq!(place.files(), ["out.gguf", "tiny.gguf"]);
    assert!(fs::read(place.path("out.gguf")).unwrap() == expected[0].1);
}
