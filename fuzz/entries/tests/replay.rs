//! Every input of the corpora that fuzzing has left, through the entry it was found with: what no
//! longer panics stays so.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use llq_fuzz_entries::entries::{self, Verdict};

#[test]
fn every_corpus_has_an_entry_and_a_test() {
    let entries: Vec<&str> = entries::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(entries, REPLAYED);
    let mut corpora: Vec<String> = listing(&corpus_folder())
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    corpora.sort();
    assert_eq!(corpora, REPLAYED);
}

macro_rules! replayed {
    ($($target:ident)*) => {
        const REPLAYED: &[&str] = &[$(stringify!($target)),*];
        $(
            #[test]
            fn $target() {
                replay(stringify!($target), entries::$target);
            }
        )*
    };
}

replayed! {
    adapter config ggml gguf_evaluate gguf_header gguf_quantize imatrix llamafile logits recipe
    safetensors sentencepiece tiktoken tokenizer_json torch
}

fn replay(target: &str, entry: fn(&[u8]) -> Verdict) {
    let mut accepted = 0;
    for path in listing(&corpus_folder().join(target)) {
        let input = fs::read(&path).unwrap();
        // The panic's own message was printed.
        let run = catch_unwind(|| entry(&input));
        let Ok(verdict) = run else { panic!("{} makes {target} panic", path.display()) };
        accepted += usize::from(verdict == Verdict::Accepted);
    }
    // A target that refuses everything tests little.
    assert!(accepted > 0, "{target} accepts nothing");
}

fn listing(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn corpus_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus")
}
