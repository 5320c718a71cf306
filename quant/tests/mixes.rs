//! The mixes give every tensor the type that the field's standard tool gives it.

use llq_fixtures::shared;
use llq_gguf::{Model, TensorSpec, TensorType};
use llq_quant::mix::{Guidance, Mix, ModelShape, Purity, Recipe, assign};

#[test]
fn mixes_equal_the_golden_files() {
    use Guidance::{Importance, Unguided};
    use Purity::{Mixed, Pure};
    let cases = [
        ("q2_k", Mix::Q2_K, Mixed, Unguided),
        ("q2_k-imatrix", Mix::Q2_K, Mixed, Importance),
        ("q2_k-pure", Mix::Q2_K, Pure, Unguided),
        ("q3_k_m", Mix::Q3_K_M, Mixed, Unguided),
        ("q3_k_m-imatrix", Mix::Q3_K_M, Mixed, Importance),
        ("q3_k_s-pure", Mix::Q3_K_S, Pure, Unguided),
        ("q4_0", Mix::Q4_0, Mixed, Unguided),
        ("q4_0-pure", Mix::Q4_0, Pure, Unguided),
        ("q4_k_m", Mix::Q4_K_M, Mixed, Unguided),
        ("q4_k_m-imatrix", Mix::Q4_K_M, Mixed, Importance),
        ("q4_k_s-pure", Mix::Q4_K_S, Pure, Unguided),
        ("q5_0", Mix::Q5_0, Mixed, Unguided),
        ("q5_k_m", Mix::Q5_K_M, Mixed, Unguided),
        ("q5_k_s-pure", Mix::Q5_K_S, Pure, Unguided),
        ("q6_k-pure", Mix::Q6_K, Pure, Unguided),
    ];
    for (file, mix, purity, guidance) in cases {
        let Some(path) = shared(&format!("golden/gguf/{file}.gguf")) else { return };
        let golden = Model::open(&path).unwrap();
        let tensors: Vec<TensorSpec> = golden.tensors().iter().map(as_published).collect();
        let shape = ModelShape::of(golden.metadata(), &tensors);
        let assigned = assign(&Recipe { mix, purity, guidance }, &shape, &tensors);
        for (tensor, assignment) in golden.tensors().iter().zip(assigned) {
            assert_eq!(assignment.tensor_type, tensor.tensor_type, "{file}: {}", tensor.name);
            assert_eq!(assignment.fallback, None);
        }
        assert_eq!(golden.metadata().count("general.file_type").unwrap(), mix.file_type().into());
    }
}

/// The tensor as it was before anybody quantized it.
fn as_published(tensor: &llq_gguf::TensorInfo) -> TensorSpec {
    TensorSpec {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        tensor_type: if tensor.shape.len() == 1 { TensorType::F32 } else { TensorType::BF16 },
    }
}
