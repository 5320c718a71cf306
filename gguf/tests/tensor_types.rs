//! The table of tensor types against that of the `gguf` package of PyPI (0.19.0):
//!
//! ```python
//! from gguf.constants import GGML_QUANT_SIZES as S, GGMLQuantizationType as T
//! for t in T: print(t.value, t.name, *S[t])
//! ```

#![allow(clippy::unwrap_used)] // a test may

use llq_gguf::TensorType;

/// Newer than that package.
const NEWER: &[TensorType] = &[TensorType::Q2_0];

#[test]
fn every_type_has_the_oracle_s_id_and_sizes() {
    let mut compared = NEWER.len();
    for line in include_str!("data/tensor_types.txt").lines() {
        let [id, name, weights, bytes] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let found = TensorType::from_id(id.parse().unwrap()).unwrap();
        // The package still has the two scales of Q8_1 as f32; in ggml they are halves. No file
        // holds the type.
        let bytes = if found == TensorType::Q8_1 { "36" } else { bytes };
        assert_eq!(found.name(), name);
        assert_eq!(found.block_weights().to_string(), weights, "{name}");
        assert_eq!(found.block_bytes().to_string(), bytes, "{name}");
        compared += 1;
    }
    assert_eq!(compared, TensorType::ALL.len());
}
