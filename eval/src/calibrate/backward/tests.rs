//! Against differences of the cross entropy of a transformer written out in f64.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::BTreeMap;

use llq_gguf::{Layout, Metadata, Model, StreamWriter, TensorSpec, TensorType, Value};

use super::{Sensitivity, add_pass, draw, uniform};
use crate::{
    Llama,
    calibrate::{
        forward::{Shared, Weights},
        moments::Moments,
    },
};

const WIDTH: usize = 12;
const INNER: usize = 10;
const BLOCKS: usize = 2;
const HEADS: usize = 4;
const SHARED_HEADS: usize = 2;
const KEY_LENGTH: usize = 6;
const VALUE_LENGTH: usize = 5;
const ROTATED: usize = 4;
const TOKENS: usize = 9;
const EPSILON: f64 = 1e-5;
const CONTEXT: usize = 5;

/// Which matrix is the head.
#[derive(Clone, Copy, PartialEq)]
enum Head {
    Own,
    Embedding,
}

/// A model with biases and heads of their own length, its weights by name, columns first.
struct Reference {
    tensors: BTreeMap<String, (Vec<u64>, Vec<f64>)>,
}

/// What is added to one output of one matrix.
struct Change<'a> {
    tensor: &'a str,
    token: usize,
    row: usize,
    by: f64,
}

type Rows = Vec<Vec<f64>>;

impl Reference {
    fn new(head: Head) -> Reference {
        let mut reference = Reference { tensors: BTreeMap::new() };
        reference.add("token_embd.weight", &[WIDTH, TOKENS], 0.0);
        reference.add("output_norm.weight", &[WIDTH], 1.0);
        if head == Head::Own {
            reference.add("output.weight", &[WIDTH, TOKENS], 0.0);
        }
        for block in 0..BLOCKS {
            for norm in ["attn_norm", "ffn_norm"] {
                reference.add(&format!("blk.{block}.{norm}.weight"), &[WIDTH], 1.0);
            }
            for (name, cols, rows) in [
                ("attn_q", WIDTH, HEADS * KEY_LENGTH),
                ("attn_k", WIDTH, SHARED_HEADS * KEY_LENGTH),
                ("attn_v", WIDTH, SHARED_HEADS * VALUE_LENGTH),
                ("attn_output", HEADS * VALUE_LENGTH, WIDTH),
                ("ffn_gate", WIDTH, INNER),
                ("ffn_up", WIDTH, INNER),
                ("ffn_down", INNER, WIDTH),
            ] {
                reference.add(&format!("blk.{block}.{name}.weight"), &[cols, rows], 0.0);
                reference.add(&format!("blk.{block}.{name}.bias"), &[rows], 0.0);
            }
        }
        reference
    }

    /// Weights that f32 holds, spread about `mean`.
    fn add(&mut self, name: &str, shape: &[usize], mean: f64) {
        let seed = self.tensors.len();
        let seed = (seed as u64) << 32;
        let weight = |index| f64::from((mean + uniform(seed + index as u64) - 0.5) as f32);
        let weights = (0..shape.iter().product()).map(weight).collect();
        let shape = shape.iter().map(|&extent| extent as u64).collect();
        self.tensors.insert(name.to_owned(), (shape, weights));
    }

    fn model(&self) -> Model {
        let mut metadata = Metadata::default();
        metadata.set("general.architecture", Value::String("llama".into()));
        for (key, value) in [
            ("block_count", BLOCKS),
            ("context_length", 64),
            ("embedding_length", WIDTH),
            ("feed_forward_length", INNER),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", SHARED_HEADS),
            ("attention.key_length", KEY_LENGTH),
            ("attention.value_length", VALUE_LENGTH),
            ("rope.dimension_count", ROTATED),
        ] {
            metadata.set(format!("llama.{key}"), Value::U32(value as u32));
        }
        metadata.set("llama.attention.layer_norm_rms_epsilon", Value::F32(EPSILON as f32));
        let spec = |(name, (shape, _)): (&String, &(Vec<u64>, Vec<f64>))| TensorSpec {
            name: name.clone(),
            shape: shape.clone(),
            tensor_type: TensorType::F32,
        };
        let layout = Layout::plan(&metadata, self.tensors.iter().map(spec).collect()).unwrap();
        let mut writer = StreamWriter::new(layout, Vec::new()).unwrap();
        for (_, weights) in self.tensors.values() {
            let bytes: Vec<u8> = weights.iter().flat_map(|&w| (w as f32).to_le_bytes()).collect();
            writer.write(&bytes).unwrap();
        }
        Model::from_bytes(writer.finish().unwrap()).unwrap()
    }

    fn weights(&self, name: &str) -> &[f64] {
        &self.tensors[name].1
    }

    fn head(&self) -> &'static str {
        match self.tensors.contains_key("output.weight") {
            true => "output.weight",
            false => "token_embd.weight",
        }
    }

    /// What a prediction is of each token of a window.
    fn predict(&self, tokens: &[u32], change: Option<&Change<'_>>) -> Rows {
        let hidden = self.hidden(tokens, change);
        let mut logits = self.multiply(self.head(), &hidden, change);
        logits.iter_mut().for_each(|row| softmax(row));
        logits
    }

    /// What the head is multiplied with.
    fn hidden(&self, tokens: &[u32], change: Option<&Change<'_>>) -> Rows {
        let embedding = self.weights("token_embd.weight");
        let mut stream: Rows =
            tokens.iter().map(|&t| embedding[t as usize * WIDTH..][..WIDTH].to_vec()).collect();
        if self.head() == "output.weight" {
            apply(change, "token_embd.weight", &mut stream);
        }
        for block in 0..BLOCKS {
            let name = |part: &str| format!("blk.{block}.{part}");
            let linear = |part: &str, x: &Rows| {
                let mut out = self.multiply(&name(&format!("{part}.weight")), x, change);
                add(&mut out, |_| self.weights(&name(&format!("{part}.bias"))));
                out
            };
            let x = self.norm(&name("attn_norm.weight"), &stream);
            let heads = [linear("attn_q", &x), linear("attn_k", &x), linear("attn_v", &x)];
            let out = linear("attn_output", &mix(heads));
            add(&mut stream, |token| &out[token]);
            let x = self.norm(&name("ffn_norm.weight"), &stream);
            let (mut gated, up) = (linear("ffn_gate", &x), linear("ffn_up", &x));
            for (gate, up) in gated.iter_mut().flatten().zip(up.iter().flatten()) {
                *gate *= up / (1.0 + (-*gate).exp());
            }
            let out = linear("ffn_down", &gated);
            add(&mut stream, |token| &out[token]);
        }
        self.norm("output_norm.weight", &stream)
    }

    fn multiply(&self, name: &str, x: &Rows, change: Option<&Change<'_>>) -> Rows {
        let dot = |w: &[f64], x: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum();
        let rows = |x: &Vec<f64>| self.weights(name).chunks(x.len()).map(|w| dot(w, x)).collect();
        let mut out = x.iter().map(rows).collect();
        apply(change, name, &mut out);
        out
    }

    fn norm(&self, name: &str, rows: &Rows) -> Rows {
        let weight = self.weights(name);
        let norm = |row: &Vec<f64>| {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / WIDTH as f64;
            let scale = 1.0 / (mean + f64::from(EPSILON as f32)).sqrt();
            row.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
        };
        rows.iter().map(norm).collect()
    }

    /// The gradient at each output of a matrix, by differences: token after token.
    fn gradient(&self, tensor: &str, rows: usize, tokens: &[u32]) -> Rows {
        const STEP: f64 = 1e-4;
        let windows = tokens.chunks(CONTEXT).enumerate();
        let gradient = windows.flat_map(|(window, tokens)| {
            let plain = self.predict(tokens, None);
            let label = |(position, row): (usize, &Vec<f64>)| {
                let row: Vec<f32> = row.iter().map(|&p| p as f32).collect();
                draw(&row, uniform((window * CONTEXT + position) as u64))
            };
            let labels: Vec<usize> = plain.iter().enumerate().map(label).collect();
            let loss = move |token, row, by| {
                let change = Change { tensor, token, row, by };
                let predicted = self.predict(tokens, Some(&change));
                predicted.iter().zip(&labels).map(|(p, &label)| -p[label].ln()).sum::<f64>()
            };
            (0..CONTEXT).map(move |token| {
                let slope = |row| (loss(token, row, STEP) - loss(token, row, -STEP)) / (2.0 * STEP);
                (0..rows).map(slope).collect()
            })
        });
        gradient.collect()
    }
}

fn apply(change: Option<&Change<'_>>, tensor: &str, outputs: &mut Rows) {
    if let Some(change) = change.filter(|change| change.tensor == tensor) {
        outputs[change.token][change.row] += change.by;
    }
}

fn add<'a>(rows: &mut Rows, values: impl Fn(usize) -> &'a [f64]) {
    for (token, row) in rows.iter_mut().enumerate() {
        row.iter_mut().zip(values(token)).for_each(|(sum, value)| *sum += value);
    }
}

fn softmax(row: &mut [f64]) {
    row.iter_mut().for_each(|value| *value = value.exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|value| *value /= sum);
}

fn turn(head: &[f64], position: usize) -> Vec<f64> {
    let mut head = head.to_vec();
    for (pair, values) in head[..ROTATED].chunks_exact_mut(2).enumerate() {
        let frequency = 10000f64.powf(-2.0 * pair as f64 / ROTATED as f64);
        let (sin, cos) = (position as f64 * frequency).sin_cos();
        let (x, y) = (values[0], values[1]);
        values[0] = x * cos - y * sin;
        values[1] = x * sin + y * cos;
    }
    head
}

fn mix([queries, keys, values]: [Rows; 3]) -> Rows {
    let mut out = vec![Vec::new(); queries.len()];
    for (position, out) in out.iter_mut().enumerate() {
        for head in 0..HEADS {
            let shared = head / (HEADS / SHARED_HEADS);
            let query = turn(&queries[position][head * KEY_LENGTH..][..KEY_LENGTH], position);
            let score = |seen: usize| {
                let key = turn(&keys[seen][shared * KEY_LENGTH..][..KEY_LENGTH], seen);
                let dot: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                dot / (KEY_LENGTH as f64).sqrt()
            };
            let mut weights: Vec<f64> = (0..=position).map(score).collect();
            softmax(&mut weights);
            out.extend((shared * VALUE_LENGTH..(shared + 1) * VALUE_LENGTH).map(|column| {
                weights.iter().zip(&values).map(|(w, row)| w * row[column]).sum::<f64>()
            }));
        }
    }
    out
}

fn text() -> Vec<u32> {
    (0..2 * CONTEXT as u32).map(|i| (i * i + 3) % TOKENS as u32).collect()
}

/// The sums of all blocks, in squares of so many rows, and of the embedding.
fn sums(reference: &Reference, rows: usize) -> (Vec<Sensitivity>, Moments) {
    let model = reference.model();
    let llama = Llama::load(&model).unwrap();
    let shared = Shared::new(&llama, CONTEXT);
    let blocks = llama.blocks.iter();
    let mut blocks: Vec<Sensitivity> =
        blocks.map(|block| Sensitivity::zero(&Weights::of(block), rows)).collect();
    let mut embedding = Moments::zero(WIDTH);
    add_pass(&shared, &text(), 0, Some(&mut blocks), &mut embedding);
    (blocks, embedding)
}

/// That the lower triangles are those of `Σ g gᵀ`.
fn assert_sums(name: &str, found: &Moments, gradients: &Rows) {
    let count = gradients[0].len();
    let total: f64 = gradients.iter().flatten().map(|g| g * g).sum();
    assert!(total > 1e-6, "{name} hardly matters");
    let mut values = found.values();
    for first in (0..count).step_by(found.rows()) {
        let square = first..count.min(first + found.rows());
        for a in square.clone() {
            for b in square.clone() {
                let found = f64::from(*values.next().unwrap());
                let expected: f64 = gradients.iter().map(|g| g[a] * g[b]).sum();
                let is_close = b > a || (found - expected).abs() <= 1e-4 * total;
                assert!(is_close, "{name}, {a} by {b}: {found}, not {expected}");
            }
        }
    }
    assert!(values.next().is_none());
}

#[test]
fn gradients_are_those_of_differences() {
    for (head, rows) in [(Head::Own, 100), (Head::Embedding, 4)] {
        let reference = Reference::new(head);
        let (blocks, embedding) = sums(&reference, rows);
        for (block, found) in blocks.iter().enumerate() {
            let parts =
                ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
            for (part, found) in parts.iter().zip(found.all()) {
                let name = format!("blk.{block}.{part}.weight");
                let count = found.diagonal().count();
                assert_sums(&name, found, &reference.gradient(&name, count, &text()));
            }
        }
        // The head's own are the hidden states.
        let expected = match head {
            Head::Own => reference.gradient("token_embd.weight", WIDTH, &text()),
            Head::Embedding => {
                text().chunks(CONTEXT).flat_map(|tokens| reference.hidden(tokens, None)).collect()
            }
        };
        assert_sums("token_embd.weight", &embedding, &expected);
    }
}
