//! How encoders are asked to search.

/// How long an encoder searches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// The legacy formats as the reference encodes them; the K-quants by a quick search.
    Fast,
    /// Scales of the legacy formats are searched too, for never a larger error than that of
    /// [`Fast`](Self::Fast).
    #[default]
    Default,
    /// Never a larger error than [`Default`](Self::Default), in several times its time.
    Best,
}

/// What an encoder is told beside the weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct Encoding<'a> {
    /// How much the squared error of each column counts; what is NaN or below zero counts nothing.
    /// `None` is the format's own weighting.
    pub importance: Option<&'a [f32]>,
    /// How long to search.
    pub effort: Effort,
}

impl<'a> Encoding<'a> {
    /// With the default effort.
    pub fn weighted(importance: Option<&'a [f32]>) -> Self {
        Encoding { importance, ..Encoding::default() }
    }
}
