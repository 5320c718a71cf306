//! `llq formats` and `llq cpu`: the tables the code runs on.

use llq_quant::{FORMATS, mix::Mix};

use crate::harness::{Outcome, Place};

#[test]
fn every_type_and_format_is_listed() {
    let listed = Place::new().run("formats --json").ok().json();
    let names = |table: &str| -> Vec<String> {
        let rows = listed[table].as_array().unwrap();
        rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    let types: Vec<_> = Mix::ALL.iter().map(|mix| mix.name().to_owned()).collect();
    assert_eq!(names("types"), types);
    let formats: Vec<_> = FORMATS.iter().map(|f| f.tensor_type.name().to_owned()).collect();
    assert_eq!(names("formats"), formats);
}

#[test]
fn q4_k_is_q4_k_m() {
    let text = Place::new().run("formats").ok().stdout;
    let row = text.lines().find(|line| line.starts_with("q4_k_m")).unwrap();
    assert!(row.split_whitespace().eq(["q4_k_m", "q4_k", "Q4_K", "15"]), "{row}");
}

#[test]
fn the_chosen_kernels_are_told() {
    let place = Place::new();
    let found = place.run("cpu --json").ok().json();
    let rows = found["rows"].as_array().unwrap();
    let chosen: Vec<_> = rows.iter().filter(|row| row["selected"] == true).collect();
    assert_eq!(chosen.len(), 1);
    assert_eq!(chosen[0]["isa"], found["selected"]);

    let forced = place.command().env("LLQ_ISA", "scalar").arg("cpu").output().unwrap();
    let text = String::from_utf8(forced.stdout).unwrap();
    assert!(text.contains("LLQ_ISA       scalar\nkernels       scalar\n"), "{text}");
}

#[test]
fn an_unknown_instruction_set_is_refused_by_every_command() {
    for line in ["cpu", "inspect none.gguf", "formats"] {
        let place = Place::new();
        let mut command = place.command();
        command.env("LLQ_ISA", "mmx").args(line.split_whitespace());
        Outcome::of(&mut command).refused(&["LLQ_ISA", "mmx", "scalar"]);
    }
}

#[test]
fn markdown_is_the_page_of_formats() {
    let page = Place::new().run("formats --markdown").ok().stdout;
    assert_eq!(page, llq_quant::formats_markdown());
}
