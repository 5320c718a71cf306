//! The sound files around an input: made once, as they are the same for each.

use std::{ffi::OsString, fs, path::Path, sync::LazyLock};

use llq_quant::mix::Mix;
use serde_json::json;

use crate::support::{
    converted,
    lora::Made,
    meta::{self, EmbeddingCut},
    request,
    tiny::{EMBEDDING, Tensor, Tiny},
};

/// The small model.
pub(crate) static HUGGING_FACE: LazyLock<Files> =
    LazyLock::new(|| Files::of(|folder| tiny().write(folder)));

/// The small model as Meta publishes.
pub(crate) static META: LazyLock<Files> =
    LazyLock::new(|| Files::of(|folder| meta(tiny(), folder)));

/// [`META`] with a row of the embedding for each byte and some tokens more.
pub(crate) static MANY_TOKENS: LazyLock<Files> = LazyLock::new(|| {
    let mut tiny = tiny();
    for (seed, name) in ["model.embed_tokens.weight", "lm_head.weight"].into_iter().enumerate() {
        tiny.tensors.insert(name.to_owned(), Tensor::new(seed, &[272, EMBEDDING]));
    }
    Files::of(|folder| meta(tiny, folder))
});

/// An adapter to the small model.
pub(crate) static ADAPTER: LazyLock<Files> =
    LazyLock::new(|| Files::of(|folder| Made::new(1).write(folder)));

/// The small model as GGUF in F16.
pub(crate) static MODEL: LazyLock<Vec<u8>> = LazyLock::new(|| gguf(Mix::F16));

/// The small model as GGUF.
pub(crate) fn gguf(mix: Mix) -> Vec<u8> {
    // A model's name follows from its folder's.
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("tiny");
    fs::create_dir(&folder).unwrap();
    HUGGING_FACE.write(&folder);
    converted(&folder, &request(mix))
}

/// The small model with one block.
pub(crate) fn tiny() -> Tiny {
    let mut tiny = Tiny::new();
    tiny.config["num_hidden_layers"] = 1.into();
    tiny.tensors.retain(|name, _| !name.contains("layers.1."));
    tiny
}

fn meta(tiny: Tiny, folder: &Path) {
    meta::write(&tiny, folder, 1, EmbeddingCut::Rows);
    let params = json!({ "dim": 32, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2,
        "vocab_size": -1, "norm_eps": 1e-5 });
    fs::write(folder.join("params.json"), params.to_string()).unwrap();
}

/// Names and bytes of what is in a folder.
pub(crate) struct Files(Vec<(OsString, Vec<u8>)>);

impl Files {
    fn of(write: impl FnOnce(&Path)) -> Files {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let entries = folder.path().read_dir().unwrap().map(Result::unwrap);
        Files(entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect())
    }

    pub(crate) fn write(&self, folder: &Path) {
        self.write_without("", folder);
    }

    /// Writes all files but the one of that name.
    pub(crate) fn write_without(&self, name: &str, folder: &Path) {
        for (other, bytes) in self.0.iter().filter(|(other, _)| other != name) {
            fs::write(folder.join(other), bytes).unwrap();
        }
    }
}
