//! A made adapter to the small model, and what merging it must come to.

use std::{collections::BTreeMap, fs, path::Path};

use llq_convert::{Error, LoraAdapter, OpenOptions, Overwrite, Plan, Request, Silent, write};
use llq_gguf::{Model, TensorType};
use serde_json::{Value as Json, json};

use super::{
    listing, meta,
    tiny::{BLOCKS, EMBEDDING, Tensor, Tiny, VOCABULARY, safetensors},
};

/// As PEFT saves it. Weights are multiples of 2⁻⁶ in a short range, so sums in f64 are exact.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) config: Json,
    pub(crate) tensors: BTreeMap<String, Tensor>,
}

pub(crate) const RANK: u64 = 4;

/// The modules with a matrix in a block.
pub(crate) const MATRICES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// A tensor whose weights differ from place to place.
pub(crate) fn tensor(seed: usize, shape: &[u64]) -> Tensor {
    let count = shape.iter().product::<u64>() as usize;
    let weight = |i: usize| ((i * 5 + seed * 11 + i / 7) % 31) as f32 / 64.0 - 0.25;
    Tensor { shape: shape.to_vec(), weights: (0..count).map(weight).collect() }
}

impl Made {
    /// Alpha 8 and rank 4 on every matrix.
    pub(crate) fn new(seed: usize) -> Made {
        let config = json!({
            "peft_type": "LORA",
            "base_model_name_or_path": "someone/tiny",
            "r": RANK,
            "lora_alpha": 8,
            "bias": "none",
            "fan_in_fan_out": false,
            "modules_to_save": null,
            "rank_pattern": {},
            "alpha_pattern": {},
        });
        let mut made = Made { config, tensors: BTreeMap::new() };
        let tiny = Tiny::new();
        let blocks = (0..BLOCKS).flat_map(|block| {
            MATRICES.iter().map(move |matrix| format!("model.layers.{block}.{matrix}"))
        });
        let modules = blocks.chain(["lm_head".to_owned()]);
        for (index, module) in modules.enumerate() {
            let [rows, columns] = tiny.tensors[&format!("{module}.weight")].shape[..] else {
                panic!("{module} is a matrix")
            };
            made.set(&format!("{module}.lora_A.weight"), tensor(seed + index, &[RANK, columns]));
            made.set(&format!("{module}.lora_B.weight"), tensor(seed + 3 * index, &[rows, RANK]));
        }
        made
    }

    /// Also factors of the token embedding.
    pub(crate) fn with_embedding(mut self) -> Made {
        let module = "model.embed_tokens";
        self.set(&format!("{module}.lora_embedding_A"), tensor(50, &[RANK, VOCABULARY]));
        self.set(&format!("{module}.lora_embedding_B"), tensor(51, &[EMBEDDING, RANK]));
        self
    }

    /// Sets a tensor by its name behind the prefix that all have.
    pub(crate) fn set(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(format!("base_model.model.{name}"), tensor);
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("base_model.model.{name}"))
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.tensors.remove(&format!("base_model.model.{name}")).unwrap();
    }

    pub(crate) fn write(&self, folder: &Path) {
        fs::write(folder.join("adapter_config.json"), self.config.to_string()).unwrap();
        let weights = safetensors(self.tensors.iter());
        fs::write(folder.join("adapter_model.safetensors"), weights).unwrap();
    }

    /// B·A of a module as [rows, columns], or the transposed product of an embedding.
    pub(crate) fn product(&self, module: &str) -> Option<Vec<f64>> {
        let factor = |name: &str| self.get(&format!("{module}.{name}"));
        if let (Some(a), Some(b)) = (factor("lora_A.weight"), factor("lora_B.weight")) {
            return Some(multiply(b, a));
        }
        let (a, b) = (factor("lora_embedding_A")?, factor("lora_embedding_B")?);
        Some(multiply(&transpose(a), &transpose(b)))
    }
}

pub(crate) fn multiply(left: &Tensor, right: &Tensor) -> Vec<f64> {
    let (inner, columns) = (left.shape[1] as usize, right.shape[1] as usize);
    assert_eq!(inner as u64, right.shape[0]);
    let cell = |row: usize, column: usize| -> f64 {
        let terms = (0..inner).map(|k| {
            f64::from(left.weights[row * inner + k])
                * f64::from(right.weights[k * columns + column])
        });
        terms.sum()
    };
    let rows = left.shape[0] as usize;
    (0..rows)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| cell(row, column))
        .collect()
}

pub(crate) fn transpose(tensor: &Tensor) -> Tensor {
    let (rows, columns) = (tensor.shape[0] as usize, tensor.shape[1] as usize);
    let weights = (0..columns)
        .flat_map(|c| (0..rows).map(move |r| r * columns + c))
        .map(|at| tensor.weights[at]);
    Tensor { shape: vec![columns as u64, rows as u64], weights: weights.collect() }
}

/// The weight of a tensor of the small model after `base + factor · product` for each adapter.
pub(crate) fn by_hand(tiny: &Tiny, module: &str, changes: &[(&Made, f64)]) -> Tensor {
    let base = &tiny.tensors[&format!("{module}.weight")];
    let mut sums: Vec<f64> = base.weights.iter().map(|&weight| weight.into()).collect();
    for (made, factor) in changes {
        for (sum, change) in sums.iter_mut().zip(made.product(module).unwrap_or_default()) {
            *sum += factor * change;
        }
    }
    let weights = sums.into_iter().map(|sum| sum as f32).collect();
    Tensor { shape: base.shape.clone(), weights }
}

pub(crate) fn merging<'a>(adapters: impl IntoIterator<Item = (&'a Path, f64)>) -> OpenOptions {
    let adapter = |(folder, scale): (&Path, f64)| LoraAdapter { folder: folder.to_owned(), scale };
    OpenOptions { lora: adapters.into_iter().map(adapter).collect(), ..OpenOptions::default() }
}

/// The bytes of the file that `source` becomes.
pub(crate) fn try_open_and_write(
    source: &Path,
    options: &OpenOptions,
    request: &Request,
) -> Result<Vec<u8>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.gguf");
    let result = llq_convert::open_with(source, options).and_then(|source| {
        let plan = Plan::new(&*source, request)?;
        write(&*source, &plan, &target, Overwrite::Forbid, &Silent)
    });
    match result {
        Ok(_) => Ok(fs::read(target).unwrap()),
        Err(error) => {
            assert_eq!(
                listing(folder.path()),
                [""; 0],
                "a failed conversion leaves nothing behind"
            );
            Err(error)
        }
    }
}

/// A tensor of a file in F32, rows first.
pub(crate) fn read(model: &Model, name: &str) -> Tensor {
    let info = model.tensor(name).unwrap_or_else(|| panic!("{name} is there"));
    assert_eq!(info.tensor_type, TensorType::F32, "{name}");
    let numbers = model.data(info).as_chunks::<4>().0.iter();
    let weights = numbers.map(|&bytes| f32::from_le_bytes(bytes)).collect();
    Tensor { shape: info.shape.iter().rev().copied().collect(), weights }
}

/// The tensor as GGUF has it, where `module` tells whether its rows are reordered.
pub(crate) fn in_gguf_order(module: &str, tensor: &Tensor) -> Tensor {
    meta::in_meta_order(module, tensor)
}

/// GGUF's name of a module, without `.weight`.
pub(crate) fn gguf_name(module: &str) -> String {
    const NAMES: &[(&str, &str)] = &[
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.down_proj", "ffn_down"),
        ("mlp.up_proj", "ffn_up"),
    ];
    NAMES.iter().fold(module.to_owned(), |name, (from, to)| name.replace(from, to))
}
