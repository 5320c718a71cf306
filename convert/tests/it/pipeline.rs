//! Properties of the pipeline: what it must not depend on, and what it must refuse.

use std::fs;

use llq_convert::{Error, Output, Overwrite, Plan, Requantize, Request, Silent, open, write};
use llq_fixtures::fixture;
use llq_gguf::{Model, TensorType};
use llq_quant::{
    Encoding,
    mix::{Mix, Purity, Recipe},
};
use serde_json::json;

use crate::support::{
    assert_says, converted, converted_model, failure, listing, request,
    tiny::{EMBEDDING, Tensor, Tiny},
    try_convert,
};

#[test]
fn direct_conversion_equals_convert_then_quantize() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = fixture("tiny-llama-2/hf");
    let intermediate = folder.path().join("bf16.gguf");
    try_convert(&checkpoint, &intermediate, &request(Mix::BF16)).unwrap();
    for mix in [Mix::Q8_0, Mix::Q4_0, Mix::F16] {
        let direct = converted(&checkpoint, &request(mix));
        assert!(direct == converted(&intermediate, &request(mix)), "{mix}");
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let with_threads = |threads, form| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| converted(&fixture(form), &request(Mix::Q8_0)))
    };
    for form in ["tiny-llama-2/hf", "tiny-llama-2/meta"] {
        let one = with_threads(1, form);
        assert!(one == with_threads(2, form));
        // So many that the groups of rows are smaller.
        assert!(one == with_threads(64, form));
    }
}

#[test]
fn auto_is_the_type_of_the_first_matrix() {
    let checkpoint = fixture("tiny-llama-2/hf");
    let auto = converted(&checkpoint, &Request::default());
    assert!(auto == converted(&checkpoint, &request(Mix::BF16)));
    let source = open(&checkpoint).unwrap();
    let plan = Plan::new(&*source, &Request::default()).unwrap();
    assert_eq!(plan.recipe().map(|recipe| recipe.mix), Some(Mix::BF16));
    assert!(plan.notes()[0].0.contains("token_embd.weight"), "{:?}", plan.notes());
}

#[test]
fn a_plan_knows_the_size_and_says_its_fallbacks() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let source = open(folder.path()).unwrap();
    let recipe = Recipe { purity: Purity::Pure, ..Recipe::new(Mix::Q4_K_M) };
    let request = Request { output: Output::Recipe(recipe), ..Request::default() };
    let plan = Plan::new(&*source, &request).unwrap();
    // Rows of 32 hold no block of 256.
    let (tensor, fallback) = plan.fallbacks().next().unwrap();
    assert_eq!((tensor.to, fallback.wanted), (TensorType::Q5_0, TensorType::Q4_K));
    assert_eq!(plan.fallbacks().count(), 16);
    let written = converted(folder.path(), &request);
    assert_eq!(written.len() as u64, plan.file_bytes());
    assert!(plan.bits_per_weight() > 5.5 && plan.bits_per_weight() < 8.0);
}

#[test]
fn progress_adds_up() {
    #[derive(Default)]
    struct Sum(std::sync::atomic::AtomicU64, std::sync::atomic::AtomicU64);
    impl llq_convert::Progress for Sum {
        fn begin(&self, total: u64) {
            self.0.store(total, std::sync::atomic::Ordering::Relaxed);
        }
        fn advance(&self, bytes: u64) {
            self.1.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let source = open(&fixture("tiny-llama-2/meta")).unwrap();
    let plan = Plan::new(&*source, &Request::default()).unwrap();
    let sum = Sum::default();
    let target = folder.path().join("out.gguf");
    write(&*source, &plan, &target, Overwrite::Forbid, &sum).unwrap();
    assert_eq!(sum.0.into_inner(), plan.source_bytes());
    assert_eq!(sum.1.into_inner(), plan.source_bytes());
}

#[test]
fn quantized_sources_are_quantized_again_only_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let quantized = folder.path().join("q8_0.gguf");
    try_convert(&fixture("tiny-llama-2/hf"), &quantized, &request(Mix::Q8_0)).unwrap();
    let error = failure(&quantized, &request(Mix::Q4_0));
    assert!(
        matches!(&error, Error::AlreadyQuantized { tensor, .. } if tensor == "token_embd.weight")
    );
    assert_says(&error, &["Q8_0", "Q4_0"]);

    let allowed = Request { requantize: Requantize::Allow, ..request(Mix::Q4_0) };
    let model = converted_model(&quantized, &allowed);
    assert_eq!(model.tensor("blk.0.attn_q.weight").unwrap().tensor_type, TensorType::Q4_0);
    // The same type is a copy, which needs no leave.
    assert!(converted(&quantized, &request(Mix::Q8_0)) == fs::read(&quantized).unwrap());
}

/// More rows than are decoded at a time, and not a multiple of them.
#[test]
fn tall_tensors_are_encoded_row_by_row() {
    const ROWS: u64 = 1120;
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.config["intermediate_size"] = json!(ROWS);
    for (name, tensor) in &mut tiny.tensors {
        if name.contains(".mlp.") {
            let shape = if name.contains("down") { [EMBEDDING, ROWS] } else { [ROWS, EMBEDDING] };
            *tensor = Tensor::new(name.len(), &shape);
        }
    }
    tiny.write(folder.path());
    let up = tiny.tensors["model.layers.1.mlp.up_proj.weight"].weights.clone();

    let model = converted_model(folder.path(), &request(Mix::Q8_0));
    let written = model.data(model.tensor("blk.1.ffn_up.weight").unwrap());
    let q8_0 = llq_quant::format(TensorType::Q8_0).unwrap();
    let mut expected = vec![0; 34];
    for (row, bytes) in up.chunks_exact(32).zip(written.chunks_exact(34)) {
        q8_0.encode_row(row, Encoding::default(), &mut expected).unwrap();
        assert_eq!(bytes, expected);
    }

    let tensor = tiny.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
    tensor.weights[700 * 32 + 5] = f32::NAN;
    tiny.write(folder.path());
    let error = failure(folder.path(), &request(Mix::Q8_0));
    assert!(matches!(&error, Error::NonFinite { row: 700, column: 5, .. }), "{error}");
}

#[test]
fn weights_that_are_not_finite_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    let tensor = tiny.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
    tensor.weights[3 * 32 + 5] = f32::NAN;
    tensor.weights[9 * 32 + 1] = f32::INFINITY;
    tiny.write(folder.path());

    let error = failure(folder.path(), &request(Mix::Q8_0));
    let Error::NonFinite { tensor, row: 3, column: 5, .. } = &error else { panic!("{error}") };
    assert_eq!(tensor, "blk.1.ffn_up.weight");

    let out = tempfile::tempdir().unwrap();
    for mix in [Mix::BF16, Mix::F32] {
        let target = out.path().join(mix.name());
        let report = try_convert(folder.path(), &target, &request(mix)).unwrap();
        assert_eq!(report.non_finite.len(), 1);
        assert_eq!(report.non_finite[0].tensor, "blk.1.ffn_up.weight");
        assert_eq!(report.non_finite[0].weights, 2);
    }
}

#[test]
fn weights_too_large_for_f16_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.tensors.get_mut("lm_head.weight").unwrap().weights[33] = -65536.0;
    tiny.write(folder.path());
    let error = failure(folder.path(), &request(Mix::F16));
    let Error::Overflow { tensors } = &error else { panic!("{error}") };
    assert_eq!((tensors.len(), tensors[0].weights, tensors[0].largest), (1, 1, 65536.0));
    assert_says(&error, &["output.weight", "6.5536e4", "F16"]);
    converted(folder.path(), &request(Mix::BF16));
}

#[test]
fn the_first_failure_is_reported_whatever_thread_meets_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    for tensor in tiny.tensors.values_mut().filter(|tensor| tensor.shape.len() > 1) {
        tensor.weights[7] = f32::NAN;
    }
    tiny.write(folder.path());
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let error = pool.install(|| failure(folder.path(), &request(Mix::Q8_0)));
        assert_says(&error, &["token_embd.weight", "row 0, column 7"]);
    }
}

#[test]
fn an_existing_file_is_replaced_only_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.gguf");
    fs::write(&target, "precious").unwrap();
    let source = open(&fixture("tiny-llama-2/hf")).unwrap();
    let plan = Plan::new(&*source, &Request::default()).unwrap();
    write(&*source, &plan, &target, Overwrite::Forbid, &Silent).unwrap_err();
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert_eq!(listing(folder.path()), ["out.gguf"]);
    write(&*source, &plan, &target, Overwrite::Replace, &Silent).unwrap();
    assert_eq!(listing(folder.path()), ["out.gguf"]);

    let source = open(&target).unwrap();
    let plan = Plan::new(&*source, &request(Mix::Q8_0)).unwrap();
    let error = write(&*source, &plan, &target, Overwrite::Replace, &Silent).unwrap_err();
    assert!(matches!(error, Error::TargetIsSource { .. }));
}

#[test]
fn a_truncated_gguf_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = converted(&fixture("tiny-llama-2/hf"), &Request::default());
    let path = folder.path().join("cut.gguf");
    for length in [3, 40, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        failure(&path, &Request::default());
    }
}

#[test]
fn the_context_length_can_be_given() {
    let request = Request { context_length: Some(777), ..Request::default() };
    let model = converted_model(&fixture("tiny-llama-2/meta"), &request);
    assert_eq!(model.metadata().count("llama.context_length").unwrap(), 777);
    // It keeps its place among the keys.
    let position = model.metadata().iter().position(|(key, _)| key == "llama.context_length");
    assert_eq!(position, Some(5));
}

#[test]
fn blocks_come_in_the_order_of_their_numbers() {
    let model: Model = converted_model(&fixture("tiny-llama-2/meta"), &Request::default());
    let names: Vec<&str> = model.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names[..3], ["token_embd.weight", "output_norm.weight", "output.weight"]);
    let blocks: Vec<u32> =
        names[3..].iter().map(|name| name.split('.').nth(1).unwrap().parse().unwrap()).collect();
    assert!(blocks.is_sorted());
}

#[test]
fn big_endian_files_are_turned() {
    let folder = tempfile::tempdir().unwrap();
    let big = folder.path().join("big.gguf");
    let model = converted_model(&fixture("tiny-llama-2/hf"), &request(Mix::Q8_0));
    fs::write(&big, big_endian(&model)).unwrap();
    let turned = converted_model(&big, &request(Mix::Q8_0));
    for tensor in model.tensors() {
        let info = turned.tensor(&tensor.name).unwrap();
        assert!(turned.data(info) == model.data(tensor), "{}", tensor.name);
    }
}

/// The tensors of a model as a big-endian file of version 3 with one metadata key.
fn big_endian(model: &Model) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_be_bytes());
    file.extend((model.tensors().len() as u64).to_be_bytes());
    file.extend(1u64.to_be_bytes());
    let text = |file: &mut Vec<u8>, text: &str| {
        file.extend((text.len() as u64).to_be_bytes());
        file.extend(text.bytes());
    };
    text(&mut file, "general.architecture");
    file.extend(8u32.to_be_bytes());
    text(&mut file, "llama");
    let mut data: Vec<u8> = Vec::new();
    for tensor in model.tensors() {
        text(&mut file, &tensor.name);
        file.extend((tensor.shape.len() as u32).to_be_bytes());
        tensor.shape.iter().for_each(|extent| file.extend(extent.to_be_bytes()));
        file.extend(tensor.tensor_type.id().to_be_bytes());
        file.extend((data.len() as u64).to_be_bytes());
        let mut bytes = model.data(tensor).to_vec();
        llq_quant::format(tensor.tensor_type).unwrap().swap_endian(&mut bytes);
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    file
}
