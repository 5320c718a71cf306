//! Folders in Meta's form: shards that do not belong together, parameters and lists of sums that lie;
//! and the parameters of the Hugging Face form.

use std::{fs, path::PathBuf};

use serde_json::{Value as Json, json};

use crate::{
    case::{CHECKPOINT, Case, checkpoint},
    harness::Place,
    support::{
        meta::{self, EmbeddingCut, pieces, write_shard},
        tiny::{Tensor, Tiny},
    },
};

type Pieces = Vec<(String, Tensor)>;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = shards();
    cases.extend(params());
    cases.extend(checklists());
    cases.extend(config());
    cases
}

fn write(place: &Place, shards: usize) -> PathBuf {
    let folder = checkpoint(place);
    meta::write(&Tiny::new(), &folder, shards, EmbeddingCut::Columns);
    folder
}

fn shards() -> Vec<Case> {
    let without = |shard: usize, place: &str| {
        Case::new(format!("shard {shard} of 4 missing"), move |to| {
            let folder = write(to, 4);
            fs::remove_file(folder.join(format!("consolidated.{shard:02}.pth"))).unwrap();
        })
        .refused(CHECKPOINT, &["model", place])
    };
    // The second of two shards after a change.
    let second = |name: &str, change: fn(&mut Pieces), parts: &[&str]| {
        Case::new(name, move |place| {
            let folder = write(place, 2);
            let mut second = pieces(&Tiny::new(), 1, 2, EmbeddingCut::Columns);
            change(&mut second);
            write_shard(&folder, 1, &second);
        })
        .refused(CHECKPOINT, parts)
    };
    fn of<'a>(pieces: &'a mut Pieces, name: &str) -> &'a mut Tensor {
        &mut pieces.iter_mut().find(|(other, _)| other == name).unwrap().1
    }
    const SECOND: &str = "consolidated.01.pth";
    let norm = "layers.0.attention_norm.weight";
    vec![
        Case::new("four shards", |place| drop(write(place, 4))).accepted(CHECKPOINT),
        without(0, "consolidated.00.pth"),
        without(1, "consolidated.01.pth"),
        without(3, "consolidated.03.pth"),
        second("shards of different keys", |all| drop(all.remove(3)), &[SECOND]),
        second(
            "a key more in one shard",
            |all| all.push(("x\u{1b}[2J".into(), all[0].1.clone())),
            &[SECOND],
        ),
        second(
            "shards of different shapes",
            |all| {
                let tensor = of(all, "layers.0.feed_forward.w1.weight");
                tensor.shape[0] /= 2;
                tensor.weights.truncate(tensor.weights.len() / 2);
            },
            &["layers.0.feed_forward.w1.weight"],
        ),
        second(
            "another width in one shard",
            |all| of(all, "layers.0.feed_forward.w1.weight").shape = vec![64, 16],
            &["layers.0.feed_forward.w1.weight"],
        ),
        second(
            "norm differs between shards",
            |all| of(all, "layers.0.attention_norm.weight").weights[3] += 1.0,
            &[norm],
        ),
        Case::new("shards of different types", |place| {
            let folder = write(place, 2);
            let path = folder.join(SECOND);
            let file = fs::read(&path).unwrap();
            let text = b"BFloat16Storage";
            let at = file.windows(text.len()).position(|window| window == text).unwrap();
            // As long, so that the archive stays sound.
            let changed = [&file[..at], b"HalfStorage\nq\x70K", &file[at + text.len()..]].concat();
            fs::write(path, changed).unwrap();
        })
        .refused(CHECKPOINT, &[SECOND]),
        Case::new("a shard twice", |place| {
            let folder = write(place, 4);
            fs::copy(folder.join("consolidated.01.pth"), folder.join("consolidated.03.pth"))
                .unwrap();
        })
        .refused(CHECKPOINT, &["consolidated.03.pth: a copy of", "consolidated.01.pth"]),
        Case::new("a shard is a pipe", |place| {
            let path = write(place, 1).join("consolidated.00.pth");
            fs::remove_file(&path).unwrap();
            rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR,
                0,
            )
            .unwrap();
        })
        .refused(CHECKPOINT, &["consolidated.00.pth", "not a regular file"]),
    ]
}

fn params() -> Vec<Case> {
    const FILE: &str = "model/params.json: ";
    let text = |name: &str, text: String| {
        Case::new(name, |place| fs::write(write(place, 1).join("params.json"), text).unwrap())
    };
    let of = |key: &'static str, value: Json| {
        Case::new(format!("params.json {key}: {value}"), move |place| {
            let path = write(place, 1).join("params.json");
            let mut params: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            params[key] = value;
            fs::write(path, params.to_string()).unwrap();
        })
    };
    let bad = |key: &'static str, value: Json| of(key, value).refused(CHECKPOINT, &[FILE, key]);
    let spelled = |name: &str, key: &str, value: &str| {
        let params = json!({ "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
            "norm_eps": 1e-5, "vocab_size": -1 });
        let mut params = params.as_object().unwrap().clone();
        params.remove(key);
        let rest = Json::Object(params).to_string();
        text(name, format!("{{\"{key}\": {value}, {}", &rest[1..])).refused(CHECKPOINT, &[FILE])
    };
    let mut cases = vec![
        of("x", json!({ "a": [{ "b": {} }] })).accepted(CHECKPOINT),
        text("params.json nested", format!("{{\"dim\":{}", "[".repeat(1_000_000)))
            .refused(CHECKPOINT, &[FILE, "recursion limit"]),
        text("params.json empty", String::new()).refused(CHECKPOINT, &[FILE, "line 1"]),
        text("params.json not UTF-8", "{\"dim\": \u{fffd}}".into()).refused(CHECKPOINT, &[FILE]),
        spelled("params.json NaN", "norm_eps", "NaN"),
        spelled("params.json Infinity", "norm_eps", "Infinity"),
        spelled("params.json 1e999", "norm_eps", "1e999"),
        spelled("params.json integer of 10^5 digits", "dim", &"9".repeat(100_000)),
        bad("n_heads", json!(0)),
        of("n_heads", json!(3)).refused(CHECKPOINT, &[FILE, "n_kv_heads"]),
        bad("n_heads", json!(-4)),
        bad("n_heads", json!(4.5)),
        bad("n_heads", json!("4")),
        bad("n_heads", json!(1u64 << 32)),
        bad("n_kv_heads", json!(0)),
        bad("n_kv_heads", json!(3)),
        bad("dim", json!(0)),
        bad("n_layers", json!(0)),
        bad("n_layers", json!(u64::MAX)),
        bad("norm_eps", json!(0)),
        bad("norm_eps", json!(-1e-5)),
        bad("norm_eps", json!(1e300)),
        bad("rope_theta", json!(0)),
        bad("rope_theta", json!(-1)),
    ];
    // More than the shards have: the tensor is named that would have to be there.
    for (key, value) in [("n_layers", 3u32), ("dim", 33), ("n_heads", 8)] {
        cases.push(of(key, json!(value)).refused(CHECKPOINT, &["tensor \""]));
    }
    cases.push(bad("n_layers", json!(u32::MAX)));
    cases.push(of("dim", json!(64)).refused(CHECKPOINT, &["model: no consolidated.01.pth"]));
    let vocabulary = of("vocab_size", json!(-1)).accepted(CHECKPOINT);
    let without = Case::new("vocab_size -1 without a tokenizer", |place| {
        fs::remove_file(write(place, 1).join("tokenizer.model")).unwrap();
    });
    cases.extend([
        vocabulary,
        without.refused(CHECKPOINT, &["model: no tokenizer.model, nor in the folder above"]),
    ]);
    cases
}

fn checklists() -> Vec<Case> {
    const COMPARED: &str = "convert model -o out.gguf --verify-checksums";
    let of = |name: &str, list: Vec<u8>, parts: &[&str]| {
        Case::new(name, |place| fs::write(write(place, 1).join("checklist.chk"), list).unwrap())
            .refused(&[COMPARED], parts)
    };
    let sum = "d41d8cd98f00b204e9800998ecf8427e";
    vec![
        of(
            "sum of another file",
            format!("{sum}  consolidated.00.pth\n").into(),
            &["consolidated.00.pth: its MD5 sum is"],
        ),
        of("list names ../x", format!("{sum}  ../x\n").into(), &["checklist.chk: line 1"]),
        of(
            "list names /etc/passwd",
            format!("{sum}  /etc/passwd\n").into(),
            &["checklist.chk: line 1"],
        ),
        of("list of garbage", b"\xff\x1b[2J".to_vec(), &["checklist.chk: line 1"]),
        of("list of 1 MB", vec![b'a'; 1 << 20], &["checklist.chk"]),
    ]
}

/// The same numbers in `config.json`.
fn config() -> Vec<Case> {
    const FILE: &str = "model/config.json: ";
    let of = |key: &'static str, value: Json| {
        Case::new(format!("config.json {key}: {value}"), move |place| {
            let mut tiny = Tiny::new();
            tiny.config[key] = value;
            tiny.write(&checkpoint(place));
        })
    };
    let bad = |key: &'static str, value: Json| of(key, value).refused(CHECKPOINT, &[FILE, key]);
    vec![
        bad("num_attention_heads", json!(0)),
        of("num_attention_heads", json!(3)).refused(CHECKPOINT, &[FILE, "num_key_value_heads"]),
        bad("num_key_value_heads", json!(0)),
        bad("num_key_value_heads", json!(3)),
        bad("hidden_size", json!(0)),
        bad("num_hidden_layers", json!(0)),
        bad("num_hidden_layers", json!(1u64 << 32)),
        bad("intermediate_size", json!(0)),
        bad("vocab_size", json!(0)),
        bad("max_position_embeddings", json!(0)),
        bad("rms_norm_eps", json!(0)),
        bad("rms_norm_eps", json!("NaN")),
        bad("rope_theta", json!(-1)),
        bad("rope_scaling", json!({ "rope_type": "\u{1b}[2J", "factor": 2 })),
        of("rope_scaling", json!({ "rope_type": "linear", "factor": 0 }))
            .refused(CHECKPOINT, &[FILE, "factor"]),
        bad("architectures", json!(["\u{1b}[2JForCausalLM"])),
        bad("architectures", json!([])),
        bad("num_hidden_layers", json!(u32::MAX)),
        of("num_hidden_layers", json!(3)).refused(CHECKPOINT, &["tensor \"model.layers.2"]),
        bad("vocab_size", json!(u32::MAX)),
        of("vocab_size", json!(17)).refused(CHECKPOINT, &["tensor \""]),
        of("hidden_size", json!(1 << 20)).refused(CHECKPOINT, &["tensor \""]),
        of("auto_map", json!({ "AutoModel": "evil.Model" })).accepted(CHECKPOINT),
    ]
}
