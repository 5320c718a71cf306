//! Checkpoints that are quantized already.

use llq_convert::{Error, Request, open};
use serde_json::json;

use crate::support::{
    assert_says, failure,
    tiny::{Tensor, Tiny},
    tiny_failure,
};

#[test]
fn what_the_config_calls_quantized_is_refused() {
    for method in ["gptq", "awq", "fp8", "compressed-tensors"] {
        let quantized = json!({ "quant_method": method });
        let error = tiny_failure(|tiny| tiny.config["quantization_config"] = quantized.clone());
        assert!(matches!(error, Error::QuantizedCheckpoint { .. }), "{error}");
        assert_says(&error, &["config.json", "quantization_config", method, "base_model"]);
    }
    let error = tiny_failure(|tiny| tiny.config["compression_config"] = json!({}));
    assert_says(&error, &["unknown method", "compression_config"]);
    let mlx = json!({ "group_size": 64, "bits": 4 });
    let error = tiny_failure(|tiny| tiny.config["quantization"] = mlx.clone());
    assert_says(&error, &["by MLX", "config.json has quantization"]);
}

#[test]
fn what_names_show_to_be_quantized_is_refused_before_anything_else() {
    let marks = [
        ("qweight", "GPTQ or AWQ"),
        ("SCB", "bitsandbytes"),
        ("weight.absmax", "bitsandbytes"),
        ("weight_scale_inv", "FP8"),
        ("weight_packed", "compressed-tensors"),
        ("scales", "MLX"),
    ];
    for (mark, method) in marks {
        let error = tiny_failure(|tiny| {
            let weight = tiny.tensors.remove("model.layers.1.mlp.up_proj.weight").unwrap();
            let name = format!("model.layers.1.mlp.up_proj.{mark}");
            tiny.tensors.insert(name, weight);
        });
        assert!(matches!(error, Error::QuantizedCheckpoint { .. }), "{error}");
        assert_says(&error, &[mark, method]);
    }
}

#[test]
fn a_leftover_of_bitsandbytes_in_the_config_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.config["quantization_config"] = json!({ "load_in_4bit": true });
    tiny.write(folder.path());
    let source = open(folder.path()).unwrap();
    assert!(source.notes().iter().any(|note| note.0.contains("bitsandbytes")));

    let absmax = Tensor { shape: vec![4], weights: vec![1.0; 4] };
    tiny.tensors.insert("model.layers.0.mlp.up_proj.weight.absmax".to_owned(), absmax);
    tiny.write(folder.path());
    let error = failure(folder.path(), &Request::default());
    assert!(matches!(error, Error::QuantizedCheckpoint { .. }), "{error}");
}
