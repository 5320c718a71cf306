//! Benches of llq, under `benches/`; each checks its answer.
