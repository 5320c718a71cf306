//! The sizes of a model, found from its tensors and checked against each other.

use std::collections::HashMap;

use llq_gguf::TensorSpec;

use super::TransformError;
use crate::Source;

type Result<T> = std::result::Result<T, TransformError>;

const HEAD_COUNT: &str = "llama.attention.head_count";
const HEAD_COUNT_KV: &str = "llama.attention.head_count_kv";

/// What planning needs to know of a LLaMA.
pub(super) struct Model {
    /// Width of the residual stream.
    pub(super) width: u64,
    /// Query heads.
    pub(super) heads: u64,
    /// Key-value heads, which divide the query heads.
    pub(super) kv_heads: u64,
    /// Width of a value head.
    pub(super) head_length: u64,
    /// Width inside the feed-forward network, of each block.
    pub(super) hidden: Vec<u64>,
    /// Whether the output projection is a tensor of its own.
    pub(super) has_output: bool,
}

impl Model {
    /// Every size is that of a tensor, which is no larger than its file.
    pub(super) fn of(source: &dyn Source) -> Result<Model> {
        let metadata = source.metadata();
        let found = metadata.string("general.architecture")?;
        if found != "llama" {
            return Err(TransformError::Architecture { found: found.to_owned() });
        }
        let heads = metadata.count(HEAD_COUNT)?;
        let kv_heads = match metadata.contains(HEAD_COUNT_KV) {
            true => metadata.count(HEAD_COUNT_KV)?,
            false => heads,
        };
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let expected = format!("a divisor of the {heads} query heads");
            return Err(TransformError::Heads { key: HEAD_COUNT_KV, expected, found: kv_heads });
        }
        let specs = source.tensors().iter().map(|spec| (&*spec.name, spec));
        let tensors = Tensors(specs.collect());
        let [width, vocabulary] = tensors.matrix("token_embd.weight")?;
        let has_output = tensors.0.contains_key("output.weight");
        if has_output {
            tensors.expect("output.weight", &[width, vocabulary])?;
        }
        tensors.expect("output_norm.weight", &[width])?;
        let mut model =
            Model { width, heads, kv_heads, head_length: 0, hidden: Vec::new(), has_output };
        // A model without blocks has no importance either.
        model.add_block(&tensors)?;
        while tensors.0.contains_key(&*format!("blk.{}.attn_norm.weight", model.hidden.len())) {
            model.add_block(&tensors)?;
        }
        Ok(model)
    }

    fn add_block(&mut self, tensors: &Tensors<'_>) -> Result<()> {
        let index = self.hidden.len();
        let name = |part: &str| format!("blk.{index}.{part}");
        let width = self.width;
        let [_, values] = tensors.matrix(&name("attn_v.weight"))?;
        if !values.is_multiple_of(self.kv_heads) {
            let expected = format!("a divisor of the {values} rows of {}", name("attn_v.weight"));
            let found = self.kv_heads;
            return Err(TransformError::Heads { key: HEAD_COUNT_KV, expected, found });
        }
        let head_length = values / self.kv_heads;
        if index == 0 {
            self.head_length = head_length;
        }
        // No more than the shape of a tensor, as the first of these was one.
        let values = self.kv_heads * self.head_length;
        let [_, queries] = tensors.matrix(&name("attn_q.weight"))?;
        let [_, keys] = tensors.matrix(&name("attn_k.weight"))?;
        let [_, hidden] = tensors.matrix(&name("ffn_gate.weight"))?;
        let mixed = self.heads.saturating_mul(self.head_length);
        let shapes: [(&str, &[u64]); 9] = [
            ("attn_norm.weight", &[width]),
            ("attn_q.weight", &[width, queries]),
            ("attn_k.weight", &[width, keys]),
            ("attn_v.weight", &[width, values]),
            ("attn_output.weight", &[mixed, width]),
            ("ffn_norm.weight", &[width]),
            ("ffn_gate.weight", &[width, hidden]),
            ("ffn_up.weight", &[width, hidden]),
            ("ffn_down.weight", &[hidden, width]),
        ];
        for (part, shape) in shapes {
            tensors.expect(&name(part), shape)?;
        }
        let biases = [
            ("attn_v.bias", values),
            ("attn_output.bias", width),
            ("ffn_gate.bias", hidden),
            ("ffn_up.bias", hidden),
            ("ffn_down.bias", width),
        ];
        for (part, length) in biases.map(|(part, length)| (name(part), length)) {
            if tensors.0.contains_key(&*part) {
                tensors.expect(&part, &[length])?;
            }
        }
        self.hidden.push(hidden);
        Ok(())
    }
}

struct Tensors<'a>(HashMap<&'a str, &'a TensorSpec>);

impl Tensors<'_> {
    fn shape(&self, name: &str) -> Result<&[u64]> {
        let missing = || TransformError::Missing { tensor: name.to_owned() };
        self.0.get(name).map(|spec| &*spec.shape).ok_or_else(missing)
    }

    fn matrix(&self, name: &str) -> Result<[u64; 2]> {
        let shape = self.shape(name)?;
        shape.try_into().map_err(|_| {
            let expected = vec![shape.first().copied().unwrap_or(0), 1];
            TransformError::Shape { tensor: name.to_owned(), expected, found: shape.to_vec() }
        })
    }

    fn expect(&self, name: &str, expected: &[u64]) -> Result<()> {
        let found = self.shape(name)?;
        if found != expected {
            let (tensor, expected, found) = (name.to_owned(), expected.to_vec(), found.to_vec());
            return Err(TransformError::Shape { tensor, expected, found });
        }
        Ok(())
    }
}
