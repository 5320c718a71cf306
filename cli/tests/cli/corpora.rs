//! The forms of a corpus: whatever the form, the same text has the same perplexity.

use std::{fs, io::Write};

use flate2::{Compression, write::GzEncoder};
use llq_fixtures::shared;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value as Json, json};

use crate::harness::{Place, corpus, tiny_gguf};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// A frame that decoders pass over.
fn skippable() -> Vec<u8> {
    [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat()
}

/// Three kinds of documents whose texts are the paragraphs.
fn json_lines(text: &str) -> String {
    let documents = text.split("\n\n").enumerate().map(|(index, text)| match index % 3 {
        0 => json!({ "text": text, "meta": { "url": "x" } }).to_string(),
        1 => format!("\n  {}\r", json!({ "id": index, "text": text })),
        _ => json!(text).to_string(),
    });
    documents.collect::<Vec<_>>().join("\n")
}

/// What a run of a few windows reports, but for the corpus' name.
fn measured(place: &Place, corpus: &str) -> Json {
    let model = tiny_gguf().to_str().unwrap();
    let line = format!("perplexity {model} --ctx 64 --json --corpus {corpus}");
    let mut report = place.run(&line).ok().json();
    report.as_object_mut().unwrap().remove("corpus");
    report
}

#[test]
fn every_form_gives_the_same_figures() {
    let place = Place::new();
    let text = fs::read_to_string(corpus()).unwrap();
    let text = &text.split_inclusive(". ").take(20).collect::<Vec<_>>().join("\n\n");
    let lines = json_lines(text);
    let documents: Vec<Json> = lines
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let nested: Vec<_> =
        text.split("\n\n").map(|text| json!({ "a": { "b": text } }).to_string()).collect();
    let middle = text.match_indices("\n\n").nth(5).unwrap().0;

    place.write("text.txt", text);
    let expected = measured(&place, "text.txt");
    assert!(expected["chunks"].as_u64().unwrap() >= 5);

    place.write("plain", text);
    place.write("marked.txt", format!("\u{feff}{text}"));
    place.write("text.txt.gz", gzip(text.as_bytes()));
    let two = [gzip(&text.as_bytes()[..999]), gzip(&text.as_bytes()[999..])].concat();
    place.write("members.txt.gz", two);
    place.write("text.txt.zst", zstandard(text.as_bytes()));
    let (start, end) = text.as_bytes().split_at(999);
    let frames = [zstandard(start), skippable(), zstandard(b""), zstandard(end), skippable()];
    place.write("frames.txt.zst", frames.concat());
    place.write("skips.txt.zst", [skippable(), frames.concat()].concat());
    place.write("lines.jsonl", &lines);
    place.write("lines.jsonl.gz", gzip(lines.as_bytes()));
    place.write("lines.jsonl.zst", zstandard(lines.as_bytes()));
    place.write("lines.json", format!("\u{feff}{lines}"));
    place.write(
        "array.json",
        format!("\u{feff}\n {}\n", serde_json::to_string_pretty(&documents).unwrap()),
    );
    place.write("folder/b.jsonl", json_lines(&text[middle + 2..]));
    place.write("folder/a.txt", &text[..middle]);
    place.write("folder/.hidden", "not read");
    let files = [
        "plain",
        "marked.txt",
        "text.txt.gz",
        "members.txt.gz",
        "text.txt.zst",
        "frames.txt.zst",
        "skips.txt.zst",
        "lines.jsonl",
        "lines.jsonl.gz",
        "lines.jsonl.zst",
        "lines.json",
        "array.json",
        "folder",
    ];
    for file in files {
        assert_eq!(measured(&place, file), expected, "{file}");
    }
    place.write("nested.jsonl", nested.join("\n"));
    assert_eq!(measured(&place, "nested.jsonl --field a.b"), expected);
}

#[test]
fn some_windows_need_only_the_start_of_a_text() {
    let place = Place::new();
    let text = fs::read_to_string(corpus()).unwrap();
    let on = |file: &str| measured(&place, &format!("{file} --chunks 3"));
    place.write("whole.txt", &text);
    // Where it ends makes no difference to the windows before.
    place.write("start.txt", text.split_inclusive('\n').take(20).collect::<String>());
    let start = measured(&place, "start.txt");
    let chunks = start["chunks"].as_u64().unwrap();
    assert!((2..100).contains(&chunks));
    assert_eq!(measured(&place, &format!("whole.txt --chunks {chunks}")), start);
    // Short tokens make it read twice.
    place.write("spaces.txt", format!("{}{}", "a ".repeat(100), &text));
    let broken = [&text.as_bytes()[..text.len() / 2], b"\xff"].concat();
    place.write("broken.txt", &broken);
    place.write("one_line.txt", text.replace('\n', " "));
    assert_eq!(on("broken.txt"), on("whole.txt"));
    assert_eq!(on("one_line.txt")["chunks"], 3);
    assert_eq!(on("spaces.txt")["chunks"], 3);
    let whole = format!("perplexity {} --corpus broken.txt", tiny_gguf().display());
    let at = text.len() / 2;
    let grouped = format!("{},{:03}", at / 1000, at % 1000);
    place.run(&whole).refused(&[&format!("broken.txt is not UTF-8 at byte {grouped}")]);
}

#[test]
fn a_published_text_cut_short_has_the_figures_of_the_whole() {
    let Some(path) = shared("corpus/wiki.test.txt") else { return };
    let place = Place::new();
    let whole = fs::read_to_string(path).unwrap();
    place.write("whole.jsonl.gz", gzip(json!({ "text": whole }).to_string().as_bytes()));
    place.write("whole.txt", &whole);
    let figures = |file: &str| measured(&place, &format!("{file} --chunks 40"));
    assert_eq!(figures("whole.txt"), figures("whole.jsonl.gz"));
}

#[test]
fn documents_that_cannot_be_used_are_named() {
    let place = Place::new();
    let good = "{\"text\": \"fine\"}\n";
    let refuses = |file: &str, parts: &[&str]| {
        let line = format!("perplexity {} --corpus {file}", tiny_gguf().display());
        place.run(&line).refused(parts);
    };
    place.write("a.jsonl", format!("{good}\n{{\"text\": \"bro"));
    refuses(
        "a.jsonl",
        &["a.jsonl:3: EOF while parsing a string, at byte 13", "a JSON value of its own"],
    );
    place.write("b.jsonl", format!("{good}{{\"content\": \"x\", \"id\": 1}}"));
    refuses("b.jsonl", &["b.jsonl:2: no field \"text\"; there is \"content\", \"id\"", "--field"]);
    refuses("b.jsonl --field content.x", &["b.jsonl:1: no field \"content.x\""]);
    refuses("b.jsonl --field text", &["b.jsonl:2: no field \"text\""]);
    place.write("c.jsonl", format!("{good}[1]"));
    refuses("c.jsonl", &["c.jsonl:2: an array is no document"]);
    place.write("d.json", "[{\"text\": \"x\"}, {\"text\": null}]");
    refuses("d.json", &["d.json: element 2: field \"text\" is null, expected a text", "line 1"]);
    place.write("d.json", "[\"x\"]\n[\"y\"]");
    refuses("d.json", &["d.json: trailing characters at line 2"]);
    place.write("e.json", "[".repeat(100_000));
    refuses("e.json", &["e.json: EOF while parsing a list at line 1 column 100000"]);
    place.write("f.jsonl", [good.as_bytes(), b"{\"text\": \"\xff\"}"].concat());
    refuses("f.jsonl", &["f.jsonl:2: invalid unicode code point, at byte"]);
    place.write("g.parquet", "PAR1");
    refuses("g.parquet", &["g.parquet: Parquet is not read", "to_json"]);
    fs::create_dir(place.path("empty")).unwrap();
    refuses("empty", &["empty: no corpus in this folder", ".jsonl"]);
}

#[test]
fn damaged_compression_is_refused() {
    let place = Place::new();
    let text = fs::read(corpus()).unwrap();
    for (name, whole) in [("a.txt.gz", gzip(&text)), ("a.txt.zst", zstandard(&text))] {
        let line = format!("perplexity {} --corpus {name}", tiny_gguf().display());
        let mut flipped = whole.clone();
        let last = flipped.len() - 2;
        flipped[last] ^= 1;
        let damaged = [
            &whole[..whole.len() - 1],
            &whole[..whole.len() / 2],
            &whole[..5],
            &flipped,
            &[&whole[..], b"trailing bytes"].concat(),
        ];
        for bytes in damaged {
            place.write(name, bytes);
            place.run(&line).refused(&[&format!("cannot read the corpus {name}")]);
        }
    }
    let skips = [&zstandard(&text)[..], &[0x50, 0x2a, 0x4d, 0x18, 255, 255, 255, 255]].concat();
    place.write("a.txt.zst", skips);
    let line = format!("perplexity {} --corpus a.txt.zst", tiny_gguf().display());
    place.run(&line).refused(&["a.txt.zst", "end of file"]);
}

/// It holds 1 GiB; memory stays far below.
#[test]
fn a_bomb_is_stopped_at_the_limit() {
    let place = Place::new();
    let megabyte = gzip("a line of text\n".repeat(1 << 16).as_bytes());
    let bomb = megabyte.repeat(1100);
    place.write("bomb.txt.gz", bomb);
    let line = format!("perplexity {} --corpus bomb.txt.gz", tiny_gguf().display());
    place.run(&line).refused(&["bomb.txt.gz", "more than 64 times its size when inflated"]);
    place.run(&format!("{line} --chunks 1")).ok();
    let numbers = gzip("1,".repeat(1 << 19).as_bytes()).repeat(100);
    let bomb = [&gzip(b"[\"text\", [")[..], &numbers].concat();
    place.write("bomb.json.gz", &bomb);
    let line = format!("perplexity {} --corpus bomb.json.gz", tiny_gguf().display());
    place.run(&line).refused(&["bomb.json.gz", "more than 64 times its size when inflated"]);
}

#[test]
fn what_is_too_large_is_refused() {
    let place = Place::new();
    fs::File::create(place.path("large.txt")).unwrap().set_len(257 << 20).unwrap();
    let line = format!("perplexity {} --corpus large.txt", tiny_gguf().display());
    place.run(&line).refused(&["large.txt has more than 256.0 MiB of text", "--chunks"]);
    let numbers = "1,".repeat((32 << 20) + 1);
    place.write("large.json", format!("[\"text\", [{numbers}"));
    let line = format!("perplexity {} --corpus large.json", tiny_gguf().display());
    place.run(&line).refused(&["large.json: an element is longer than 64.0 MiB"]);
}

#[test]
fn a_folder_says_what_it_leaves_out() {
    let place = Place::new();
    let text = fs::read_to_string(corpus()).unwrap();
    place.write("folder/a.txt", &text[..20_000]);
    place.write("folder/LICENSE", "not read");
    place.write("folder/more/b.txt", "not read");
    let line = format!("perplexity {} --ctx 64 --chunks 1 --corpus folder", tiny_gguf().display());
    let said = place.run(&line).ok().stderr;
    assert!(said.contains("note: 2 in folder not read: LICENSE, …"), "{said}");
}
