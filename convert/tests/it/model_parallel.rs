//! Meta checkpoints in any number of shards.

use std::fs;

use llq_convert::{Error, Request};
use llq_quant::mix::Mix;
use serde_json::json;

use crate::support::{
    assert_says, converted, failure,
    meta::{self, EmbeddingCut},
    request,
    tiny::Tiny,
};

/// A folder with the small model in both published forms, which name it alike.
fn both_forms(shards: usize, embedding: EmbeddingCut) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    let settings = json!({ "add_bos_token": true, "add_eos_token": false });
    tiny.others.insert("tokenizer_config.json", settings);
    for form in ["hf", "meta"] {
        fs::create_dir(folder.path().join(form)).unwrap();
    }
    tiny.write(&folder.path().join("hf"));
    meta::write(&tiny, &folder.path().join("meta"), shards, embedding);
    folder
}

#[test]
fn any_number_of_shards_gives_the_file_of_the_hugging_face_form() {
    for embedding in [EmbeddingCut::Rows, EmbeddingCut::Columns] {
        for shards in [1, 2, 4, 8] {
            let folder = both_forms(shards, embedding);
            for mix in [Mix::BF16, Mix::Q8_0] {
                let request = Request { context_length: Some(128), ..request(mix) };
                let meta = converted(&folder.path().join("meta"), &request);
                let hugging_face = converted(&folder.path().join("hf"), &request);
                assert!(meta == hugging_face, "{shards} shards, {embedding:?}, {mix}");
            }
        }
    }
}

#[test]
fn shards_of_another_number_do_not_fit() {
    // Two of four shards: half of everything.
    let folder = both_forms(4, EmbeddingCut::Columns);
    let meta = folder.path().join("meta");
    for shard in [2, 3] {
        fs::remove_file(meta.join(format!("consolidated.{shard:02}.pth"))).unwrap();
    }
    let error = failure(&meta, &Request::default());
    assert!(matches!(error, Error::MissingFile { .. }), "{error}");
    assert_says(&error, &["no consolidated.02.pth", "cut into 4 shards, found 2"]);
}

#[test]
fn a_shard_that_is_a_copy_of_another_is_found() {
    let folder = both_forms(4, EmbeddingCut::Rows);
    let meta = folder.path().join("meta");
    let shard = |number: u32| meta.join(format!("consolidated.{number:02}.pth"));
    fs::copy(shard(1), shard(3)).unwrap();
    let error = failure(&meta, &Request::default());
    assert!(matches!(error, Error::Shards { .. }), "{error}");
    assert_says(&error, &["consolidated.03.pth: a copy of", "consolidated.01.pth"]);
}
