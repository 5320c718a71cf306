//! Low-rank adapters as PEFT saves them: `adapter_config.json` and the factors of each change,
//! `W + s·B·A` (Hu et al. 2021, <https://arxiv.org/abs/2106.09685>).

mod adapter;
mod config;
mod error;
mod merged;
mod names;
mod numbers;

use std::path::{Path, PathBuf};

use self::merged::Merged;
pub(crate) use self::{
    adapter::{Adapter, Change, Pair, PairKind},
    config::CONFIG,
    numbers::{read_numbers, transposed},
};
pub use error::LoraError;

use crate::{
    Note,
    arch::{Architecture, Hyperparameters, Module, Naming},
    error::Result,
    weights::Weights,
};

/// An adapter to merge into a checkpoint while it is converted.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraAdapter {
    /// The folder with `adapter_config.json`.
    pub folder: PathBuf,
    /// What its change is multiplied by, beside the scaling of its own.
    pub scale: f64,
}

/// The model that adapters are merged into.
pub(crate) struct Base<'a> {
    pub(crate) folder: &'a Path,
    /// What its authors call it, as far as its folder tells.
    pub(crate) name: &'a str,
    pub(crate) architecture: &'a Architecture,
    pub(crate) naming: Naming,
    pub(crate) hyperparameters: &'a Hyperparameters,
}

/// `weights` with each adapter merged, one after the other.
pub(crate) fn merge(
    mut weights: Box<dyn Weights>,
    adapters: &[LoraAdapter],
    base: &Base<'_>,
    notes: &mut Vec<Note>,
) -> Result<Box<dyn Weights>> {
    if adapters.is_empty() {
        return Ok(weights);
    }
    let modules: Vec<Module> =
        base.architecture.modules(base.naming, base.hyperparameters).collect();
    for LoraAdapter { folder, scale } in adapters {
        let adapter = Adapter::open(folder)?;
        adapter.config.check_mergeable()?;
        notes.extend(adapter.config.notes());
        notes.extend(adapter.config.other_base(base.name));
        let changes = adapter.changes(&modules)?;
        notes.push(adapter.note(&changes, *scale));
        weights = Box::new(Merged::new(weights, adapter, &changes, *scale, &modules, base)?);
    }
    Ok(weights)
}
