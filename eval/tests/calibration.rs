//! Calibrated rounding of the fixture model.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use llq_eval::{
    Against, Calibrated, Calibration, Corpus, Error, Finished, Llama, Mode, Options, Tokenizer,
    calibrate, evaluate,
};
use llq_gguf::{Model, TensorSpec, TensorType};
use llq_quant::FORMATS;
use rayon::ThreadPoolBuilder;
use support::{corpus, encode, golden, model, tensors, tiny_llama};

/// Keeps what is finished, and at some point can't any more.
struct Store {
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
    left: AtomicUsize,
}

impl Store {
    fn with_room(left: usize) -> Store {
        Store { kept: Mutex::default(), left: AtomicUsize::new(left) }
    }

    fn into_kept(self) -> BTreeMap<String, Vec<u8>> {
        self.kept.into_inner().unwrap()
    }
}

impl Finished for Store {
    fn load(&self, name: &str, len: usize) -> Option<Vec<u8>> {
        self.kept.lock().unwrap().get(name).filter(|bytes| bytes.len() == len).cloned()
    }

    fn store(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let left = self.left.load(SeqCst);
        if left == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.left.store(left - 1, SeqCst);
        self.kept.lock().unwrap().insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }
}

fn run(
    model: &Model,
    corpus: &Corpus,
    options: &Calibration,
    threads: usize,
    store: &Store,
) -> Result<Calibrated, Error> {
    let llama = Llama::load(model).unwrap();
    let types = |name: &str| match name {
        "output.weight" | "token_embd.weight" => Some(TensorType::Q8_0),
        _ => Some(TensorType::Q3_K),
    };
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| calibrate(&llama, &types, corpus, options, store, &()))
}

#[test]
fn a_resumed_run_makes_the_same_bytes_on_any_number_of_threads() {
    let Some((model, _)) = first_blocks(2, TensorType::BF16) else { return };
    let Some(corpus) = corpus(&model, "sampled") else { return };
    let options = Calibration { context: 32, windows: 16 };
    let whole = Store::with_room(usize::MAX);
    let done = run(&model, &corpus, &options, 2, &whole).unwrap();
    assert_eq!((done.tensors.len(), done.tokens), (2 * 7 + 2, 16 * 32));

    let whole = whole.into_kept();
    // Among what errors cost, and among tensors.
    for room in [1, 9] {
        let mut ended = Store::with_room(room);
        let error = run(&model, &corpus, &options, 1, &ended).unwrap_err();
        assert!(matches!(error, Error::Finished { .. }), "{error}");
        assert_eq!(ended.kept.lock().unwrap().len(), room);
        *ended.left.get_mut() = usize::MAX;
        assert_eq!(run(&model, &corpus, &options, 3, &ended).unwrap(), done);
        assert!(ended.into_kept() == whole);
    }
}

/// What errors cost in a block's outputs is kept; without it, its tensors would differ.
#[test]
fn a_run_that_lost_a_part_is_refused() {
    let Some(model) = tiny_llama(TensorType::BF16) else { return };
    let Some(corpus) = corpus(&model, "sampled") else { return };
    let options = Calibration { context: 32, windows: 2 };
    let mut ended = Store::with_room(9);
    run(&model, &corpus, &options, 2, &ended).unwrap_err();
    *ended.left.get_mut() = usize::MAX;
    assert!(ended.kept.lock().unwrap().remove("sensitivity.4").is_some());
    let error = run(&model, &corpus, &options, 2, &ended).unwrap_err();
    assert!(matches!(error, Error::Finished { name, .. } if name == "sensitivity.4"));
}

#[test]
fn an_embedding_that_is_the_head_as_well_is_calibrated_as_that() {
    let Some(base) = tiny_llama(TensorType::F32) else { return };
    let Some(text) = corpus(&base, "sampled") else { return };
    let Some(unseen) = corpus(&base, "holmes") else { return };
    let mut tied = tensors(TensorType::F32);
    let head = tied.iter().position(|(spec, _)| spec.name == "output.weight").unwrap();
    let head = tied.remove(head).1;
    let place = tied.iter().position(|(spec, _)| spec.name == "token_embd.weight").unwrap();
    tied[place].1 = head;
    let base = model(base.metadata(), &tied);
    let store = Store::with_room(usize::MAX);
    let options = Calibration { context: 256, windows: 16 };
    let types = |name: &str| (name == "token_embd.weight").then_some(TensorType::Q3_K);
    let llama = Llama::load(&base).unwrap();
    let done = calibrate(&llama, &types, &text, &options, &store, &()).unwrap();
    assert_eq!((done.tensors.len(), done.plain.len()), (1, 0));
    let made = &store.into_kept()["token_embd.weight"];
    let (spec, bytes) = &tied[place];
    let weights: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let plain = encode(&weights, spec.shape[0] as usize, TensorType::Q3_K);
    let [calibrated, plain] = [&made[..made.len() - 1], &plain].map(|bytes| {
        let mut tensors = tied.clone();
        tensors[place].0.tensor_type = TensorType::Q3_K;
        tensors[place].1 = bytes.to_vec();
        divergence(&base, &tensors, &unseen)
    });
    assert!(calibrated < 0.95 * plain, "{calibrated} of {plain}");
}

/// The divergence from the fixture of what it becomes, on text that neither was made with.
fn divergence(base: &Model, tensors: &[(TensorSpec, Vec<u8>)], corpus: &Corpus) -> f64 {
    let made = model(base.metadata(), tensors);
    let (base, made) = (Llama::load(base).unwrap(), Llama::load(&made).unwrap());
    let options = Options { mode: Mode::Exact, context: 256, chunks: Some(4) };
    let report = evaluate(&made, Against::Model(&base), corpus, &options, &()).unwrap();
    report.against.unwrap().kld.mean
}

#[test]
fn calibrated_files_predict_better_than_plain_ones() {
    let Some((base, mut calibrated)) = first_blocks(2, TensorType::F32) else { return };
    let Some(text) = corpus(&base, "sampled") else { return };
    let Some(unseen) = corpus(&base, "holmes") else { return };
    let store = Store::with_room(usize::MAX);
    let options = Calibration { context: 256, windows: 32 };
    let done = run(&base, &text, &options, 2, &store).unwrap();
    assert!(done.plain.len() < 5, "{:?}", done.plain);
    let kept = store.into_kept();
    let mut plain = calibrated.clone();
    for ((spec, bytes), (plain_spec, plain_bytes)) in calibrated.iter_mut().zip(&mut plain) {
        let Some(made) = kept.get(&spec.name) else { continue };
        let weights: Vec<f32> =
            bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let tensor_type = match &*spec.name {
            "output.weight" | "token_embd.weight" => TensorType::Q8_0,
            _ => TensorType::Q3_K,
        };
        (spec.tensor_type, plain_spec.tensor_type) = (tensor_type, tensor_type);
        *bytes = made[..made.len() - 1].to_vec();
        *plain_bytes = encode(&weights, spec.shape[0] as usize, tensor_type);
        assert_eq!(bytes.len(), plain_bytes.len(), "{}", spec.name);
    }
    let [calibrated, plain] =
        [calibrated, plain].map(|tensors| divergence(&base, &tensors, &unseen));
    assert!(calibrated < 0.6 * plain, "{calibrated} of {plain}");
}

#[test]
fn what_cannot_be_calibrated_is_refused() {
    let Some(model) = golden("q4_0") else { return };
    let Some(corpus) = corpus(&model, "sampled") else { return };
    let refused = |context, windows| {
        let options = Calibration { context, windows };
        run(&model, &corpus, &options, 1, &Store::with_room(0)).unwrap_err()
    };
    assert!(matches!(refused(2, 1), Error::Context { .. }));
    assert!(matches!(refused(64, 0), Error::NoWindows));
    assert!(matches!(refused(1 << 20, 1), Error::CorpusTooShort { .. }));
    assert!(matches!(refused(64, 1), Error::Finished { .. }));
}

/// The fixture's first blocks alone, and what belongs to them.
fn first_blocks(
    count: u32,
    tensor_type: TensorType,
) -> Option<(Model, Vec<(TensorSpec, Vec<u8>)>)> {
    let mut metadata = tiny_llama(tensor_type)?.metadata().clone();
    metadata.set("llama.block_count", count);
    let mut all = tensors(tensor_type);
    let is_kept = |name: &str| (0..count).any(|block| name.starts_with(&format!("blk.{block}.")));
    all.retain(|(spec, _)| !spec.name.starts_with("blk.") || is_kept(&spec.name));
    Some((model(&metadata, &all), all))
}

/// The tensors of block 0 calibrated to a type; which of them are plain; and the model with all of
/// them, and with all of them plain.
fn calibrated_block(
    (base, all): &(Model, Vec<(TensorSpec, Vec<u8>)>),
    tensor_type: TensorType,
    text: &Corpus,
    options: &Calibration,
) -> (Calibrated, [Vec<(TensorSpec, Vec<u8>)>; 2]) {
    let store = Store::with_room(usize::MAX);
    let types = |name: &str| name.starts_with("blk.").then_some(tensor_type);
    let llama = Llama::load(base).unwrap();
    let done = calibrate(&llama, &types, text, options, &store, &()).unwrap();
    let kept = store.into_kept();
    let (mut calibrated, mut plain) = (all.clone(), all.clone());
    for ((spec, bytes), (plain_spec, plain_bytes)) in calibrated.iter_mut().zip(&mut plain) {
        if !done.tensors.contains(&spec.name) {
            continue;
        }
        let weights: Vec<f32> =
            bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (spec.tensor_type, plain_spec.tensor_type) = (tensor_type, tensor_type);
        let made = &kept[&spec.name];
        *bytes = made[..made.len() - 1].to_vec();
        *plain_bytes = encode(&weights, spec.shape[0] as usize, tensor_type);
    }
    (done, [calibrated, plain])
}

#[test]
fn no_type_loses_to_plain_rounding_on_text_that_was_held_out() {
    let Some(block) = first_blocks(1, TensorType::F32) else { return };
    let Some(text) = corpus(&block.0, "sampled") else { return };
    let Some(unseen) = corpus(&block.0, "holmes") else { return };
    let options = Calibration { context: 128, windows: 16 };
    for name in ["Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q4_K", "Q6_K"] {
        let tensor_type = FORMATS.iter().find(|format| format.name() == name).unwrap().tensor_type;
        let (_, made) = calibrated_block(&block, tensor_type, &text, &options);
        let [calibrated, plain] = made.map(|tensors| divergence(&block.0, &tensors, &unseen));
        assert!(calibrated < 0.9 * plain, "{name}: {calibrated} of {plain}");
    }
}

/// Seven windows of one word, and a held-out one of text, for which that taught nothing.
#[test]
fn a_tensor_that_lost_on_held_out_text_is_rounded_plainly() {
    let Some(block) = first_blocks(1, TensorType::F32) else { return };
    let path = llq_fixtures::fixture("sampled.txt");
    let tokenizer = Tokenizer::from_metadata(block.0.metadata()).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let options = Calibration { context: 32, windows: 8 };
    let words = " the".repeat(7 * options.context - 1);
    let text = Corpus::tokenize(&tokenizer, &(words + &text[..400]));
    let text = text.first(options.context, options.windows);
    for tensor_type in [TensorType::Q4_0, TensorType::Q3_K] {
        let (done, [made, plain]) = calibrated_block(&block, tensor_type, &text, &options);
        assert!(!done.plain.is_empty(), "{tensor_type}");
        for ((spec, made), (_, plain)) in made.iter().zip(&plain) {
            let kept_plain = done.plain.contains(&spec.name) || !spec.name.contains("blk.");
            let is_norm = spec.name.contains("norm");
            assert_eq!(made == plain, kept_plain || is_norm, "{tensor_type}: {}", spec.name);
        }
    }
}
