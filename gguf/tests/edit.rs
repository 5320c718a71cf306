//! New metadata for files that are there.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::fs;

use llq_gguf::{
    Metadata, Model, ModelLayout, ModelWriter, Overwrite, Rewritten, Split, TensorSpec, TensorType,
    rewrite_metadata, to_bytes,
};

fn metadata() -> Metadata {
    let mut metadata = Metadata::from_iter([("general.architecture", "llama")]);
    metadata.set("llama.block_count", 1u32);
    metadata.set("general.name", "a name");
    metadata
}

fn file() -> Vec<u8> {
    let tensor = TensorSpec::new("output_norm.weight", [3], TensorType::F32);
    to_bytes(&metadata(), [(tensor, [7; 12])]).unwrap()
}

fn nothing(_: u64) {}

#[test]
fn a_number_changes_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, file()).unwrap();
    let (mut wanted, kept) = (Metadata::new(), fs::hard_link(&path, folder.path().join("link")));
    kept.unwrap();
    for (key, value) in metadata().iter() {
        let value = if key == "llama.block_count" { 2u32.into() } else { value.clone() };
        wanted.set(key, value);
    }
    let done = rewrite_metadata(Model::open(&path).unwrap(), &wanted, &nothing).unwrap();
    assert_eq!(done, Rewritten::InPlace);
    let linked = Model::open(&folder.path().join("link")).unwrap();
    assert_eq!(linked.metadata(), &wanted);
    let done = rewrite_metadata(Model::open(&path).unwrap(), &wanted, &nothing).unwrap();
    assert_eq!(done, Rewritten::Unchanged);
}

#[test]
fn what_does_not_fit_is_a_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, file()).unwrap();
    let mut wanted = metadata();
    wanted.set("tokenizer.chat_template", "x".repeat(10_000));
    let old = Model::open(&path).unwrap();
    let done = rewrite_metadata(old, &wanted, &nothing).unwrap();
    assert_eq!(done, Rewritten::Replaced);
    let new = Model::open(&path).unwrap();
    assert_eq!(new.metadata(), &wanted);
    assert_eq!(new.data(&new.tensors()[0]), [7; 12]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A change over the border of two pages could be half done.
#[test]
fn a_long_change_is_not_done_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let text = |c: &str| Metadata::from_iter([("general.description", c.repeat(6000))]);
    let tensor = TensorSpec::new("a", [1], TensorType::F32);
    fs::write(&path, to_bytes(&text("a"), [(tensor, [1; 4])]).unwrap()).unwrap();
    let old = Model::open(&path).unwrap();
    assert_eq!(rewrite_metadata(old, &text("b"), &nothing).unwrap(), Rewritten::Replaced);
    assert_eq!(Model::open(&path).unwrap().metadata(), &text("b"));
}

#[test]
fn of_a_split_model_the_first_part_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let specs = ["a", "b"].map(|name| TensorSpec::new(name, [4], TensorType::F32));
    let layout =
        ModelLayout::plan(&metadata(), specs.to_vec(), Default::default(), Split::Tensors(1));
    let writer = ModelWriter::create(&path, layout.unwrap(), Overwrite::Forbid).unwrap();
    writer.write_at(0, 0, &[1; 16]).unwrap();
    writer.write_at(1, 0, &[2; 16]).unwrap();
    writer.seal().unwrap().publish().unwrap();
    let second = folder.path().join("model-00002-of-00002.gguf");
    let before = fs::read(&second).unwrap();
    let mut wanted = metadata();
    wanted.remove("general.name");
    rewrite_metadata(Model::open(&second).unwrap(), &wanted, &nothing).unwrap();
    let new = Model::open(&second).unwrap();
    assert_eq!(new.metadata(), &wanted);
    assert_eq!(new.tensors().len(), 2);
    assert_eq!(fs::read(&second).unwrap(), before);
}

#[cfg(unix)]
#[test]
fn a_link_and_who_may_read_stay() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("model.gguf"), folder.path().join("link.gguf"));
    fs::write(&path, file()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    symlink("model.gguf", &link).unwrap();
    let mut wanted = metadata();
    wanted.set("general.description", "longer than the room that alignment has left in the file");
    rewrite_metadata(Model::open(&link).unwrap(), &wanted, &nothing).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Model::open(&path).unwrap().metadata(), &wanted);
}
