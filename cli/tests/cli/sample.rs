//! `llq sample`: text that a model writes itself.

use std::fs;

use crate::harness::{Outcome, Place, gguf, tiny_gguf, two_blocks_gguf};

/// Runs llq; `MODEL` stands for the fixture's, `BLOCKS` for two blocks of it.
fn run(place: &Place, line: &str) -> Outcome {
    place.llq(line.split_whitespace().map(|word| match word {
        "MODEL" => tiny_gguf().as_os_str().to_owned(),
        "BLOCKS" => two_blocks_gguf().as_os_str().to_owned(),
        word => word.into(),
    }))
}

const SAMPLE: &str = "sample MODEL --tokens 600 --ctx 64 --seed 3";

#[test]
fn text_goes_to_standard_output_or_to_a_file() {
    let place = Place::new();
    let printed = run(&place, &format!("{SAMPLE} --threads 1")).ok();
    // 600 tokens of 63 in each sequence.
    assert!(printed.stderr.contains("600 tokens, sequences: 10"), "{printed}");
    assert_eq!(printed.stdout.matches("\n\n").count(), 9, "{printed}");
    assert!(printed.stdout.len() > 1200 && printed.stdout.ends_with('\n'), "{printed}");

    // Room for two sequences at a time.
    let told = run(&place, &format!("{SAMPLE} --cache 800K --threads 3 -o own.txt --json")).ok();
    assert!(told.stderr.contains("room for 2 at a time; 4M has for 10"), "{told}");
    let (told, written) = (told.json(), fs::read_to_string(place.path("own.txt")).unwrap());
    assert_eq!(written, printed.stdout);
    assert_eq!((&told["tokens"], &told["sequences"]), (&600.into(), &10.into()));
    assert_eq!((&told["output"], &told["seed"]), (&"own.txt".into(), &3.into()));
    assert!(told.get("texts").is_none());

    let as_json = run(&place, &format!("{SAMPLE} --json")).ok().json();
    let texts: Vec<&str> =
        as_json["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(format!("{}\n", texts.join("\n\n")), written);
    run(&place, &format!("{SAMPLE} -o own.jsonl --quiet")).ok();
    let lines = fs::read_to_string(place.path("own.jsonl")).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert!(lines.map(|line| line["text"].as_str().unwrap().to_owned()).eq(texts));
    assert_eq!(place.files(), ["own.jsonl", "own.txt"]);
}

#[test]
fn seed_and_temperature_make_another_text() {
    let place = Place::new();
    let text = |more: &str| run(&place, &format!("sample MODEL --tokens 80 {more}")).ok().stdout;
    let usual = text("");
    assert_eq!(usual, text("--seed 0 --temperature 1"));
    assert!(usual != text("--seed 1") && usual != text("--temperature 0.9"));
    assert_eq!(text("--temperature 0.001"), text("--temperature 0.001 --seed 5"));
}

/// The sequences of both forms are cut into the same tokens, but for the end of the last line.
#[test]
fn what_is_written_is_a_corpus() {
    let place = Place::new();
    let perplexities = ["own.txt", "own.jsonl"].map(|file| {
        run(&place, &format!("{SAMPLE} -o {file}")).ok();
        let line = format!("perplexity MODEL --corpus {file} --ctx 64 --chunks 8 --json");
        run(&place, &line).ok().json()["perplexity"].clone()
    });
    assert_eq!(perplexities[0], perplexities[1]);
    run(&place, "quantize BLOCKS -o q.gguf --type q4_0 --calibrate own.txt --no-check").ok();
    assert_eq!(place.files(), ["own.jsonl", "own.txt", "q.gguf"]);
}

#[test]
fn what_cannot_be_sampled_is_refused() {
    let place = Place::new();
    place.write("own.txt", "mine");
    place.write("none.gguf", gguf([], "token_embd.weight", &[32, 4]));
    fs::copy(tiny_gguf(), place.path("model.gguf")).unwrap();
    let cases = [
        ("sample MODEL --tokens 0", "--tokens"),
        ("sample MODEL --tokens 9999999999", "--tokens"),
        ("sample MODEL --temperature 0", "a number from 0.001 to 1000"),
        ("sample MODEL --temperature nan", "a number from 0.001 to 1000"),
        ("sample MODEL --ctx 1", "2..=1048576"),
        ("sample MODEL --force", "--output"),
        ("sample MODEL --cache 100K", "3145728 bytes"),
        ("sample MODEL -o own.txt", "own.txt exists"),
        ("sample MODEL -o none/own.txt", "no folder none"),
        ("sample MODEL -o own.json", ".txt or .jsonl"),
        ("sample MODEL -o own.txt.gz", ".txt or .jsonl"),
        ("sample none.gguf", "general.architecture"),
        ("sample missing.gguf", "missing.gguf"),
    ];
    for (line, said) in cases {
        run(&place, line).refused(&[said]);
    }
    place.run("sample model.gguf -o model.gguf --force").refused(&["model.gguf"]);
    assert_eq!(fs::read_to_string(place.path("own.txt")).unwrap(), "mine");
    run(&place, "sample MODEL --tokens 20 -o own.txt --force").ok();
    assert!(fs::read_to_string(place.path("own.txt")).unwrap() != "mine");
    assert_eq!(place.files(), ["model.gguf", "none.gguf", "own.txt"]);
}
