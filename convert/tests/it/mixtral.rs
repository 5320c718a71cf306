//! Experts: stacked, routed, and given types by the mixes.

use llq_convert::{Error, Plan, Request, open};
use llq_gguf::{TensorType, Value};
use llq_quant::mix::Mix;
use serde_json::json;

use crate::support::{
    assert_says, converted_model, failure, request,
    tiny::{EMBEDDING, FEED_FORWARD, Tensor, Tiny},
};

#[test]
fn experts_lie_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny::with_experts(3);
    tiny.write_sharded(folder.path());
    let model = converted_model(folder.path(), &Request::default());
    let pairs = [
        ("ffn_gate_exps", "w1", [EMBEDDING, FEED_FORWARD, 3]),
        ("ffn_up_exps", "w3", [EMBEDDING, FEED_FORWARD, 3]),
        ("ffn_down_exps", "w2", [FEED_FORWARD, EMBEDDING, 3]),
    ];
    for (gguf, published, shape) in pairs {
        for block in 0..2 {
            let info = model.tensor(&format!("blk.{block}.{gguf}.weight")).unwrap();
            assert_eq!(info.shape, shape);
            let stem = format!("model.layers.{block}.block_sparse_moe.experts");
            let experts =
                (0..3).map(|e| tiny.tensors[&format!("{stem}.{e}.{published}.weight")].bf16());
            assert!(model.data(info) == experts.collect::<Vec<_>>().concat(), "{gguf}");
        }
    }
    let router = model.tensor("blk.1.ffn_gate_inp.weight").unwrap();
    assert_eq!((router.tensor_type, &router.shape[..]), (TensorType::F32, &[EMBEDDING, 3][..]));
    let metadata = model.metadata();
    assert_eq!(metadata.string("general.architecture").unwrap(), "llama");
    assert_eq!(metadata.get("llama.expert_count"), Some(&Value::U32(3)));
    assert_eq!(metadata.get("llama.expert_used_count"), Some(&Value::U32(2)));
    assert_eq!(model.tensors().len(), 3 + 2 * 10);
    // 7520 weights that all tokens pass, and 12288 of an expert.
    assert_eq!(metadata.string("general.size_label").unwrap(), "3x20K");
}

#[test]
fn rows_of_any_expert_are_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny::with_experts(3);
    tiny.write(folder.path());
    let source = open(folder.path()).unwrap();
    let name = "blk.0.ffn_down_exps.weight";
    let tensor = source.tensors().iter().position(|spec| spec.name == name).unwrap();
    let whole: Vec<u8> = (0..3)
        .flat_map(|e| {
            tiny.tensors[&format!("model.layers.0.block_sparse_moe.experts.{e}.w2.weight")].bf16()
        })
        .collect();
    let row = 2 * FEED_FORWARD as usize;
    for rows in [0..96, 31..33, 32..64, 30..70, 95..96, 5..5] {
        let mut out = vec![0; row * (rows.end - rows.start) as usize];
        source.read_rows(tensor, rows.clone(), &mut out).unwrap();
        assert!(out == whole[row * rows.start as usize..row * rows.end as usize], "{rows:?}");
    }
}

#[test]
fn experts_must_be_complete_and_alike() {
    let stem = "model.layers.1.block_sparse_moe.experts.2.w2.weight";
    let failure_of = |change: fn(&mut Tiny)| {
        let folder = tempfile::tempdir().unwrap();
        let mut tiny = Tiny::with_experts(3);
        change(&mut tiny);
        tiny.write(folder.path());
        failure(folder.path(), &Request::default())
    };
    let error = failure_of(|tiny| tiny.config["num_local_experts"] = json!(2));
    assert_says(&error, &["block_sparse_moe.gate.weight", "[3, 32]", "[2, 32]"]);
    let error = failure_of(|tiny| {
        tiny.config["num_local_experts"] = json!(4);
        for block in 0..2 {
            let gate = format!("model.layers.{block}.block_sparse_moe.gate.weight");
            tiny.tensors.insert(gate, Tensor::new(1, &[4, EMBEDDING]));
        }
    });
    assert!(matches!(error, Error::MissingTensor { .. }), "{error}");
    assert_says(&error, &["experts.3.w1.weight", "nearest"]);
    let error = failure_of(|tiny| {
        let name = "model.layers.1.block_sparse_moe.experts.2.w2.weight".to_owned();
        tiny.tensors.insert(name, Tensor::new(1, &[FEED_FORWARD, EMBEDDING]));
    });
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    assert_says(&error, &[stem, "[32, 64]"]);
    for (key, value) in [
        ("num_local_experts", json!(0)),
        ("num_local_experts", json!(513)),
        ("num_experts_per_tok", json!(0)),
        ("num_experts_per_tok", json!(4)),
        ("num_experts_per_tok", json!(null)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut tiny = Tiny::with_experts(3);
        tiny.config[key] = value;
        tiny.write(folder.path());
        let error = failure(folder.path(), &Request::default());
        assert!(matches!(error, Error::Key { .. }), "{error}");
        assert_says(&error, &[key]);
    }
}

#[test]
fn the_mix_of_eight_experts_keeps_attention_precise() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::with_experts(8).write(folder.path());
    let source = open(folder.path()).unwrap();
    // Rows of 32 and 64 weights: K-quants fall back to their neighbours, Q8_0 fits.
    let plan = Plan::new(&*source, &request(Mix::Q4_K_M)).unwrap();
    let wanted = |name: &str| {
        let tensor = plan.tensors().iter().find(|tensor| tensor.name == name).unwrap();
        tensor.fallback.map_or(tensor.to, |fallback| fallback.wanted)
    };
    assert_eq!(wanted("blk.0.attn_v.weight"), TensorType::Q8_0);
    assert_eq!(wanted("blk.0.attn_k.weight"), TensorType::Q8_0);
    assert_eq!(wanted("blk.0.attn_output.weight"), TensorType::Q5_K);
    assert_eq!(wanted("blk.0.attn_q.weight"), TensorType::Q4_K);
    assert_eq!(wanted("blk.0.ffn_gate_exps.weight"), TensorType::Q4_K);
    assert_eq!(wanted("blk.1.ffn_down_exps.weight"), TensorType::Q6_K);
    assert_eq!(wanted("blk.0.ffn_gate_inp.weight"), TensorType::F32);
}
