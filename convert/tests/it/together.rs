//! Many of the options at once: each must leave the others' work alone.

use llq_convert::{
    OnOverflow, OpenOptions, Overrides, Overwrite, Plan, Request, Silent, Split, open_with, write,
};
use llq_gguf::{Model, TensorType};
use llq_quant::mix::Mix;
use serde_json::json;

use crate::support::{
    listing,
    lora::{Made, merging, try_open_and_write},
    request,
    tiny::Tiny,
};

/// A base with tied embeddings and a weight that is too large for F16.
fn base() -> Tiny {
    let mut tiny = Tiny::new();
    tiny.tensors.remove("lm_head.weight");
    tiny.config["tie_word_embeddings"] = json!(true);
    tiny.tensors.get_mut("model.layers.1.mlp.down_proj.weight").unwrap().weights[70] = 1e30;
    tiny
}

/// Factors that leave the tied embeddings alone.
fn adapter() -> Made {
    let mut made = Made::new(1);
    made.tensors.retain(|name, _| !name.contains("lm_head"));
    made
}

#[test]
fn a_wrapped_tied_base_with_an_adapter_is_split_renamed_and_partly_kept() {
    let [plain, wrapped, factors, out] = [(); 4].map(|()| tempfile::tempdir().unwrap());
    base().write(plain.path());
    let mut tiny = base();
    tiny.tensors =
        tiny.tensors.into_iter().map(|(name, tensor)| (format!("module.{name}"), tensor)).collect();
    tiny.write_sharded_bin(wrapped.path());
    adapter().write(factors.path());

    let keep = Request { on_overflow: OnOverflow::KeepBf16, ..request(Mix::F16) };
    let options = merging([(factors.path(), 0.5)]);
    let expected = try_open_and_write(plain.path(), &options, &keep).unwrap();
    let expected = Model::from_bytes(expected).unwrap();

    let overrides = Overrides::default().with_name(Some("Renamed".to_owned()));
    let options = OpenOptions { overrides, ..options };
    let source = open_with(wrapped.path(), &options).unwrap();
    let notes: Vec<&str> = source.notes().iter().map(|note| note.0.as_str()).collect();
    for part in ["\"module.\" in front is left out", "low-rank changes: 14, rank 4"] {
        assert!(notes.iter().any(|note| note.contains(part)), "no {part} in {notes:?}");
    }
    assert!(notes.iter().all(|note| !note.contains("lm_head")), "{notes:?}");
    let request = Request { split: Split::Tensors(6), ..keep };
    let plan = Plan::new(&*source, &request).unwrap();
    let target = out.path().join("out.gguf");
    let report = write(&*source, &plan, &target, Overwrite::Forbid, &Silent).unwrap();
    assert_eq!(report.overflows.len(), 1);

    let parts = listing(out.path());
    assert_eq!(parts.len(), expected.tensors().len().div_ceil(6));
    let model = Model::open(&out.path().join(&parts[0])).unwrap();
    assert_eq!(model.tensors().len(), expected.tensors().len());
    for tensor in expected.tensors() {
        let found = model.tensor(&tensor.name).unwrap();
        assert_eq!(found.tensor_type, tensor.tensor_type, "{}", tensor.name);
        assert!(model.data(found) == expected.data(tensor), "{}", tensor.name);
    }
    let of = |name: &str| model.tensor(name).map(|tensor| tensor.tensor_type);
    assert_eq!(of("blk.1.ffn_down.weight"), Some(TensorType::BF16));
    assert_eq!(of("blk.1.ffn_up.weight"), Some(TensorType::F16));
    assert_eq!(of("output.weight"), None);
    assert_eq!(model.metadata().string("general.name").unwrap(), "Renamed");
}

/// Merging makes F32 of what it changes; the output follows the base, however it is wrapped.
#[test]
fn the_type_of_a_wrapped_and_merged_base_is_that_of_its_file() {
    let [wrapped, factors] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut tiny = Tiny::new();
    tiny.tensors =
        tiny.tensors.into_iter().map(|(name, tensor)| (format!("module.{name}"), tensor)).collect();
    tiny.write(wrapped.path());
    Made::new(1).with_embedding().write(factors.path());
    let overrides = Overrides::default().with_name(Some("Renamed".to_owned()));
    let options =
        OpenOptions { overrides, ..merging([(factors.path(), 1.0), (factors.path(), 1.0)]) };
    let source = open_with(wrapped.path(), &options).unwrap();
    let plan = Plan::new(&*source, &Request::default()).unwrap();
    let notes: Vec<&str> = plan.notes().iter().map(|note| note.0.as_str()).collect();
    assert_eq!(notes, ["the output is BF16, the type of token_embd.weight"]);
}
