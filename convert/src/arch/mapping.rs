//! From published tensors to those of the output: names, shapes and the order of rows.

use std::{collections::HashMap, path::Path};

use llq_gguf::{TensorSpec, TensorType};

use super::{
    Architecture, Hyperparameters, Naming, RopeScaling,
    tensors::{NOT_WEIGHTS, Presence, Row, RowOrder, Shape, numbered},
};
use crate::{Error, error::Result, weights::Weights};

/// A tensor of the output and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct MappedTensor {
    pub(crate) spec: TensorSpec,
    pub(crate) origin: Origin,
}

#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A tensor of the checkpoint, by its index in [`Weights::tensors`].
    Published(usize),
    /// The same, where each head of so many rows has first the even rows and then the odd ones.
    Reordered { published: usize, head_rows: u64 },
    /// Tensors of the checkpoint, all of one shape and type, one after the other along a new slowest
    /// axis.
    Stacked(Vec<usize>),
    /// No tensor of the checkpoint: what follows from its hyperparameters, little endian.
    Generated(Vec<u8>),
}

impl Architecture {
    /// All tensors of the output in order: those of no block, generated ones last, then block after
    /// block, each in the order of the table. Every published tensor must find its place.
    pub(crate) fn map_tensors(
        &self,
        path: &Path,
        weights: &dyn Weights,
        naming: Naming,
        hyperparameters: &Hyperparameters,
    ) -> Result<Vec<MappedTensor>> {
        let mut mapper = Mapper::new(path, weights, naming, hyperparameters);
        for row in self.global {
            mapper.map_row(row, None)?;
        }
        mapper.generate_rope_divisors();
        for block in 0..hyperparameters.layers {
            for row in self.block_rows() {
                mapper.map_row(row, Some(block))?;
            }
        }
        mapper.finish()
    }
}

struct Mapper<'a> {
    path: &'a Path,
    weights: &'a dyn Weights,
    naming: Naming,
    hyperparameters: &'a Hyperparameters,
    /// Published tensors without a place yet.
    left: HashMap<&'a str, usize>,
    expected: Vec<String>,
    mapped: Vec<MappedTensor>,
}

impl<'a> Mapper<'a> {
    fn new(
        path: &'a Path,
        weights: &'a dyn Weights,
        naming: Naming,
        hyperparameters: &'a Hyperparameters,
    ) -> Self {
        let tensors = weights.tensors().iter().enumerate();
        let left = tensors
            .filter(|(_, t)| !NOT_WEIGHTS.iter().any(|end| t.name.ends_with(end)))
            .map(|(i, tensor)| (tensor.name.as_str(), i))
            .collect();
        let (expected, mapped) = (Vec::new(), Vec::new());
        Mapper { path, weights, naming, hyperparameters, left, expected, mapped }
    }

    fn map_row(&mut self, row: &Row, block: Option<u32>) -> Result<()> {
        let stem = numbered(row.stem(self.naming), block);
        if let Shape::MatrixPerExpert(..) = row.shape {
            return self.stack_experts(row, block, &stem);
        }
        let extents = row.extents(self.hyperparameters);
        let weight = stem.clone() + ".weight";
        match row.presence {
            Presence::Optional if !self.left.contains_key(weight.as_str()) => {}
            _ => {
                let published = self.take(&weight)?;
                self.place(row, block, "weight", published, &extents)?;
            }
        }
        let bias = stem + ".bias";
        if row.may_have_bias()
            && let Some(published) = self.left.remove(bias.as_str())
        {
            self.place(row, block, "bias", published, &extents[..1])?;
        }
        self.expected.push(weight);
        Ok(())
    }

    /// The published tensor of that name, which has its place now.
    fn take(&mut self, name: &str) -> Result<usize> {
        self.left.remove(name).ok_or_else(|| {
            let nearest = nearest(name, self.left.keys().copied());
            let (path, tensor) = (self.path.to_path_buf(), name.to_owned());
            Error::MissingTensor { path, tensor, nearest }
        })
    }

    fn place(
        &mut self,
        row: &Row,
        block: Option<u32>,
        suffix: &str,
        published: usize,
        expected: &[u64],
    ) -> Result<()> {
        let tensor_type = self.check(published, expected)?;
        let spec = TensorSpec {
            name: format!("{}.{suffix}", numbered(row.gguf, block)),
            shape: expected.iter().rev().copied().collect(),
            tensor_type,
        };
        let reorder = self.naming == Naming::HuggingFace && row.order == RowOrder::EvenThenOdd;
        let head_rows = u64::from(self.hyperparameters.head_dim);
        let origin = match reorder {
            true => Origin::Reordered { published, head_rows },
            false => Origin::Published(published),
        };
        self.mapped.push(MappedTensor { spec, origin });
        Ok(())
    }

    /// Places the matrices of all experts of a block as one tensor. `stem` lacks their number.
    fn stack_experts(&mut self, row: &Row, block: Option<u32>, stem: &str) -> Result<()> {
        let extents = row.extents(self.hyperparameters);
        let count = self.hyperparameters.experts.map_or(0, |experts| experts.count);
        let mut published = Vec::new();
        let mut first = None;
        for expert in 0..count {
            let name = numbered(stem, Some(expert)) + ".weight";
            let index = self.take(&name)?;
            let tensor_type = self.check(index, &extents)?;
            let first = *first.get_or_insert(tensor_type);
            if tensor_type != first {
                let problem =
                    format!("tensor {name:?} is {tensor_type}, the first expert's {first}");
                return Err(Error::Shards { path: self.path.to_path_buf(), problem });
            }
            published.push(index);
            self.expected.push(name);
        }
        let Some(tensor_type) = first else { return Ok(()) };
        let shape = extents.iter().rev().copied().chain([count.into()]).collect();
        let spec = TensorSpec { name: numbered(row.gguf, block) + ".weight", shape, tensor_type };
        self.mapped.push(MappedTensor { spec, origin: Origin::Stacked(published) });
        Ok(())
    }

    /// The type of a published tensor, whose shape must be `expected`.
    fn check(&self, published: usize, expected: &[u64]) -> Result<TensorType> {
        let tensor = &self.weights.tensors()[published];
        if tensor.shape != expected {
            return Err(Error::Shape {
                path: self.path.to_path_buf(),
                tensor: tensor.name.clone(),
                expected: expected.to_vec(),
                found: tensor.shape.clone(),
            });
        }
        tensor.float(self.path)
    }

    fn generate_rope_divisors(&mut self) {
        let &Hyperparameters { ref rope_scaling, rope_theta, head_dim, .. } = self.hyperparameters;
        let RopeScaling::Llama3(rope) = rope_scaling else { return };
        let divisors = rope.divisors(rope_theta, head_dim);
        let spec = TensorSpec {
            name: "rope_freqs.weight".to_owned(),
            shape: vec![divisors.len() as u64],
            tensor_type: TensorType::F32,
        };
        let bytes = divisors.into_iter().flat_map(f32::to_le_bytes).collect();
        self.mapped.push(MappedTensor { spec, origin: Origin::Generated(bytes) });
    }

    fn finish(self) -> Result<Vec<MappedTensor>> {
        // The first by name, so that the error does not depend on a hash.
        match self.left.keys().min() {
            None => Ok(self.mapped),
            Some(&unexpected) => Err(Error::UnexpectedTensor {
                path: self.path.to_path_buf(),
                tensor: unexpected.to_owned(),
                nearest: nearest(unexpected, self.expected.iter().map(String::as_str)),
            }),
        }
    }
}

/// The candidate with the smallest edit distance, if a third of the name or less differs. `None`
/// also of more or longer names than a model has: the time to compare them is a hostile file's.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl ExactSizeIterator<Item = &'a str>,
) -> Option<String> {
    const MAX_CANDIDATES: usize = 1 << 13;
    const MAX_NAME: usize = 128;
    if candidates.len() > MAX_CANDIDATES {
        return None;
    }
    candidates
        .filter(|candidate| candidate.len() <= MAX_NAME && name.len() <= MAX_NAME)
        .map(|candidate| (edit_distance(name.as_bytes(), candidate.as_bytes()), candidate))
        .min()
        .filter(|&(distance, _)| distance <= name.len() / 3)
        .map(|(_, candidate)| candidate.to_owned())
}

/// Levenshtein's.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_named() {
        assert_eq!(edit_distance(b"kitten", b"sitting"), 3);
        let names = ["model.embed_token.weight", "lm_head.weight"];
        let found = nearest("model.embed_tokens.weight", names.into_iter());
        assert_eq!(found.as_deref(), Some("model.embed_token.weight"));
        assert_eq!(nearest("model.norm.weight", ["x"].into_iter()), None);
    }
}
