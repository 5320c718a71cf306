//! A model's tensors, looked up by name and checked against the hyperparameters.

use std::collections::HashSet;

use llq_gguf::{Endian, Model, TensorInfo, TensorType};
use llq_quant::{Matrix, format};

use crate::{Error, error::Result};

/// Tensors that some converters write and no LLaMA needs: the rotation frequencies themselves.
const REDUNDANT: &[&str] = &["rope.freqs", "attn_rot_embd.weight"];

/// A matrix in place of the model's of that name.
#[derive(Debug)]
pub(crate) struct Replacement {
    pub(crate) tensor: String,
    pub(crate) tensor_type: TensorType,
    pub(crate) bytes: Vec<u8>,
}

/// The tensors of a model, and which of them have been taken.
pub(super) struct Tensors<'m> {
    model: &'m Model,
    replaced: &'m [Replacement],
    taken: HashSet<&'m str>,
}

/// A matrix with what is added to its product.
#[derive(Debug)]
pub(crate) struct Linear<'m> {
    pub(crate) matrix: Matrix<'m>,
    pub(crate) bias: Option<Vec<f32>>,
}

impl<'m> Tensors<'m> {
    pub(super) fn of(model: &'m Model, replaced: &'m [Replacement]) -> Result<Tensors<'m>> {
        if model.endian() == Endian::Big {
            return Err(Error::BigEndian);
        }
        Ok(Tensors { model, replaced, taken: HashSet::new() })
    }

    /// `{name}.weight` as a matrix of `rows` rows of `cols` weights, and `{name}.bias` if there is
    /// one.
    pub(super) fn linear(&mut self, name: &str, cols: usize, rows: usize) -> Result<Linear<'m>> {
        let matrix = self.matrix(&format!("{name}.weight"), cols, rows)?;
        let bias = self.optional_vector(&format!("{name}.bias"), rows)?;
        Ok(Linear { matrix, bias })
    }

    pub(super) fn optional_matrix(
        &mut self,
        name: &str,
        cols: usize,
        rows: usize,
    ) -> Result<Option<Matrix<'m>>> {
        match self.model.tensor(name) {
            Some(_) => self.matrix(name, cols, rows).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn matrix(&mut self, name: &str, cols: usize, rows: usize) -> Result<Matrix<'m>> {
        let tensor = self.take(name, &[cols as u64, rows as u64])?;
        let (found, bytes) = match self.replaced.iter().find(|replaced| replaced.tensor == name) {
            Some(replaced) => (replaced.tensor_type, &replaced.bytes[..]),
            None => (tensor.tensor_type, self.model.data(tensor)),
        };
        if format(found).is_none() {
            return Err(Error::Type { tensor: name.to_owned(), found });
        }
        Matrix::new(found, rows, cols, bytes).map_err(|problem| unusable(name, problem))
    }

    pub(super) fn optional_vector(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        match self.model.tensor(name) {
            Some(_) => self.vector(name, len).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.take(name, &[len as u64])?;
        let found = tensor.tensor_type;
        let format = format(found).ok_or_else(|| Error::Type { tensor: name.to_owned(), found })?;
        let mut weights = vec![0.0; len];
        format
            .dequantize(self.model.data(tensor), &mut weights)
            .map_err(|problem| unusable(name, problem))?;
        match weights.iter().all(|weight| weight.is_finite()) {
            true => Ok(weights),
            false => Err(unusable(name, "a weight is NaN or infinite")),
        }
    }

    /// Refuses a model with a tensor that nothing took: it would be another model without it.
    pub(super) fn finish(self) -> Result<()> {
        let left = self.model.tensors().iter().find(|tensor| {
            !self.taken.contains(tensor.name.as_str())
                && !REDUNDANT.iter().any(|redundant| tensor.name.ends_with(redundant))
        });
        match left {
            Some(tensor) => Err(Error::UnsupportedTensor { tensor: tensor.name.clone() }),
            None => Ok(()),
        }
    }

    fn take(&mut self, name: &str, expected: &[u64]) -> Result<&'m TensorInfo> {
        let model = self.model;
        let tensor =
            model.tensor(name).ok_or_else(|| Error::MissingTensor { tensor: name.to_owned() })?;
        if tensor.shape != expected {
            return Err(Error::Shape {
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: tensor.shape.clone(),
            });
        }
        self.taken.insert(&tensor.name);
        Ok(tensor)
    }
}

fn unusable(name: &str, problem: impl ToString) -> Error {
    Error::Weights { tensor: name.to_owned(), problem: problem.to_string() }
}
