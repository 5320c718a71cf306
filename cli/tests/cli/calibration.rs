//! `llq quantize --calibrate`.

use std::fs;

use llq_gguf::Model;

use crate::harness::{Place, corpus, two_blocks_gguf};

const FOLDER: &str = ".llq-out.gguf.calibration";

fn quantize(place: &Place, more: &[&str]) -> crate::harness::Outcome {
    let (model, text) = (two_blocks_gguf().display().to_string(), corpus().display().to_string());
    let mut line =
        vec!["quantize", &model, "-o", "out.gguf", "--type", "q3_k", "--calibrate", &text];
    line.extend(["--calibrate-windows", "3"]);
    line.extend(more);
    place.llq(line)
}

#[test]
fn a_calibrated_file_has_the_plan_of_a_plain_one_and_other_codes() {
    let place = Place::new();
    quantize(&place, &[]).ok();
    assert_eq!(place.files(), ["out.gguf"]);
    let model = two_blocks_gguf().display().to_string();
    place.run(&format!("quantize {model} -o plain.gguf --type q3_k")).ok();
    let [calibrated, plain] =
        ["out.gguf", "plain.gguf"].map(|name| Model::open(&place.path(name)).unwrap());
    assert_eq!(calibrated.tensors(), plain.tensors());
    let differing = calibrated.tensors().iter().zip(plain.tensors());
    let differing = differing.filter(|(a, b)| calibrated.data(a) != plain.data(b)).count();
    assert!(differing >= 14, "{differing} tensors differ");
}

#[test]
fn what_another_run_finished_is_not_taken_by_accident() {
    let place = Place::new();
    place.write(&format!("{FOLDER}/settings.bin"), "another model");
    quantize(&place, &[]).refused(&[FOLDER, "--resume goes on with it"]);
    quantize(&place, &["--resume"]).refused(&["another model, text, type"]);
    assert_eq!(place.files(), [FOLDER]);
}

#[test]
fn a_dry_run_says_what_it_takes() {
    let place = Place::new();
    let planned = quantize(&place, &["--dry-run", "--json"]).ok().json();
    let estimate = &planned["calibration"];
    for key in ["flop", "memory_bytes", "flop_per_second", "seconds"] {
        assert!(estimate[key].as_f64().unwrap() > 0.0, "{key} of {estimate}");
    }
    let parts = estimate["flop_by_part"].as_object().unwrap();
    let sum: f64 = parts.values().map(|part| part.as_f64().unwrap()).sum();
    let flop = estimate["flop"].as_f64().unwrap();
    assert!((sum / flop - 1.0).abs() < 1e-9, "{estimate}");
    assert!(quantize(&place, &["--dry-run"]).ok().stdout.contains("GFLOP/s"));
    assert!(place.files().is_empty());
}

/// The run is killed, and one of the tensors that it finished gets cut.
#[test]
fn an_ended_run_goes_on() {
    let place = Place::new();
    quantize(&place, &[]).ok();
    let whole = fs::read(place.path("out.gguf")).unwrap();
    fs::remove_file(place.path("out.gguf")).unwrap();
    let mut command = place.command();
    command.args(["quantize", &two_blocks_gguf().display().to_string(), "-o", "out.gguf"]);
    command.args(["--type", "q3_k", "--calibrate", &corpus().display().to_string()]);
    command.args(["--calibrate-windows", "3"]);
    let mut running = command.spawn().unwrap();
    let first = place.path(FOLDER).join("blk.1.attn_q.weight.bin");
    while !first.exists() {
        assert!(running.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(place.files(), [FOLDER]);
    fs::write(place.path(FOLDER).join("blk.0.attn_v.weight.bin"), "cut").unwrap();
    quantize(&place, &["--resume"]).ok();
    assert_eq!(place.files(), ["out.gguf"]);
    assert!(fs::read(place.path("out.gguf")).unwrap() == whole);
}

#[test]
fn texts_that_are_too_short_are_refused() {
    let place = Place::new();
    place.write("short.txt", "Too short.");
    let model = two_blocks_gguf().display().to_string();
    place
        .run(&format!("quantize {model} -o out.gguf --type q3_k --calibrate short.txt"))
        .refused(&["short.txt has", "one window takes 512"]);
    assert_eq!(place.files(), ["short.txt"]);
    place
        .run(&format!("quantize {model} -o short.txt --type q3_k --calibrate short.txt --force"))
        .refused(&["output and input are the same file"]);
}
