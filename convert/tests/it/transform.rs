//! Channels in another order or at another scale.

use llq_convert::{
    Entry, Error, Imatrix, Output, Plan, Request, Source, Transform, open, transformed,
};
use llq_gguf::TensorType;
use llq_quant::{
    format,
    mix::{Mix, Recipe},
};

use crate::support::{
    assert_says, converted,
    tiny::{EMBEDDING, FEED_FORWARD, Tiny},
};

const BOTH: [Transform; 2] = [Transform::Order, Transform::Scale];

/// The small model as GGUF of a plain type, in a folder of its own.
fn gguf(tiny: &Tiny, mix: Mix) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    tiny.write(folder.path());
    let request = Request { output: Output::Recipe(Recipe::new(mix)), ..Request::default() };
    let bytes = converted(folder.path(), &request);
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn energy(columns: u64, seed: u64) -> Vec<f32> {
    (0..columns).map(|column| ((column * 37 + seed * 11) % 101 + 1) as f32 * 0.1).collect()
}

fn importance() -> Imatrix {
    let mut imatrix = Imatrix::new(vec!["text.txt".to_owned()], 1, 512);
    let mut add = |name: &str, columns, seed| {
        imatrix.add(name, Entry::new(name, energy(columns, seed), vec![1.0]).unwrap()).unwrap();
    };
    for block in 0..2 {
        add(&format!("blk.{block}.attn_q.weight"), EMBEDDING, 1 + block);
        add(&format!("blk.{block}.attn_output.weight"), EMBEDDING, 3 + block);
        add(&format!("blk.{block}.ffn_gate.weight"), EMBEDDING, 5 + block);
        add(&format!("blk.{block}.ffn_down.weight"), FEED_FORWARD, 7 + block);
    }
    add("output.weight", EMBEDDING, 9);
    imatrix
}

/// Tensor `name`, rows of columns.
fn matrix(source: &dyn Source, name: &str) -> Vec<Vec<f32>> {
    let index = source.tensors().iter().position(|spec| spec.name == name).unwrap();
    let spec = &source.tensors()[index];
    let (columns, rows) = (spec.shape[0], spec.shape.iter().skip(1).product::<u64>());
    let row_bytes = spec.tensor_type.row_bytes(columns).unwrap() as usize;
    let mut bytes = vec![0; rows as usize * row_bytes];
    source.read_rows(index, 0..rows, &mut bytes).unwrap();
    // Rows by themselves are the same.
    let mut last = vec![0; row_bytes];
    source.read_rows(index, rows - 1..rows, &mut last).unwrap();
    assert!(bytes.ends_with(&last), "{name}");
    let mut weights = vec![0.0; rows as usize * columns as usize];
    format(spec.tensor_type).unwrap().dequantize(&bytes, &mut weights).unwrap();
    weights.chunks(columns as usize).map(<[f32]>::to_vec).collect()
}

fn refusal(tiny: &Tiny, mix: Mix, imatrix: &Imatrix) -> Error {
    let (_folder, path) = gguf(tiny, mix);
    transformed(open(&path).unwrap(), imatrix, &BOTH).unwrap_err()
}

/// Column `i` of `a` times row `i` of `b` stays the same sum, however channels between them moved:
/// compared where the outer channels are in their old places.
#[test]
fn channels_between_two_matrices_move_and_scale_together() {
    let (_folder, path) = gguf(&Tiny::new(), Mix::BF16);
    let before = open(&path).unwrap();
    let after = transformed(open(&path).unwrap(), &importance(), &BOTH).unwrap();
    // Where the channels of the residual stream went, as no column of the embedding is scaled.
    let columns = |source: &dyn Source| {
        let rows = matrix(source, "token_embd.weight");
        let column = |i: usize| rows.iter().map(|row| row[i].to_bits()).collect::<Vec<_>>();
        (0..EMBEDDING as usize).map(column).collect::<Vec<_>>()
    };
    let (old, new) = (columns(&*before), columns(&*after));
    let order: Vec<usize> =
        new.iter().map(|column| old.iter().position(|old| old == column).unwrap()).collect();
    assert_ne!(order, (0..EMBEDDING as usize).collect::<Vec<_>>());

    let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * b.abs();
    // down (silu(gate x) * (up x)), with x of the norm: a channel is found by its column of down.
    for block in 0..2 {
        let all = |part: &str| {
            let name = format!("blk.{block}.{part}.weight");
            (matrix(&*before, &name), matrix(&*after, &name))
        };
        let ((norm, new_norm), (gate, new_gate)) = (all("ffn_norm"), all("ffn_gate"));
        let ((up, new_up), (down, new_down)) = (all("ffn_up"), all("ffn_down"));
        let mut found = vec![false; FEED_FORWARD as usize];
        for j in 0..FEED_FORWARD as usize {
            let through = |norm: &[f32], row: &[f32], i: usize| norm[i] * row[i];
            let is_same = |&k: &usize| {
                (0..order.len()).all(|i| {
                    let from = order[i];
                    let gated = through(&new_norm[0], &new_gate[j], i);
                    let raised = through(&new_norm[0], &new_up[j], i) * new_down[0][j];
                    near(gated, through(&norm[0], &gate[k], from))
                        && near(raised, through(&norm[0], &up[k], from) * down[order[0]][k])
                })
            };
            let k = (0..FEED_FORWARD as usize).find(is_same).expect("the channel");
            assert!(!std::mem::replace(&mut found[k], true), "channel {k} is there twice");
        }
    }
}

/// Each group of sixteen has its share of the energy.
#[test]
fn what_carries_much_is_dealt_to_all_groups() {
    let mut tiny = Tiny::new();
    // Column j of down tells its place by its value.
    let down = tiny.tensors.get_mut("model.layers.0.mlp.down_proj.weight").unwrap();
    let columns = FEED_FORWARD as usize;
    down.weights.iter_mut().enumerate().for_each(|(i, weight)| *weight = (i % columns) as f32);
    let (_folder, path) = gguf(&tiny, Mix::F32);
    let after = transformed(open(&path).unwrap(), &importance(), &[Transform::Order]).unwrap();
    let energy = energy(FEED_FORWARD, 7);
    let row = &matrix(&*after, "blk.0.ffn_down.weight")[0];
    let groups = row.chunks(16).map(|row| row.iter().map(|&j| energy[j as usize]).sum::<f32>());
    let groups: Vec<f32> = groups.collect();
    let mean = energy.iter().sum::<f32>() / groups.len() as f32;
    assert!(groups.iter().all(|group| (group / mean - 1.0).abs() < 0.02), "{groups:?}");
    let natural = energy.chunks(16).map(|group| group.iter().sum::<f32>());
    assert!(natural.into_iter().any(|group| (group / mean - 1.0).abs() > 0.02));
}

#[test]
fn types_are_kept_where_they_can_hold_the_weights() {
    let types = |mix, transforms: &[Transform]| {
        let (_folder, path) = gguf(&Tiny::new(), mix);
        let source = transformed(open(&path).unwrap(), &importance(), transforms).unwrap();
        let plan = Plan::new(&*source, &Request::default()).unwrap();
        let find = |name: &str| plan.tensors().iter().find(|tensor| tensor.name == name).unwrap();
        let file_type = source.metadata().count("general.file_type").unwrap();
        (find("token_embd.weight").to, find("blk.1.ffn_up.weight").to, file_type)
    };
    let (bf16, f16, f32) = (TensorType::BF16, TensorType::F16, TensorType::F32);
    assert_eq!(types(Mix::BF16, &BOTH), (bf16, f32, Mix::F32.file_type().into()));
    let order = types(Mix::F16, &[Transform::Order]);
    assert_eq!(order, (f16, f16, Mix::F16.file_type().into()));
    assert_eq!(types(Mix::F16, &BOTH), (f16, f32, Mix::F32.file_type().into()));
}

#[test]
fn models_and_importance_that_do_not_fit_are_refused() {
    let error = refusal(&Tiny::with_experts(2), Mix::F32, &importance());
    assert_says(&error, &["model.gguf", "ffn_gate.weight"]);
    let error = refusal(&Tiny::new(), Mix::Q8_0, &importance());
    assert_says(&error, &["quantized weights can't move"]);
    let error = refusal(&Tiny::new(), Mix::F32, &Imatrix::new(Vec::new(), 1, 512));
    assert_says(&error, &["nothing of tensor \"blk.0.attn_q.weight\"", "llq imatrix"]);
    let mut other = Imatrix::new(Vec::new(), 1, 512);
    let name = "blk.0.attn_q.weight";
    other.add(name, Entry::new(name, vec![1.0; 64], vec![1.0]).unwrap()).unwrap();
    let error = refusal(&Tiny::new(), Mix::F32, &other);
    assert_says(&error, &[name, "32", "64", "another model"]);
}
