//! What fuzz targets share with the tests that replay their corpora.

pub mod entries;
pub mod seeds;

#[allow(dead_code, clippy::unwrap_used)]
#[path = "../../convert/tests/it/support/mod.rs"]
mod support;
