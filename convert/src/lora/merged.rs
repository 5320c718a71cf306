//! A checkpoint's tensors with an adapter merged in.

use std::{collections::HashMap, ops::Range, path::PathBuf};

use llq_gguf::TensorType;

use super::{
    Adapter, Base, Change, LoraError, Pair, PairKind,
    numbers::{read_numbers, transposed},
};
use crate::{
    Error,
    arch::{Module, Naming, Presence, published_row},
    error::Result,
    weights::{Dtype, PublishedTensor, Weights},
};

/// The base's tensors under their names; those that the adapter changes are F32.
#[derive(Debug)]
pub(crate) struct Merged {
    base: Box<dyn Weights>,
    adapter: Adapter,
    tensors: Vec<PublishedTensor>,
    /// Indexes in `tensors`.
    names: HashMap<String, usize>,
    /// By index in `tensors`.
    merges: HashMap<usize, Merge>,
}

/// How one tensor comes to be.
#[derive(Debug)]
struct Merge {
    origin: Origin,
    delta: Option<Delta>,
    /// Rows of a head, where the adapter's rows are ordered otherwise than the base's.
    head_rows: Option<u64>,
}

/// What is there before the change.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// A tensor of the base.
    Base(usize),
    /// A whole tensor of the adapter.
    Adapter(usize),
}

/// A low-rank change.
#[derive(Debug)]
struct Delta {
    factors: Factors,
    rank: u64,
    scaling: f64,
    /// The length that each row gets, in the adapter's order.
    magnitude: Option<Vec<f32>>,
}

/// Left [rows, rank] and right [rank, columns].
#[derive(Debug)]
enum Factors {
    /// The adapter's tensors as they are, read when needed.
    Stored { left: usize, right: usize },
    /// Those of an embedding, which are stored transposed.
    Held { left: Vec<f32>, right: Vec<f32> },
}

/// Numbers of each matrix that a thread holds at once, if one row has no more.
const NUMBERS_AT_ONCE: u64 = 1 << 17;

impl Merged {
    pub(super) fn new(
        base: Box<dyn Weights>,
        adapter: Adapter,
        changes: &[Change],
        scale: f64,
        modules: &[Module],
        model: &Base<'_>,
    ) -> Result<Merged> {
        let tensors = base.tensors().to_vec();
        let names = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at));
        let mut merged =
            Merged { names: names.collect(), base, adapter, tensors, merges: HashMap::new() };
        merged.untie(changes, modules, model)?;
        for change in changes {
            merged.add(change, scale, model)?;
        }
        Ok(merged)
    }

    /// Gives a base whose token embedding serves as output projection one of its own, where the
    /// adapter changes one of the two: in training each had its own change.
    fn untie(&mut self, changes: &[Change], modules: &[Module], model: &Base<'_>) -> Result<()> {
        let find = |presence| modules.iter().find(|m| m.is_vocabulary && m.presence == presence);
        let (Some(embedding), Some(output)) = (find(Presence::Required), find(Presence::Optional))
        else {
            return Ok(());
        };
        let is_vocabulary = |change: &&Change| change.module.is_vocabulary;
        let of_output = |change: &Change| change.module.presence == Presence::Optional;
        let mut changes = changes.iter().filter(is_vocabulary);
        let needed = changes.any(|c| c.pair.is_some() || of_output(c) && c.weight.is_some());
        let name = weight_name(output);
        let Some(&tied) = self.names.get(&weight_name(embedding)) else { return Ok(()) };
        if !needed || self.names.contains_key(&name) {
            return Ok(());
        }
        self.tensors[tied].float(model.folder)?;
        let (shape, dtype) = (self.tensors[tied].shape.clone(), Dtype::Float(TensorType::F32));
        self.names.insert(name.clone(), self.tensors.len());
        let merge = Merge { origin: Origin::Base(tied), delta: None, head_rows: None };
        self.merges.insert(self.tensors.len(), merge);
        self.tensors.push(PublishedTensor { name, shape, dtype });
        Ok(())
    }

    fn add(&mut self, change: &Change, scale: f64, model: &Base<'_>) -> Result<()> {
        let &Change { ref module, weight, bias, ref pair } = change;
        let head_rows = module.head_rows.filter(|_| model.naming == Naming::Meta);
        if weight.is_some() || pair.is_some() {
            let delta = pair.as_ref().map(|pair| self.delta(pair, scale)).transpose()?;
            let tensor = self.place(change, weight_name(module))?;
            let origin = match (weight, self.merges.get(&tensor)) {
                (Some(weight), _) => Origin::Adapter(weight),
                (None, Some(untied)) => untied.origin,
                (None, None) => Origin::Base(tensor),
            };
            self.change(tensor, &module.extents, Merge { origin, delta, head_rows }, model)?;
        }
        if let Some(bias) = bias {
            let name = format!("{}.bias", module.published);
            let tensor = self.place(change, name.clone())?;
            if head_rows.is_some() {
                // The order of a vector's numbers, which Meta's checkpoints have no case of.
                return Err(self.no_module(change, name));
            }
            let merge = Merge { origin: Origin::Adapter(bias), delta: None, head_rows };
            self.change(tensor, &module.extents[..1], merge, model)?;
        }
        Ok(())
    }

    fn place(&self, change: &Change, name: String) -> Result<usize> {
        self.names.get(&name).copied().ok_or_else(|| self.no_module(change, name))
    }

    fn no_module(&self, change: &Change, module: String) -> Error {
        let tensor = change.first_tensor();
        let tensor = self.adapter.name(tensor).to_owned();
        self.adapter.error(LoraError::NoModule { tensor, module, nearest: None })
    }

    fn change(
        &mut self,
        tensor: usize,
        extents: &[u64],
        merge: Merge,
        model: &Base<'_>,
    ) -> Result<()> {
        let published = &mut self.tensors[tensor];
        published.float(model.folder)?;
        published.dtype = Dtype::Float(TensorType::F32);
        if let Origin::Adapter(_) = merge.origin {
            published.shape = extents.to_vec();
        }
        self.merges.insert(tensor, merge);
        Ok(())
    }

    fn delta(&self, pair: &Pair, scale: f64) -> Result<Delta> {
        let &Pair { kind, a, b, strength, magnitude } = pair;
        let weights = &self.adapter.weights;
        let factors = match kind {
            PairKind::Matrix => Factors::Stored { left: b, right: a },
            PairKind::Embedding => {
                Factors::Held { left: transposed(weights, a)?, right: transposed(weights, b)? }
            }
        };
        let magnitude = magnitude.map(|tensor| read_numbers(weights, tensor, 0..1)).transpose()?;
        Ok(Delta { factors, rank: strength.rank, scaling: strength.scaling * scale, magnitude })
    }
}

impl Weights for Merged {
    fn tensors(&self) -> &[PublishedTensor] {
        &self.tensors
    }

    fn files(&self) -> Vec<PathBuf> {
        [self.base.files(), self.adapter.weights.files()].concat()
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let Some(merge) = self.merges.get(&tensor) else {
            return self.base.read_rows(tensor, rows, out);
        };
        let columns = self.tensors[tensor].columns();
        let rank = merge.delta.as_ref().map_or(1, |delta| delta.rank);
        let step = (NUMBERS_AT_ONCE / columns.max(rank).max(1)).max(1);
        for (start, out) in
            rows.clone().step_by(step as usize).zip(out.chunks_mut((step * columns * 4) as usize))
        {
            let some = start..rows.end.min(start + step);
            let numbers = self.merge_rows(tensor, merge, some)?;
            for (out, number) in out.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
                *out = (number as f32).to_le_bytes();
            }
        }
        Ok(())
    }

    fn stored_type(&self, tensor: usize) -> Option<TensorType> {
        if tensor < self.base.tensors().len() {
            return self.base.stored_type(tensor);
        }
        match self.merges.get(&tensor)?.origin {
            Origin::Base(tensor) => self.base.stored_type(tensor),
            Origin::Adapter(tensor) => self.adapter.weights.stored_type(tensor),
        }
    }
}

impl Merged {
    /// Rows of the result. Sums are in f64 and in one order, whatever rows are asked for together.
    fn merge_rows(&self, tensor: usize, merge: &Merge, rows: Range<u64>) -> Result<Vec<f64>> {
        let numbers = match merge.origin {
            Origin::Base(tensor) => read_numbers(&*self.base, tensor, rows.clone())?,
            Origin::Adapter(tensor) => self.adapter_rows(tensor, rows.clone(), merge.head_rows)?,
        };
        let mut sums: Vec<f64> = numbers.into_iter().map(f64::from).collect();
        if let Some(delta) = &merge.delta {
            self.add_product(&mut sums, delta, rows.clone(), merge.head_rows)?;
            if let Some(magnitude) = &delta.magnitude {
                let columns = self.tensors[tensor].columns() as usize;
                for (row, sums) in rows.zip(sums.chunks_exact_mut(columns)) {
                    let row = merge.head_rows.map_or(row, |head| published_row(row, head));
                    set_length(sums, magnitude[row as usize].into());
                }
            }
        }
        Ok(sums)
    }

    /// Adds scaling · left · right.
    fn add_product(
        &self,
        sums: &mut [f64],
        delta: &Delta,
        rows: Range<u64>,
        head_rows: Option<u64>,
    ) -> Result<()> {
        let rank = delta.rank as usize;
        let columns = sums.len() / (rows.end - rows.start) as usize;
        let read;
        let left = match &delta.factors {
            Factors::Stored { left, .. } => {
                read = self.adapter_rows(*left, rows, head_rows)?;
                &read[..]
            }
            Factors::Held { left, .. } => {
                &left[rows.start as usize * rank..rows.end as usize * rank]
            }
        };
        let step = (NUMBERS_AT_ONCE as usize / columns.max(1)).max(1);
        for start in (0..rank).step_by(step) {
            let some = start..rank.min(start + step);
            let read;
            let right = match &delta.factors {
                Factors::Stored { right, .. } => {
                    let some = some.start as u64..some.end as u64;
                    read = read_numbers(&self.adapter.weights, *right, some)?;
                    &read[..]
                }
                Factors::Held { right, .. } => &right[some.start * columns..some.end * columns],
            };
            for (sums, left) in sums.chunks_exact_mut(columns).zip(left.chunks_exact(rank)) {
                for (&left, right) in left[some.clone()].iter().zip(right.chunks_exact(columns)) {
                    let factor = delta.scaling * f64::from(left);
                    for (sum, &right) in sums.iter_mut().zip(right) {
                        *sum += factor * f64::from(right);
                    }
                }
            }
        }
        Ok(())
    }

    /// Rows of a tensor of the adapter in the base's order.
    fn adapter_rows(
        &self,
        tensor: usize,
        rows: Range<u64>,
        head_rows: Option<u64>,
    ) -> Result<Vec<f32>> {
        let Some(head) = head_rows else {
            return read_numbers(&self.adapter.weights, tensor, rows);
        };
        let mut numbers = Vec::new();
        for row in rows.map(|row| published_row(row, head)) {
            numbers.extend(read_numbers(&self.adapter.weights, tensor, row..row + 1)?);
        }
        Ok(numbers)
    }
}

fn weight_name(module: &Module) -> String {
    format!("{}.weight", module.published)
}

/// Gives a row its learned length.
fn set_length(row: &mut [f64], length: f64) {
    let norm = row.iter().map(|number| number * number).sum::<f64>().sqrt();
    let factor = length / norm;
    row.iter_mut().for_each(|number| *number *= factor);
}
