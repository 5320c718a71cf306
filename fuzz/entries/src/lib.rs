//! What fuzz targets share with the test that replays their corpora.

// A target that cannot do its work has to be seen: it panics.
#![allow(clippy::unwrap_used)]

mod checkpoints;
pub mod entries;
pub mod seeds;

#[allow(dead_code)]
#[path = "../../../convert/tests/it/support/mod.rs"]
mod support;
