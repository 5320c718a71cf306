//! Counting weights that are out of the ordinary.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{NonFinite, Overflow};
use crate::TensorPlan;

/// The weights of some rows that are out of the ordinary.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    /// NaN or infinite.
    pub(super) non_finite: u64,
    /// Finite, but too large for the output's type.
    pub(super) too_large: u64,
    /// The largest magnitude of those.
    pub(super) largest: f32,
}

impl Census {
    /// Whether nothing was met.
    pub(super) fn is_ordinary(&self) -> bool {
        self.non_finite == 0 && self.too_large == 0
    }

    pub(super) fn add(&mut self, more: &Census) {
        self.non_finite += more.non_finite;
        self.too_large += more.too_large;
        self.largest = self.largest.max(more.largest);
    }
}

/// The census of a tensor, added up by several threads.
#[derive(Debug, Default)]
pub(super) struct Tally {
    non_finite: AtomicU64,
    too_large: AtomicU64,
    /// As bits, which have the order of the magnitudes.
    largest: AtomicU32,
}

impl Tally {
    pub(super) fn add(&self, census: &Census) {
        self.non_finite.fetch_add(census.non_finite, Relaxed);
        self.too_large.fetch_add(census.too_large, Relaxed);
        self.largest.fetch_max(census.largest.to_bits(), Relaxed);
    }

    pub(super) fn census(&self) -> Census {
        Census {
            non_finite: self.non_finite.load(Relaxed),
            too_large: self.too_large.load(Relaxed),
            largest: f32::from_bits(self.largest.load(Relaxed)),
        }
    }

    pub(super) fn non_finite(&self, tensor: &TensorPlan) -> Option<NonFinite> {
        let weights = self.census().non_finite;
        (weights > 0).then(|| NonFinite { tensor: tensor.name.clone(), weights })
    }

    pub(super) fn overflow(&self, tensor: &TensorPlan) -> Option<Overflow> {
        let Census { too_large: weights, largest, .. } = self.census();
        let name = || tensor.name.clone();
        (weights > 0).then(|| Overflow { tensor: name(), to: tensor.to, weights, largest })
    }
}
