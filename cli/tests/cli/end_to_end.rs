//! The way of a model: convert, quantize, perplexity; and the sweep that does it all.

use std::{fs, io::Write, process::Stdio};

use llq_fixtures::fixture;
use serde_json::Value;

use crate::harness::{Outcome, Place, assert_outcome, corpus, gguf, tiny_gguf};

/// Runs llq over the corpus.
fn measure(place: &Place, line: &str) -> Outcome {
    let corpus = corpus();
    place.llq(line.split_whitespace().chain(["--corpus", corpus.to_str().unwrap()])).ok()
}

/// A pipe can be read only once.
#[cfg(unix)]
#[test]
fn a_corpus_comes_through_a_pipe() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    let text = fs::read(corpus()).unwrap();
    for line in ["perplexity", "sweep --types q8_0"] {
        let mut command = place.command();
        command.args(line.split_whitespace()).args([model, "--chunks", "1", "--ctx", "16"]);
        command.args(["--corpus", "/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&text[..2000]).unwrap();
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0), "{line}");
    }
}

#[test]
fn convert_says_what_it_made() {
    let place = Place::new();
    let checkpoint = fixture("tiny-llama-2/hf");
    let args = ["convert", checkpoint.to_str().unwrap(), "-o", "tiny.gguf"];
    assert_outcome!(place.llq(args), @r#"
    exit code 0
    --- stdout
    --- stderr
    note: the output is BF16, the type of token_embd.weight
    tiny.gguf: 13.1 MiB, 16.01 bits per weight, [time], [rate]
    "#);
    assert_eq!(place.files(), ["tiny.gguf"]);
}

#[test]
fn convert_and_quantize_say_it_in_json() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    let made = place.llq(["quantize", model, "-o", "out.gguf", "--type", "q4_k", "--json"]).ok();
    let made = made.json();
    assert_eq!(made["output"], "out.gguf");
    assert_eq!(made["parameters"], 6_819_072);
    let bytes = fs::metadata(place.path("out.gguf")).unwrap().len();
    assert_eq!(made["file_bytes"], bytes);
    assert!(made["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_shape_that_forbids_a_type_is_told() {
    let place = Place::new();
    place.write("odd.gguf", gguf([], "blk.0.ffn_gate.weight", &[288, 2]));
    let quantized = place.run("quantize odd.gguf -o out.gguf --type q4_k --quiet");
    assert_outcome!(quantized, @r#"
    exit code 0
    --- stdout
    --- stderr
    note: 1 tensor got Q5_0 in place of Q4_K, whose blocks of 256 do not fill rows of 288: blk.0.ffn_gate.weight
    note: not checked: metadata key "general.architecture" is missing
    "#);
}

#[test]
fn quiet_says_nothing() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    let made = place.llq(["quantize", model, "-o", "out.gguf", "--type", "q8_0", "--quiet"]).ok();
    assert_eq!((made.stdout.as_str(), made.stderr.as_str()), ("", ""));
}

#[test]
fn both_published_forms_are_one_model() {
    let place = Place::new();
    for form in ["hf", "meta"] {
        let checkpoint = fixture("tiny-llama-2").join(form);
        let output = format!("{form}.gguf");
        place.llq(["convert", checkpoint.to_str().unwrap(), "-o", &output, "--type", "q8_0"]).ok();
    }
    let perplexity = |model: &str| {
        let measured = measure(&place, &format!("perplexity {model} --chunks 2 --json"));
        measured.json()["perplexity"].clone()
    };
    assert_eq!(perplexity("hf.gguf"), perplexity("meta.gguf"));
}

#[test]
fn one_pass_and_two_give_the_same_file() {
    let place = Place::new();
    let checkpoint = fixture("tiny-llama-2/hf");
    let checkpoint = checkpoint.to_str().unwrap();
    place.llq(["convert", checkpoint, "-o", "one.gguf", "--type", "q4_k"]).ok();
    let model = tiny_gguf().to_str().unwrap();
    place.llq(["quantize", model, "-o", "two.gguf", "--type", "q4_k_m"]).ok();
    let (one, two) = (fs::read(place.path("one.gguf")), fs::read(place.path("two.gguf")));
    assert!(one.unwrap() == two.unwrap());
}

#[test]
fn threads_change_nothing() {
    let place = Place::new();
    let checkpoint = fixture("tiny-llama-2/hf");
    let checkpoint = checkpoint.to_str().unwrap();
    let mut seen: Vec<(Vec<u8>, String)> = Vec::new();
    for threads in ["1", "2", "3"] {
        let args = ["convert", checkpoint, "-o", "out.gguf", "--type", "q4_k", "--force"];
        place.llq(args.iter().chain(&["--threads", threads])).ok();
        let base = tiny_gguf().display();
        let line = format!("perplexity out.gguf --against {base} --chunks 3 --json");
        let measured = measure(&place, &format!("{line} --threads {threads}")).stdout;
        seen.push((fs::read(place.path("out.gguf")).unwrap(), measured));
    }
    for (file, measured) in &seen[1..] {
        assert!(*file == seen[0].0);
        assert_eq!(*measured, seen[0].1);
    }
}

#[test]
fn perplexity_as_text() {
    let place = Place::new();
    fs::copy(tiny_gguf(), place.path("tiny.gguf")).unwrap();
    assert_outcome!(measure(&place, "perplexity tiny.gguf --chunks 2"), @r#"
    exit code 0
    --- stdout
    perplexity  42.2046 ± 5.2989
    mode        exact
    scored      510 tokens
    windows     2 of 512 tokens
    --- stderr
    "#);
    // This encoder is defined to the byte, so the figures stand.
    place.run("quantize tiny.gguf -o q4_0.gguf --type q4_0 --pure --effort fast").ok();
    let compared = measure(&place, "perplexity q4_0.gguf --against tiny.gguf --chunks 2");
    assert_outcome!(compared, @r#"
    exit code 0
    --- stdout
    perplexity       43.0115 ± 5.3891
    mode             exact
    scored           510 tokens
    windows          2 of 512 tokens
    base perplexity  42.2046 ± 5.2989
    change           +1.912 ± 0.788 %
    ratio            1.01912 ± 0.00788, ln 0.01894 ± 0.00773
    KL divergence    0.015157 ± 0.000579 mean, 0.012049 median
                     0.029967 p90, 0.037430 p95, 0.068899 p99, 0.121925 p99.9, 0.130453 max
    same top token   92.94 ± 1.14 %
    true token       -0.303 ± 0.118 % mean, 2.676 ± 0.227 % RMS change of its probability
                     -20.09 min, -11.72 p1, -4.60 p5, +0.00 median, +3.17 p95, +6.50 p99, +11.59 max
    correlation      99.81 % of the tokens' log-likelihoods
    --- stderr
    "#);
}

#[test]
fn perplexity_as_json() {
    let place = Place::new();
    let model = tiny_gguf().display();
    let alone = measure(&place, &format!("perplexity {model} --chunks 2 --json")).json();
    assert_eq!(alone["mode"], "exact");
    assert_eq!((&alone["chunks"], &alone["context"]), (&2.into(), &512.into()));
    assert_eq!((&alone["kld"], &alone["same_top"]), (&Value::Null, &Value::Null));

    let line = format!("perplexity {model} --against {model} --chunks 2 --ctx 128 --json");
    let itself = measure(&place, &format!("{line} --mode fast")).json();
    assert_eq!((&itself["mode"], &itself["context"]), (&"fast".into(), &128.into()));
    for figure in ["mean", "median", "p99", "max"] {
        assert!(itself["kld"][figure].as_f64().unwrap().abs() < 1e-6, "{itself}");
    }
    assert_eq!(itself["same_top"], 1.0);
}

#[test]
fn windows_beyond_the_context_are_noted() {
    let place = Place::new();
    let model = tiny_gguf().display();
    let measured = measure(&place, &format!("perplexity {model} --ctx 2049 --chunks 1"));
    let note = "note: windows of 2,049 tokens are longer than the model's context of 2,048\n";
    assert!(measured.stderr.contains(note), "{measured}");
}

#[test]
fn a_sweep_is_one_table() {
    let place = Place::new();
    let checkpoint = fixture("tiny-llama-2/hf");
    let line =
        format!("sweep {} --types q8_0,Q4-0 --pure --effort fast --chunks 2", checkpoint.display());
    let swept = measure(&place, &line);
    assert_outcome!(swept, @r#"
    exit code 0
    --- stdout
    type  bits/weight        size        perplexity              change  KL divergence  same top         time
    BF16        16.01    13.1 MiB  42.2046 ± 5.2989                   –              –         – [time]
    Q8_0         8.51     7.0 MiB  42.1565 ± 5.2910    -0.114 ± 0.049 %       0.000059   99.22 % [time]
    Q4_0         4.51     3.8 MiB  43.0115 ± 5.3891    +1.912 ± 0.788 %       0.015157   92.94 % [time]
    --- stderr
    note: the output is BF16, the type of token_embd.weight
    "#);
    assert_eq!(place.files(), [""; 0]);
}

#[test]
fn a_sweep_agrees_with_the_commands_it_replaces() {
    let place = Place::new();
    fs::copy(tiny_gguf(), place.path("tiny.gguf")).unwrap();
    fs::create_dir(place.path("kept")).unwrap();
    let swept = measure(&place, "sweep tiny.gguf --types q4_0 --chunks 2 --keep kept --json");
    let swept = swept.json();
    let row = &swept["rows"][1];
    assert_eq!((&row["type"], &swept["rows"][0]["type"]), (&"Q4_0".into(), &"BF16".into()));

    let line = "perplexity kept/tiny-q4_0.gguf --against tiny.gguf --chunks 2 --json";
    let measured = measure(&place, line).json();
    for figure in ["perplexity", "stderr", "kld", "same_top"] {
        assert_eq!(row[figure], measured[figure], "{figure}");
    }
    let bytes = fs::metadata(place.path("kept/tiny-q4_0.gguf")).unwrap().len();
    assert_eq!(row["file_bytes"], bytes);

    let again = place.llq([
        "sweep",
        "tiny.gguf",
        "--types",
        "q4_0",
        "--keep",
        "kept",
        "--corpus",
        corpus().to_str().unwrap(),
    ]);
    again.refused(&["tiny-q4_0.gguf exists"]);
}

/// The temporary models of an interrupted sweep are removed.
#[cfg(unix)]
#[test]
fn an_interrupted_sweep_leaves_nothing() {
    use std::{
        process::{Command, Stdio},
        thread,
        time::Duration,
    };

    let place = Place::new();
    fs::create_dir(place.path("tmp")).unwrap();
    let models = || fs::read_dir(place.path("tmp")).unwrap().count();
    let mut command = place.command();
    command.arg("sweep").arg(tiny_gguf()).arg("--corpus").arg(corpus());
    let mut child = command
        .env("TMPDIR", place.path("tmp"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while models() == 0 {
        assert_eq!(child.try_wait().unwrap(), None);
        thread::sleep(Duration::from_millis(5));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(models(), 0);
}

#[test]
fn logits_stand_for_their_model() {
    let place = Place::new();
    fs::copy(tiny_gguf(), place.path("tiny.gguf")).unwrap();
    place.run("quantize tiny.gguf -o q4_0.gguf --type q4_0 --pure").ok();
    let save = "perplexity tiny.gguf --ctx 64 --chunks 3 --save-logits tiny.logits";
    let saved = measure(&place, &format!("{save} --json")).json();
    // Text, window, vocabulary and rows: 4 bytes a token, a row per scored token.
    let bytes = fs::metadata(place.path("tiny.logits")).unwrap().len();
    assert_eq!(bytes, 20 + 3 * (4 * 64 + 31 * (2 * 4096 + 8)));

    let base =
        measure(&place, "perplexity q4_0.gguf --ctx 64 --against tiny.gguf --chunks 3 --json");
    // The file's windows are all there is to compare with.
    let line = "perplexity q4_0.gguf --ctx 64 --against-logits tiny.logits --json";
    let (base, filed) = (base.json(), measure(&place, line).json());
    assert_eq!(filed["chunks"], 3);
    assert_eq!(filed["perplexity"], base["perplexity"]);
    assert_eq!(saved["perplexity"], base["base_perplexity"]);
    let mean = |measured: &Value| measured["kld"]["mean"].as_f64().unwrap();
    assert!((mean(&filed) - mean(&base)).abs() < 1e-5, "{filed}\n{base}");

    let corpus = corpus();
    let refused = |line: &str, parts: &[&str]| {
        let corpus = ["--corpus", corpus.to_str().unwrap()];
        place.llq(line.split_whitespace().chain(corpus)).refused(parts);
    };
    refused(save, &["tiny.logits exists", "--force"]);
    refused("perplexity q4_0.gguf --against-logits tiny.logits", &["windows of 64", "--ctx 64"]);
    refused("perplexity q4_0.gguf --against-logits q4_0.gguf", &["q4_0.gguf", "_logits_"]);
    place.write("other.txt", "Another text. ".repeat(100));
    place
        .run("perplexity q4_0.gguf --ctx 64 --against-logits tiny.logits --corpus other.txt")
        .refused(&["tiny.logits", "of the text: expected"]);
    assert_eq!(place.files(), ["other.txt", "q4_0.gguf", "tiny.gguf", "tiny.logits"]);
}
