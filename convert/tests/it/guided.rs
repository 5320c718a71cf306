//! Quantizing with importance.

use std::{fs, path::Path, sync::Arc};

use llq_convert::{
    Entry, Imatrix, ImatrixFormat, Overwrite, Plan, Request, Tensors, TypeRules, open,
};
use llq_fixtures::{fixture, shared};
use llq_gguf::{Model, TensorType, Value};
use llq_quant::{
    Encoding, format,
    mix::{Guidance, Mix, Purity, Recipe},
};

use crate::support::{
    assert_says, converted_model, failure, request,
    tiny::{EMBEDDING, FEED_FORWARD, Tiny},
};

/// The file `importance` of these tensors, read.
fn imatrix(tensors: &[(&str, Vec<f32>, Vec<f32>)]) -> Arc<Imatrix> {
    let mut imatrix = Imatrix::new(vec!["text.txt".to_owned()], 3, 512);
    for (name, sums, counts) in tensors {
        imatrix.add(name, Entry::new(name, sums.clone(), counts.clone()).unwrap()).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("importance");
    imatrix.write(&path, ImatrixFormat::Gguf, Overwrite::Forbid).unwrap();
    Arc::new(Imatrix::read(&path).unwrap().0)
}

fn uneven(columns: u64, seed: u64) -> Vec<f32> {
    (0..columns).map(|column| ((column * 37 + seed * 11) % 101) as f32 + 0.5).collect()
}

fn weights(model: &Model, name: &str) -> Vec<f32> {
    let info = model.tensor(name).unwrap();
    let mut weights = vec![0.0; info.weights() as usize];
    format(info.tensor_type).unwrap().dequantize(model.data(info), &mut weights).unwrap();
    weights
}

/// Each expert has its own importance, wherever a group of rows starts; one that saw nothing is
/// encoded without.
#[test]
fn experts_are_guided_by_their_own_slice() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::with_experts(3).write(folder.path());
    let name = "blk.1.ffn_down_exps.weight";
    let sums: Vec<f32> = (0..3).flat_map(|expert| uneven(FEED_FORWARD, expert)).collect();
    let known = imatrix(&[(name, sums.clone(), vec![5.0, 0.0, 7.0])]);
    let plain = converted_model(folder.path(), &request(Mix::F32));
    let guided = Request { imatrix: Some(known), ..request(Mix::Q4_0) };
    let model = converted_model(folder.path(), &guided);

    let cols = FEED_FORWARD as usize;
    let mut expected = Vec::new();
    for (row, weights) in weights(&plain, name).chunks(cols).enumerate() {
        let expert = row / EMBEDDING as usize;
        let importance = (expert != 1).then_some(&sums[expert * cols..][..cols]);
        let mut block = vec![0; TensorType::Q4_0.row_bytes(FEED_FORWARD).unwrap() as usize];
        format(TensorType::Q4_0)
            .unwrap()
            .encode_row(weights, Encoding::weighted(importance), &mut block)
            .unwrap();
        expected.extend(block);
    }
    let info = model.tensor(name).unwrap();
    assert_eq!(info.tensor_type, TensorType::Q4_0);
    assert!(model.data(info) == expected);
    let unguided = converted_model(folder.path(), &request(Mix::Q4_0));
    assert!(unguided.data(unguided.tensor(name).unwrap()) != expected);
}

#[test]
fn the_file_is_told_in_the_metadata_and_what_it_lacks_in_a_note() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let known = imatrix(&[("blk.0.attn_q.weight", uneven(EMBEDDING, 1), vec![9.0])]);
    let request = Request { imatrix: Some(known), ..request(Mix::Q4_0) };
    let plan = Plan::new(&*open(folder.path()).unwrap(), &request).unwrap();
    let notes: Vec<&str> = plan.notes().iter().map(|note| note.0.as_str()).collect();
    assert!(
        notes.iter().any(|note| note.contains("13 tensors") && note.contains("importance")),
        "{notes:?}"
    );
    let guided = plan.tensors().iter().filter(|tensor| tensor.guidance == Guidance::Importance);
    assert_eq!(guided.map(|tensor| &tensor.name[..]).collect::<Vec<_>>(), ["blk.0.attn_q.weight"]);

    let model = converted_model(folder.path(), &request);
    let keys: Vec<_> = model.metadata().iter().map(|(key, value)| (key, value.clone())).collect();
    let expected = [
        ("quantize.imatrix.file", Value::from("importance")),
        ("quantize.imatrix.dataset", Value::from("text.txt")),
        ("quantize.imatrix.entries_count", Value::U32(1)),
        ("quantize.imatrix.chunks_count", Value::U32(3)),
    ];
    assert_eq!(keys[keys.len() - 4..], expected);
}

#[test]
fn importance_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let refusal = |tensors: &[(&str, Vec<f32>, Vec<f32>)]| {
        let request = Request { imatrix: Some(imatrix(tensors)), ..request(Mix::Q4_0) };
        failure(folder.path(), &request)
    };
    let wide = uneven(2 * EMBEDDING, 1);
    let error = refusal(&[("blk.0.attn_q.weight", wide.clone(), vec![1.0])]);
    assert_says(&error, &["importance: ", "blk.0.attn_q.weight", "64", "32"]);
    let error = refusal(&[("blk.0.attn_q.weight", wide.clone(), vec![1.0, 1.0])]);
    assert_says(&error, &["blk.0.attn_q.weight"]);
    let error = refusal(&[("model.norm", vec![1.0], vec![1.0])]);
    assert_says(&error, &["importance: ", "none of the model's tensors"]);
    // The field's standard tool goes on where only the embedding does not fit.
    let known = imatrix(&[("token_embd.weight", wide, vec![1.0])]);
    let request = Request { imatrix: Some(known), ..request(Mix::Q4_0) };
    let plan = Plan::new(&*open(folder.path()).unwrap(), &request).unwrap();
    assert!(plan.notes().iter().any(|note| note.0.contains("token_embd.weight")));
}

/// A golden file, and how llq is asked for the same.
struct Case {
    golden: &'static str,
    mix: Mix,
    purity: Purity,
    /// Type of embedding and output, where the golden file has its own.
    outer: Option<TensorType>,
}

const CASES: [Case; 6] = [
    Case { golden: "q2_k-imatrix", mix: Mix::Q2_K, purity: Purity::Mixed, outer: None },
    Case { golden: "q3_k_m-imatrix", mix: Mix::Q3_K_M, purity: Purity::Mixed, outer: None },
    Case { golden: "q4_k_m-imatrix", mix: Mix::Q4_K_M, purity: Purity::Mixed, outer: None },
    Case::blocks("q2_k-blocks", Mix::Q2_K),
    Case::blocks("q3_k_s-blocks", Mix::Q3_K_S),
    Case::blocks("q4_k_s-blocks", Mix::Q4_K_S),
];

impl Case {
    const fn blocks(golden: &'static str, mix: Mix) -> Case {
        Case { golden, mix, purity: Purity::Pure, outer: Some(TensorType::Q8_0) }
    }

    fn request(&self, imatrix: &Arc<Imatrix>) -> Request {
        let mut rules = TypeRules::default();
        if let Some(outer) = self.outer {
            rules.push(Tensors::Output, outer, "test");
            rules.push(Tensors::TokenEmbedding, outer, "test");
        }
        let recipe = Recipe { purity: self.purity, ..Recipe::new(self.mix) };
        let output = llq_convert::Output::Recipe(recipe);
        Request { output, rules, imatrix: Some(imatrix.clone()), ..Request::default() }
    }
}

/// With the golden importance, errors beside real inputs are smaller than those in the golden files, in
/// every tensor. Q2_K and Q3_K keep the size of the weights, which costs error and gains KL divergence:
/// there they are no larger on the mean, and nowhere by a hundredth.
#[test]
fn guided_errors_do_not_exceed_golden() {
    let Some(path) = shared("golden/imatrix.gguf") else { return };
    let imatrix = Arc::new(Imatrix::read(&path).unwrap().0);
    let checkpoint = fixture("tiny-llama-2/hf");
    let plain = converted_model(&checkpoint, &request(Mix::F32));
    for case in CASES {
        let Some(path) = shared(&format!("golden/gguf/{}.gguf", case.golden)) else { return };
        let golden = Model::open(&path).unwrap();
        let model = converted_model(&checkpoint, &case.request(&imatrix));
        assert_eq!(model.tensors().len(), golden.tensors().len());
        let mut ratios = Vec::new();
        for info in golden.tensors() {
            let name = &info.name;
            assert_eq!(model.tensor(name).unwrap().tensor_type, info.tensor_type, "{name}");
            let Some(entry) = imatrix.entry(name) else { continue };
            let weights_of = |model: &Model| weights(model, name);
            let plain = weights_of(&plain);
            let inputs = entry.mean_squares();
            let [found, golden] =
                [&model, &golden].map(|model| error(&plain, &weights_of(model), &inputs));
            ratios.push(found / golden);
        }
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        let worst = ratios.iter().copied().fold(0.0, f64::max);
        println!("{}: {mean} mean, {worst} worst", case.golden);
        let (most, most_anywhere) = match &case.golden[..2] {
            "q2" | "q3" => (1.001, 1.01),
            _ => (1.0, 1.0),
        };
        let is_as_good = mean < most && worst < most_anywhere;
        assert!(is_as_good, "{}: {mean} mean, {worst} worst", case.golden);
    }
}

/// What the errors of some rows do to outputs, where each input channel has this mean square.
fn error(weights: &[f32], decoded: &[f32], mean_squares: &[f32]) -> f64 {
    let pairs = weights.iter().zip(decoded).zip(mean_squares.iter().cycle());
    pairs.map(|((&x, &y), &q)| f64::from(q) * (f64::from(y) - f64::from(x)).powi(2)).sum()
}

/// Files of either form, and of one window more, guide alike.
#[test]
fn both_forms_guide_alike() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let known = imatrix(&[("blk.0.ffn_down.weight", uneven(FEED_FORWARD, 2), vec![1536.0])]);
    let dat = folder.path().join("importance.dat");
    known.write(&dat, ImatrixFormat::Dat, Overwrite::Forbid).unwrap();
    let model = |imatrix: Arc<Imatrix>| {
        let request = Request { imatrix: Some(imatrix), ..request(Mix::Q4_0) };
        let model = converted_model(folder.path(), &request);
        model.data(model.tensor("blk.0.ffn_down.weight").unwrap()).to_vec()
    };
    let older = Arc::new(Imatrix::read(Path::new(&dat)).unwrap().0);
    assert!(model(known) == model(older));
    assert!(fs::metadata(dat).unwrap().len() > 0);
}
