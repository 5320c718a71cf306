//! Checkpoints in which each key-value head is in two shards.

use std::{fs, path::Path};

use llq_convert::{Error, Request, open};
use serde_json::json;

use crate::support::{
    assert_says, converted, failure,
    meta::{self, EmbeddingCut},
    tiny::{EMBEDDING, Tensor, Tiny},
};

const HEAD: usize = 4;
const SHARDS: usize = 4;

/// Writes the small model with eight heads and the keys and values given, in Meta's order.
fn write(folder: &Path, shards: usize, kv_heads: usize, change: impl Fn(&str, &mut Tensor)) {
    fs::create_dir_all(folder).unwrap();
    meta::write_params(folder);
    let params = json!({ "dim": EMBEDDING, "n_layers": 2, "n_heads": 8, "n_kv_heads": kv_heads,
        "vocab_size": -1, "norm_eps": 1e-5 });
    fs::write(folder.join("params.json"), params.to_string()).unwrap();
    let whole = meta::pieces(&Tiny::new(), 0, 1, EmbeddingCut::Columns);
    let mut pieces: Vec<_> = (0..shards)
        .map(|shard| meta::pieces(&Tiny::new(), shard, shards, EmbeddingCut::Columns))
        .collect();
    for (index, (name, tensor)) in whole.iter().enumerate() {
        if !name.ends_with("wk.weight") && !name.ends_with("wv.weight") {
            continue;
        }
        let head = HEAD * EMBEDDING as usize;
        // Two heads; where there are four, each twice.
        let heads = tensor.weights.chunks(head).take(2);
        let weights = heads.flat_map(|head| head.repeat(kv_heads / 2)).collect();
        let mut joined = Tensor { shape: vec![(kv_heads * HEAD) as u64, EMBEDDING], weights };
        change(name, &mut joined);
        let rows = kv_heads * HEAD / shards;
        let parts = joined.weights.chunks(rows * EMBEDDING as usize);
        for (piece, part) in pieces.iter_mut().zip(parts) {
            piece[index].1 = Tensor { shape: vec![rows as u64, EMBEDDING], weights: part.to_vec() };
        }
    }
    for (shard, pieces) in pieces.iter().enumerate() {
        meta::write_shard(folder, shard, pieces);
    }
}

#[test]
fn twins_are_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let (twice, once) = (folder.path().join("a/405B"), folder.path().join("b/405B"));
    write(&twice, SHARDS, 4, |_, _| ());
    write(&once, 1, 2, |_, _| ());
    let request = Request::default();
    assert!(converted(&twice, &request) == converted(&once, &request));
    let source = open(&twice).unwrap();
    let note = "the 4 key-value heads are 2, each in two shards: 2 are written";
    assert!(source.notes().iter().any(|found| found.0 == note), "{:?}", source.notes());
    assert_eq!(source.metadata().count("llama.attention.head_count_kv").unwrap(), 2);
}

/// Adds one to the last weight.
fn touch(tensor: &mut Tensor) {
    *tensor.weights.last_mut().unwrap() += 1.0;
}

#[test]
fn heads_that_are_no_twins_stay_as_many_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), SHARDS, 4, |name, tensor| {
        if name == "layers.0.attention.wv.weight" {
            touch(tensor);
        }
    });
    let source = open(folder.path()).unwrap();
    assert_eq!(source.metadata().count("llama.attention.head_count_kv").unwrap(), 4);
}

#[test]
fn twins_that_differ_in_a_later_block_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), SHARDS, 4, |name, tensor| {
        if name == "layers.1.attention.wk.weight" {
            touch(tensor);
        }
    });
    let error = failure(folder.path(), &Request::default());
    assert!(matches!(error, Error::Shards { .. }), "{error}");
    assert_says(&error, &["layers.1.attention.wk.weight", "heads 2 and 3 differ"]);
}
