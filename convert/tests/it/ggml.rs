//! GGML files of 2023: every container, every layout that was withdrawn, and what is damaged.

use std::{fs, path::Path};

use half::f16;
use llq_convert::{
    Error, GgmlError, OpenOptions, Output, Overwrite, Plan, Request, Silent, Withdrawn, open,
    open_with, write,
};
use llq_fixtures::fixture;
use llq_gguf::{Model, TensorType};
use llq_quant::mix::{Mix, Recipe};
use proptest::prelude::*;

use crate::support::{
    assert_says, converted, converted_model, failure,
    ggml::{GGJT_1, GGJT_2, GGJT_3, GGMF, GGML, Ggml},
    meta, request,
    tiny::Tiny,
};

fn of_bytes(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ggml-model.bin");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn notes(path: &Path) -> String {
    open(path).unwrap().notes().iter().map(|note| note.0.clone() + "\n").collect()
}

#[test]
fn every_container_holds_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    meta::write(&Tiny::new(), folder.path(), 1, meta::EmbeddingCut::Rows);
    let expected = converted_model(folder.path(), &request(Mix::F16));
    for container in [GGML, GGMF, GGJT_1, GGJT_2, GGJT_3] {
        let (_folder, path) = of_bytes(&Ggml::tiny(container).bytes());
        let model = converted_model(&path, &Request::default());
        assert_eq!(model.tensors(), expected.tensors());
        for tensor in expected.tensors() {
            assert!(model.data(tensor) == expected.data(tensor), "{}", tensor.name);
        }
        for key in ["block_count", "feed_forward_length", "attention.head_count_kv"] {
            let key = format!("llama.{key}");
            assert_eq!(model.metadata().get(&key), expected.metadata().get(&key), "{key}");
        }
        let tokens = model.metadata().strings("tokenizer.ggml.tokens").unwrap();
        let first: Vec<&str> = tokens.iter().take(4).collect();
        assert_eq!(first, ["<unk>", "<s>", "</s>", "▁token3"]);
    }
}

#[test]
fn a_model_of_today_survives_the_way_through_ggjt_3() {
    for mix in [Mix::F16, Mix::Q4_0, Mix::Q4_K_M] {
        let today = converted_model(&fixture("tiny-llama-2/hf"), &request(mix));
        let (_folder, path) = of_bytes(&Ggml::of(&today, mix.file_type()).bytes());
        let model = converted_model(&path, &Request::default());
        assert_eq!(model.tensors(), today.tensors(), "{mix}");
        for tensor in today.tensors() {
            assert!(model.data(tensor) == today.data(tensor), "{mix}: {}", tensor.name);
        }
        for key in ["tokens", "scores", "token_type", "bos_token_id", "add_bos_token"] {
            let key = format!("tokenizer.ggml.{key}");
            assert_eq!(model.metadata().get(&key), today.metadata().get(&key), "{mix}: {key}");
        }
        let file_type = model.metadata().count("general.file_type").unwrap();
        assert_eq!(file_type, u64::from(mix.file_type()));
    }
}

/// A row of 64 weights in a withdrawn layout, and what it stands for.
struct OldRow {
    container: crate::support::ggml::Container,
    id: u32,
    bytes: Vec<u8>,
    weights: Vec<f32>,
    /// The weights with scales and minima rounded to F16.
    rounded: Vec<f32>,
    today: TensorType,
}

/// Rows of every layout by the formulas of 2023, with scales that F16 has no place for.
fn old_rows() -> Vec<OldRow> {
    let code = |i: usize, bits: u32| ((i * 37 + i / 7 * 11) % (1 << bits)) as u8;
    let scale = |block: usize| 0.0123 + 0.001 * block as f32;
    let minimum = |block: usize| -0.077 - 0.003 * block as f32;
    let half = |number: f32| f16::from_f32(number).to_f32();
    let mut rows = Vec::new();
    let mut add = |container, id, today, block: usize, bits: u32, halves: bool| {
        let (wide, in_pairs) = (matches!(id, 2 | 3 | 8), container != GGJT_2);
        let has_minimum = matches!(id, 3 | 5 | 7);
        let stored = |number: f32| if wide { number } else { half(number) };
        let number = |number: f32| match wide {
            true => number.to_le_bytes().to_vec(),
            false => f16::from_f32(number).to_le_bytes().to_vec(),
        };
        let (mut bytes, mut weights, mut rounded) = (Vec::new(), Vec::new(), Vec::new());
        for b in 0..64 / block {
            let codes: Vec<u8> = (0..block).map(|i| code(b * block + i, bits)).collect();
            bytes.extend(number(scale(b)));
            if has_minimum {
                bytes.extend(number(minimum(b)));
            }
            if bits == 5 {
                let high = (0..32).fold(0u32, |high, i| high | u32::from(codes[i] >> 4) << i);
                bytes.extend(high.to_le_bytes());
            }
            if bits == 8 {
                bytes.extend(&codes);
            } else {
                bytes.extend((0..block / 2).map(|i| {
                    let (low, high) = if in_pairs && !halves {
                        (codes[2 * i], codes[2 * i + 1])
                    } else {
                        (codes[i], codes[i + block / 2])
                    };
                    low & 15 | (high & 15) << 4
                }));
            }
            for code in codes {
                let code = match (bits, has_minimum) {
                    (8, _) => f32::from(code as i8),
                    (_, true) => f32::from(code),
                    (_, false) => f32::from(code) - (1 << (bits - 1)) as f32,
                };
                let (d, m) = (scale(b), if has_minimum { minimum(b) } else { 0.0 });
                weights.push(code * stored(d) + stored(m));
                rounded.push(code * half(d) + half(m));
            }
        }
        rows.push(OldRow { container, id, bytes, weights, rounded, today });
    };
    for container in [GGML, GGMF, GGJT_1] {
        add(container, 2, TensorType::Q4_0, 32, 4, false);
        add(container, 3, TensorType::Q4_1, 32, 4, false);
    }
    add(GGJT_1, 4, TensorType::Q8_0, 16, 4, false);
    add(GGJT_1, 5, TensorType::Q8_0, 16, 4, false);
    add(GGJT_1, 6, TensorType::Q5_0, 32, 5, false);
    add(GGJT_1, 7, TensorType::Q5_1, 32, 5, false);
    add(GGJT_1, 8, TensorType::Q8_0, 32, 8, false);
    add(GGJT_2, 2, TensorType::Q4_0, 32, 4, true);
    add(GGJT_2, 3, TensorType::Q4_1, 32, 4, true);
    add(GGJT_2, 8, TensorType::Q8_0, 32, 8, true);
    rows
}

/// The small model whose one matrix with rows of 64 has this row again and again.
fn with_row(row: &OldRow) -> Ggml {
    let mut file = Ggml::tiny(row.container);
    let tensor = file.tensor("layers.0.feed_forward.w2.weight");
    assert_eq!(tensor.shape, [64, 32]);
    (tensor.id, tensor.data) = (row.id, row.bytes.repeat(32));
    file
}

fn weights(model: &Model) -> (TensorType, Vec<f32>) {
    let tensor = model.tensor("blk.0.ffn_down.weight").unwrap();
    let mut weights = vec![0.0; 64 * 32];
    let format = llq_quant::format(tensor.tensor_type).unwrap();
    format.dequantize(model.data(tensor), &mut weights).unwrap();
    assert!(weights.chunks(64).all(|row| row == &weights[..64]));
    weights.truncate(64);
    (tensor.tensor_type, weights)
}

#[test]
fn withdrawn_layouts_keep_their_codes() {
    for row in old_rows() {
        let (_folder, path) = of_bytes(&with_row(&row).bytes());
        let source = open(&path).unwrap();
        let index = source.tensors().iter().position(|t| t.name == "blk.0.ffn_down.weight");
        let spec = &source.tensors()[index.unwrap()];
        assert_eq!(spec.tensor_type, row.today, "{:?} {}", row.container, row.id);
        let mut stored = vec![0; spec.tensor_type.row_bytes(64).unwrap() as usize * 3];
        source.read_rows(index.unwrap(), 5..8, &mut stored).unwrap();
        let mut found = vec![0.0; 3 * 64];
        llq_quant::format(row.today).unwrap().dequantize(&stored, &mut found).unwrap();
        let is_gone = matches!(row.id, 4 | 5);
        for (found, expected) in found.iter().zip(row.rounded.iter().cycle()) {
            // Q8_0 has a step of a 127th of the largest weight.
            let tolerance = if is_gone { 0.0013 } else { 1e-7 };
            assert!((found - expected).abs() <= tolerance, "{}: {found} {expected}", row.id);
        }
    }
}

#[test]
fn withdrawn_layouts_are_decoded_exactly_for_another_type() {
    let options = OpenOptions { withdrawn: Withdrawn::Decode, ..OpenOptions::default() };
    for row in old_rows() {
        let (folder, path) = of_bytes(&with_row(&row).bytes());
        let source = open_with(&path, &options).unwrap();
        let plan = Plan::new(&*source, &request(Mix::F32)).unwrap();
        let target = folder.path().join("out.gguf");
        write(&*source, &plan, &target, Overwrite::Forbid, &Silent).unwrap();
        let (tensor_type, found) = weights(&Model::open(&target).unwrap());
        assert_eq!(tensor_type, TensorType::F32);
        assert_eq!(found, row.weights, "{:?} {}", row.container, row.id);
    }
}

#[test]
fn notes_say_what_became_of_withdrawn_layouts() {
    let expected =
        [(2, "rounded from F32 to F16"), (4, "Q8_0: Q4_2 is gone"), (7, "stay as they are")];
    for row in old_rows() {
        let (_folder, path) = of_bytes(&with_row(&row).bytes());
        if let Some((_, text)) = expected.iter().find(|(id, _)| *id == row.id) {
            let notes = notes(&path);
            assert!(notes.contains("1 tensor") && notes.contains(text), "{notes}");
        }
    }
    let (_folder, path) = of_bytes(&Ggml::tiny(GGJT_3).bytes());
    assert!(!notes(&path).contains("before June"));
}

#[test]
fn a_scale_too_large_for_f16_is_an_error() {
    let mut row = old_rows().swap_remove(0);
    row.bytes[..4].copy_from_slice(&1e6f32.to_le_bytes());
    let (_folder, path) = of_bytes(&with_row(&row).bytes());
    let mut file = with_row(&row);
    // Only a quantized embedding makes every tensor keep its type.
    let data = row.bytes[..20].repeat(16);
    let tensor = file.tensor("tok_embeddings.weight");
    (tensor.id, tensor.data) = (2, data);
    file.write(&path);
    let error = failure(&path, &Request::default());
    assert!(matches!(error, Error::Row { .. }), "{error}");
    assert_says(&error, &["token_embd.weight", "scale is NaN or infinite"]);
}

#[test]
fn the_first_q4_1_is_refused() {
    let mut row = old_rows().swap_remove(1);
    assert_eq!(row.id, 3);
    row.bytes[..4].copy_from_slice(&(-0.5f32).to_le_bytes());
    let (_folder, path) = of_bytes(&with_row(&row).bytes());
    assert_says(&failure(&path, &request(Mix::F16)), &["feed_forward.w2", "17 March 2023"]);
}

#[test]
fn q8_0_of_its_first_day_had_another_number() {
    let mut row =
        old_rows().into_iter().find(|row| (row.container, row.id) == (GGJT_1, 8)).unwrap();
    row.id = 6;
    let mut file = with_row(&row);
    file.numbers[6] = 7;
    let (_folder, path) = of_bytes(&file.bytes());
    let (_, found) = weights(&converted_model(&path, &request(Mix::F32)));
    assert_eq!(found, row.rounded);
}

#[test]
fn parts_make_the_whole() {
    let (_folder, whole) = of_bytes(&Ggml::tiny(GGML).bytes());
    let (_folder, path) = of_bytes(&Ggml::tiny_part(GGML, 0, 2).bytes());
    let error = failure(&path, &Request::default());
    assert!(matches!(error, Error::MissingFile { .. }), "{error}");
    assert_says(&error, &["ggml-model.bin.1", "2 parts"]);

    let second = path.with_extension("bin.1");
    Ggml::tiny_part(GGML, 1, 2).write(&second);
    assert!(converted(&whole, &Request::default()) == converted(&path, &Request::default()));

    let mut other = Ggml::tiny_part(GGML, 1, 2);
    other.numbers[4] = 3;
    other.write(&second);
    assert!(matches!(failure(&path, &Request::default()), Error::Shards { .. }));
}

#[test]
fn files_without_scores_get_those_of_llama() {
    let mut file = Ggml::tiny(GGML);
    let size = 300;
    file.numbers[0] = size;
    file.pieces.truncate(3);
    file.pieces.extend((0..=255).map(|byte| (vec![byte], 0.0)));
    let others = ["  ", " t", "er", " "].map(|text| (text.into(), 0.0));
    file.pieces.extend(others);
    file.pieces.extend((263..size).map(|id| (format!("t{id}").into(), 0.0)));
    for name in ["tok_embeddings.weight", "output.weight"] {
        let tensor = file.tensor(name);
        tensor.shape[1] = size;
        tensor.data.resize(size as usize * 64, 0);
    }
    let (_folder, path) = of_bytes(&file.bytes());
    let model = converted_model(&path, &Request::default());
    let scores = model.metadata().array("tokenizer.ggml.scores").unwrap();
    let llq_gguf::Array::F32(scores) = scores else { panic!() };
    assert_eq!(scores[257..265], [0.0, 0.0, -1e9, -1.0, -2.0, -1e9, -4.0, -5.0]);
    let tokens = model.metadata().strings("tokenizer.ggml.tokens").unwrap();
    let tokens: Vec<&str> = tokens.iter().skip(257).take(4).collect();
    assert_eq!(tokens, ["<0xFE>", "<0xFF>", "▁▁", "▁t"]);
    assert!(notes(&path).contains("no scores"));
}

#[test]
fn a_token_that_is_counted_but_absent_is_padding() {
    let mut file = Ggml::tiny(GGML);
    file.pieces.pop();
    let (_folder, path) = of_bytes(&file.bytes());
    let model = converted_model(&path, &Request::default());
    let tokens = model.metadata().strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.iter().last(), Some("[PAD15]"));
}

#[test]
fn what_the_file_does_not_say_can_be_given() {
    // Two key-value heads of four, so the file holds Llama 2.
    let (folder, path) = of_bytes(&Ggml::tiny(GGJT_3).bytes());
    let source = open(&path).unwrap();
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    assert_eq!(source.metadata().float(epsilon).unwrap(), f64::from(1e-5f32));
    assert_eq!(source.metadata().count("llama.context_length").unwrap(), 4096);
    assert!(notes(&path).contains("Llama 2"));

    let options = OpenOptions { norm_epsilon: Some(1e-6), ..OpenOptions::default() };
    let source = open_with(&path, &options).unwrap();
    assert_eq!(source.metadata().float(epsilon).unwrap(), f64::from(1e-6f32));
    let request = Request {
        output: Output::Recipe(Recipe::new(Mix::Q8_0)),
        context_length: Some(77),
        ..Request::default()
    };
    let plan = Plan::new(&*source, &request).unwrap();
    let target = folder.path().join("out.gguf");
    write(&*source, &plan, &target, Overwrite::Forbid, &Silent).unwrap();
    let model = Model::open(&target).unwrap();
    assert_eq!(model.metadata().count("llama.context_length").unwrap(), 77);
}

#[track_caller]
fn problem(file: &Ggml) -> GgmlError {
    let (_folder, path) = of_bytes(&file.bytes());
    match failure(&path, &Request::default()) {
        Error::Ggml { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

#[test]
fn damaged_files_are_refused() {
    let change = |change: fn(&mut Ggml)| {
        let mut file = Ggml::tiny(GGJT_1);
        change(&mut file);
        problem(&file)
    };
    let version = change(|file| file.container = (b"tjgg", Some(4)));
    assert!(matches!(version, GgmlError::Version { found: 4, .. }), "{version}");
    assert_eq!(change(|file| file.container = (b"algg", Some(1))), GgmlError::Adapter);
    for size in [0, 2, 1 << 21, u32::MAX] {
        let mut file = Ggml::tiny(GGJT_1);
        file.numbers[0] = size;
        assert!(matches!(problem(&file), GgmlError::Vocabulary { .. }));
    }
    let long = change(|file| file.pieces[5].0 = vec![b'a'; 5000]);
    assert!(matches!(long, GgmlError::LongToken { id: 5, bytes: 5000, .. }), "{long}");
    let twice = change(|file| file.tensors[2].name = file.tensors[1].name.clone());
    assert!(twice.to_string().contains("twice"));
    let name = change(|file| file.tensors[1].name = String::new());
    assert!(matches!(name, GgmlError::Name { number: 1, .. }));
    let name = change(|file| file.tensors[1].name = "x".repeat(129));
    assert!(matches!(name, GgmlError::Name { number: 1, .. }));
    let dimensions = change(|file| file.tensors[0].shape.push(1));
    assert!(dimensions.to_string().contains("3 dimensions"), "{dimensions}");
    let none = change(|file| file.tensors[0].shape.clear());
    assert!(none.to_string().contains("0 dimensions"), "{none}");
    let zero = change(|file| file.tensors[0].shape[1] = 0);
    assert!(zero.to_string().contains("is 0"), "{zero}");
    let ragged = change(|file| (file.tensors[0].id, file.tensors[0].shape[0]) = (2, 33));
    assert!(ragged.to_string().contains("whole blocks"), "{ragged}");
    let huge = change(|file| file.tensors[0].shape = vec![u32::MAX - 31, u32::MAX]);
    assert!(matches!(huge, GgmlError::Truncated { .. }), "{huge}");
    for (container, ids) in
        [(GGJT_1, &[9, 10, 30][..]), (GGJT_2, &[4, 5, 12]), (GGJT_3, &[4, 5, 9, 15, 30, 1 << 31])]
    {
        for &id in ids {
            let mut file = Ggml::tiny(container);
            file.tensors[0].id = id;
            assert!(matches!(problem(&file), GgmlError::TensorType { .. }), "{id}");
        }
    }
}

#[test]
fn wrong_models_are_refused() {
    let change = |change: fn(&mut Ggml)| {
        let mut file = Ggml::tiny(GGJT_3);
        change(&mut file);
        let (_folder, path) = of_bytes(&file.bytes());
        failure(&path, &Request::default())
    };
    assert!(matches!(change(|file| file.numbers[3] = 0), Error::Key { .. }));
    assert!(matches!(change(|file| file.numbers[3] = 64), Error::Key { .. }));
    assert!(matches!(change(|file| file.numbers[4] = 3), Error::MissingTensor { .. }));
    assert!(matches!(change(|file| file.numbers[4] = u32::MAX), Error::Key { .. }));
    for width in [0, 16, 48, u32::MAX] {
        let mut file = Ggml::tiny(GGJT_3);
        file.numbers[1] = width;
        let (_folder, path) = of_bytes(&file.bytes());
        assert!(matches!(failure(&path, &Request::default()), Error::Shape { .. }), "{width}");
    }
    let extra = change(|file| file.tensors[3].name = "layers.0.attention.wz.weight".to_owned());
    assert!(matches!(extra, Error::MissingTensor { .. } | Error::UnexpectedTensor { .. }));
    assert!(matches!(change(|file| file.pieces[4].0 = vec![0xff; 2]), Error::Tokenizer { .. }));
    assert!(matches!(change(|file| file.pieces[4].1 = f32::NAN), Error::Tokenizer { .. }));
    assert!(matches!(
        change(|file| file.pieces[5].0 = file.pieces[4].0.clone()),
        Error::Tokenizer { .. }
    ));
}

#[test]
fn a_cut_at_any_field_is_refused() {
    for container in [GGML, GGMF, GGJT_1] {
        let (whole, starts) = Ggml::tiny(container).bytes_and_starts();
        for start in starts {
            for length in [start.saturating_sub(1), start, start + 1] {
                if length < 4 {
                    continue;
                }
                let (_folder, path) = of_bytes(&whole[..length]);
                failure(&path, &Request::default());
            }
        }
    }
}

proptest! {
    #[test]
    fn no_byte_can_make_it_panic(at in 4usize..1200, byte: u8) {
        let mut bytes = Ggml::tiny(GGJT_2).bytes();
        bytes[at] = byte;
        let (_folder, path) = of_bytes(&bytes);
        if let Ok(source) = open(&path) {
            let _ = Plan::new(&*source, &Request::default());
        }
    }
}

#[test]
fn tokens_may_have_no_text() {
    let mut file = Ggml::tiny(GGJT_3);
    for piece in &mut file.pieces[13..] {
        piece.0.clear();
    }
    let (_folder, path) = of_bytes(&file.bytes());
    let model = converted_model(&path, &Request::default());
    let tokens = model.metadata().strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.iter().filter(|token| token.is_empty()).count(), 3);
}
