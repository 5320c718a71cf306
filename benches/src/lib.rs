//! What the benches under `benches/` share. Each bench is named `operation/row/format`, so that
//! `cargo bench -p llq-benches --bench products -- avx2/q4_k` takes some of them, and compares its
//! answer with the definition before it is timed.

mod bench;
mod clock;
mod weights;

pub use bench::{Case, bench, bench_in_place, run};
pub use clock::ProcessorTime;
pub use weights::{Weights, assert_near, assert_product, numbers};
