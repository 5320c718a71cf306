//! `llq tokenize`: to tokens and back.

use crate::harness::{Place, tiny_gguf};

#[test]
fn text_comes_back() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    for text in ["Once upon a time", "  two  spaces ", "naïve 漢字 🦀\n\ttab", ""] {
        let tokens = place.llq(["tokenize", model, text, "--json"]).ok().json();
        let ids = tokens["tokens"].as_array().unwrap();
        assert_eq!(tokens["count"], ids.len());
        let ids: Vec<String> = ids.iter().map(|token| token["id"].to_string()).collect();
        if ids.is_empty() {
            continue;
        }
        let decoded = place.llq(["tokenize", model, "--decode", &ids.join(","), "--json"]).ok();
        assert_eq!(decoded.json()["text"], text);
    }
}

#[test]
fn special_tokens_come_where_they_are_asked_for() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    let count = |args: &[&str]| {
        let told =
            place.llq([&["tokenize", model, "a story", "--count"], args].concat()).ok().stdout;
        told.trim().parse::<usize>().unwrap()
    };
    assert_eq!(count(&["--special"]), count(&[]) + 1);
    place.write("text", "a story");
    let of_file = place.llq(["tokenize", model, "--file", "text", "--count"]).ok().stdout;
    assert_eq!(of_file.trim(), count(&[]).to_string());
}

#[test]
fn ids_must_be_tokens() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    place.llq(["tokenize", model, "--decode", "1,4096"]).refused(&["4096", "4,096"]);
}
