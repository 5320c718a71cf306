//! GGUF files that keep to the format and are no models that a loader could trust: parts that do not
//! belong together, vocabularies, numbers and weights that lie.

use std::sync::OnceLock;

use half::f16;
use llq_convert::Request;
use llq_gguf::{Endian, Metadata, Model, TensorSpec, TensorType, Value};
use llq_quant::mix::Mix;

use crate::{
    case::Case,
    gguf::EVERY_COMMAND,
    harness::Place,
    raw::encode,
    support::{converted, request, tiny::Tiny},
};

const INSPECT: &[&str] = &["inspect m.gguf", "inspect m.gguf --json --metadata --tensors"];
const VERIFY: &str = "verify m.gguf";
const QUANTIZE: &str = "quantize m.gguf -o out.gguf --type q8_0";
const PERPLEXITY: &str = "perplexity m.gguf --corpus text --ctx 8";
const TOKENIZE: &str = "tokenize m.gguf abc";
const IMATRIX: &str = "imatrix m.gguf --corpus text --ctx 8 -o out.gguf";

/// How a note starts.
const REFUSED: &str = "note: loaders may refuse this model: ";

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const KINDS: &str = "tokenizer.ggml.token_type";

pub(crate) fn cases() -> Vec<Case> {
    let sound = Case::new("sound", |place| drop(place.write("m.gguf", sound().bytes())))
        .accepted(EVERY_COMMAND);
    let mut cases = vec![sound];
    cases.extend(splits());
    cases.extend(vocabularies());
    cases.extend(numbers());
    cases.extend(weights());
    cases
}

/// A model to be changed and written.
#[derive(Clone)]
struct Parts {
    metadata: Metadata,
    tensors: Vec<(TensorSpec, Vec<u8>)>,
}

impl Parts {
    fn of(file: Vec<u8>) -> Parts {
        let model = Model::from_bytes(file).unwrap();
        let tensors = model.tensors().iter().map(|info| {
            let spec = TensorSpec::new(info.name.clone(), info.shape.clone(), info.tensor_type);
            (spec, model.data(info).to_vec())
        });
        Parts { metadata: model.metadata().clone(), tensors: tensors.collect() }
    }

    fn bytes(&self) -> Vec<u8> {
        encode(3, Endian::Little, &self.metadata, &self.tensors)
    }

    fn data(&mut self, name: &str) -> &mut Vec<u8> {
        let tensor = self.tensors.iter_mut().find(|(spec, _)| spec.name == name);
        &mut tensor.unwrap().1
    }

    fn tokens(&self) -> Vec<String> {
        self.metadata.strings(TOKENS).unwrap().iter().map(str::to_owned).collect()
    }
}

/// The small model of these tests.
fn sound() -> Parts {
    static MODEL: OnceLock<Parts> = OnceLock::new();
    MODEL.get_or_init(|| Parts::of(written(&Request::default()))).clone()
}

fn written(request: &Request) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    converted(folder.path(), request)
}

/// The model after a change.
fn changed(name: &str, change: impl FnOnce(&mut Parts) + 'static) -> Case {
    Case::new(name, move |place| {
        let mut parts = sound();
        change(&mut parts);
        drop(place.write("m.gguf", parts.bytes()));
    })
}

/// The model with another value of a key.
fn set(key: &'static str, name: &str, value: impl Into<Value>) -> Case {
    let value = value.into();
    changed(&format!("{key} {name}"), move |model| model.metadata.set(key, value))
}

fn splits() -> Vec<Case> {
    fn write(place: &Place, changes: [fn(&mut Parts); 2]) {
        let mut first = sound();
        let mut second = Parts { metadata: Metadata::new(), tensors: first.tensors.split_off(5) };
        let count = (first.tensors.len() + second.tensors.len()) as i32;
        second.metadata.set("general.architecture", "llama");
        for (number, part) in [&mut first, &mut second].into_iter().enumerate() {
            part.metadata.set("split.no", number as u16);
            part.metadata.set("split.count", 2u16);
            part.metadata.set("split.tensors.count", count);
        }
        for (number, (part, change)) in [first, second].iter_mut().zip(changes).enumerate() {
            change(part);
            place.write(&format!("m-{:05}-of-00002.gguf", number + 1), part.bytes());
        }
    }
    const COMMANDS: &[&str] = &[
        "inspect m-00001-of-00002.gguf",
        "verify m-00002-of-00002.gguf",
        "quantize m-00001-of-00002.gguf -o out.gguf --type q8_0",
        "merge m-00001-of-00002.gguf -o out.gguf",
        "perplexity m-00001-of-00002.gguf --corpus text --ctx 8",
    ];
    let case = |name: &str, changes: [fn(&mut Parts); 2], parts: &[&str]| {
        Case::new(name, move |place| write(place, changes)).refused(COMMANDS, parts)
    };
    fn none(_: &mut Parts) {}
    let (first, second) = ("m-00001-of-00002.gguf: ", "m-00002-of-00002.gguf: ");
    vec![
        Case::new("two parts", |place| write(place, [none, none])).accepted(COMMANDS),
        case(
            "split.no as large as split.count",
            [none, |part| part.metadata.set("split.no", 2u16)],
            &[second, "expected split.no 1, found 2"],
        ),
        case(
            "split.no negative",
            [|part| part.metadata.set("split.no", -1i16), none],
            &[first, "split.no"],
        ),
        case(
            "split.count is another",
            [none, |part| part.metadata.set("split.count", 3u16)],
            &[second, "expected split.count 2, found 3"],
        ),
        case(
            "split.tensors.count too large",
            [|part| part.metadata.set("split.tensors.count", i32::MAX), none],
            &["2147483647"],
        ),
        case(
            "another architecture",
            [none, |part| part.metadata.set("general.architecture", "gpt\u{1b}[2J")],
            &[second, "expected general.architecture \"llama\"", "found \"gpt"],
        ),
        case(
            "one tensor in two parts",
            [none, |part| part.tensors[0].0.name = "token_embd.weight".into()],
            &[second, "token_embd.weight", "m-00001-of-00002.gguf"],
        ),
        Case::new("missing part", |place| {
            write(place, [none, none]);
            std::fs::remove_file(place.path("m-00002-of-00002.gguf")).unwrap();
        })
        .refused(&COMMANDS[..1], &["m-00002-of-00002.gguf"])
        .refused(&COMMANDS[2..], &["m-00002-of-00002.gguf"]),
        Case::new("two parts swapped", |place| {
            write(place, [none, none]);
            let [a, b] = [1, 2].map(|n| place.path(&format!("m-{n:05}-of-00002.gguf")));
            let c = place.path("c");
            std::fs::rename(&a, &c).unwrap();
            std::fs::rename(&b, &a).unwrap();
            std::fs::rename(&c, &b).unwrap();
        })
        .refused(COMMANDS, &[first, "expected split.no 0, found 1"]),
        Case::new("a part under another name", |place| {
            write(place, [none, none]);
            let part = place.path("m-00001-of-00002.gguf");
            std::fs::rename(part, place.path("m.gguf")).unwrap();
        })
        .refused(
            EVERY_COMMAND,
            &["m.gguf: ", "expected a name that ends with -00001-of-00002.gguf"],
        ),
    ]
}

fn vocabularies() -> Vec<Case> {
    // What loaders would refuse, and is nothing to whoever copies it.
    let bad = |case: Case, key: &str| {
        case.accepted(INSPECT).found_bad(VERIFY, &[key]).noted(&[QUANTIZE], &[REFUSED, key])
    };
    let refused =
        |case: Case, key: &str| bad(case, key).refused(&[PERPLEXITY, IMATRIX], &["m.gguf", key]);
    let misfit =
        |case: Case, key: &str| refused(case, key).refused(&[TOKENIZE], &["m.gguf: ", key]);
    let token = |name: &str, id: usize, text: &'static str, kind: i32| {
        changed(name, move |model| {
            let mut tokens = model.tokens();
            tokens[id] = text.to_owned();
            model.metadata.set(TOKENS, tokens);
            let kinds = (0..16).map(|other| match other {
                0 => 2,
                other if other == id => kind,
                _ => 1,
            });
            model.metadata.set(KINDS, kinds.collect::<Vec<i32>>());
        })
    };
    let byte = |name: &str, text| {
        token(name, 5, text, 6)
            .accepted(INSPECT)
            .found_bad(VERIFY, &[TOKENS, "token 5"])
            .refused(&[PERPLEXITY, TOKENIZE, IMATRIX], &["m.gguf: ", TOKENS, "token 5"])
    };
    let long = changed("token of 1 MB", |model| {
        let mut tokens = model.tokens();
        tokens[5] = "x".repeat(1 << 20);
        model.metadata.set(TOKENS, tokens);
    });
    let steering = token("token steers terminals", 5, "\u{1b}[2J\u{202e}", 1);
    vec![
        misfit(set(SCORES, "one too few", vec![0f32; 15]), SCORES),
        misfit(set(SCORES, "one too many", vec![0f32; 17]), SCORES),
        misfit(set(SCORES, "none at all", Vec::<f32>::new()), SCORES),
        misfit(set(SCORES, "of i32", vec![0i32; 16]), SCORES),
        misfit(set(SCORES, "of f64", vec![0f64; 16]), SCORES),
        misfit(set(SCORES, "no array", 1u32), SCORES),
        misfit(set(KINDS, "one too few", vec![1i32; 15]), KINDS),
        misfit(set(KINDS, "of f32", vec![1f32; 16]), KINDS),
        misfit(set(KINDS, "of u8", vec![1u8; 16]), KINDS),
        bad(set(TOKENS, "one too many", vec!["a"; 17]), SCORES)
            .refused(&[PERPLEXITY, TOKENIZE], &["m.gguf: ", KINDS]),
        misfit(set(TOKENS, "of u32", vec![1u32; 16]), TOKENS),
        bad(set(TOKENS, "none at all", Vec::<String>::new()), SCORES)
            .refused(&[PERPLEXITY, TOKENIZE], &["m.gguf: ", KINDS]),
        byte("byte token <0x-1>", "<0x-1>"),
        byte("byte token <0xGG>", "<0xGG>"),
        byte("byte token <0x100>", "<0x100>"),
        misfit(token("token text twice", 5, "a", 1), TOKENS),
        refused(
            set("tokenizer.ggml.bos_token_id", "16 of 16", 16u32),
            "tokenizer.ggml.bos_token_id",
        ),
        refused(
            set("tokenizer.ggml.bos_token_id", "2^32 - 1", u32::MAX),
            "tokenizer.ggml.bos_token_id",
        ),
        refused(set("tokenizer.ggml.bos_token_id", "-1", -1i32), "tokenizer.ggml.bos_token_id"),
        // Measuring has no use for it.
        bad(set("tokenizer.ggml.eos_token_id", "16 of 16", 16u32), "tokenizer.ggml.eos_token_id")
            .accepted(&[PERPLEXITY, TOKENIZE]),
        refused(
            set("tokenizer.ggml.bos_token_id", "as string", "1"),
            "tokenizer.ggml.bos_token_id",
        ),
        long.accepted(INSPECT).accepted(&[VERIFY, QUANTIZE, PERPLEXITY, TOKENIZE]),
        steering.accepted(INSPECT).accepted(&[
            VERIFY,
            QUANTIZE,
            PERPLEXITY,
            "tokenize m.gguf --decode 5",
        ]),
        set("tokenizer.chat_template", "is hostile", JINJA).accepted(INSPECT).accepted_as(
            QUANTIZE,
            |place| {
                let model = Model::open(&place.path("out.gguf")).unwrap();
                assert_eq!(model.metadata().string("tokenizer.chat_template").unwrap(), JINJA);
                assert!(!place.path("owned").exists());
            },
        ),
    ]
}

/// Would run a command where a template is rendered without a sandbox.
pub(crate) const JINJA: &str = "{% for x in ().__class__.__base__.__subclasses__() %}\
     {{ x.__init__.__globals__['os'].system('touch owned') }}{% endfor %}\u{1b}[2J";

fn numbers() -> Vec<Case> {
    let demanded = |case: Case, key: &str| {
        case.accepted(INSPECT)
            .found_bad(VERIFY, &[key])
            .noted(&[QUANTIZE], &[REFUSED, key])
            .refused(&[PERPLEXITY, IMATRIX], &["m.gguf", key])
    };
    let blocks = "llama.block_count";
    let heads = "llama.attention.head_count";
    let kv_heads = "llama.attention.head_count_kv";
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    let base = "llama.rope.freq_base";
    let mut cases = vec![
        demanded(set(blocks, "0", 0u32), blocks),
        demanded(set(blocks, "513", 513u32), blocks),
        demanded(set(blocks, "more than tensors", 100u32), blocks),
        demanded(set(blocks, "2^64 - 1", u64::MAX), blocks),
        demanded(set(blocks, "as string", "2"), blocks),
        demanded(set(blocks, "as float", 2f32), blocks),
        demanded(set("llama.context_length", "0", 0u32), "llama.context_length"),
        demanded(set(heads, "0", 0u32), heads),
        demanded(set(heads, "2^32 - 1", u32::MAX), kv_heads),
        demanded(set(kv_heads, "0", 0u32), kv_heads),
        demanded(set(kv_heads, "3, which does not divide 4", 3u32), kv_heads),
        demanded(set("llama.embedding_length", "0", 0u32), "llama.embedding_length"),
        set("llama.feed_forward_length", "2^32 - 1", u32::MAX)
            .accepted(INSPECT)
            .refused(&[PERPLEXITY, IMATRIX], &["m.gguf", "blk.0.ffn_gate.weight"]),
    ];
    for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinite"), (0.0, "0"), (-1.0, "-1")]
    {
        cases.push(demanded(set(epsilon, name, value), epsilon));
        cases.push(demanded(set(base, name, value), base));
    }
    cases
}

fn weights() -> Vec<Case> {
    const MATRIX: &str = "blk.0.ffn_down.weight";
    let bad = |name: &str, mix: Mix, change: fn(&mut [u8])| {
        Case::new(name, move |place| {
            let mut model = Parts::of(written(&request(mix)));
            change(model.data(MATRIX));
            place.write("m.gguf", model.bytes());
        })
        .accepted(INSPECT)
        .accepted(&["inspect m.gguf --tensor blk.0.ffn_down.weight"])
        .found_bad(VERIFY, &[MATRIX])
    };
    let requantize = "quantize m.gguf -o out.gguf --type q4_0 --allow-requantize";
    let refused: &[&str] =
        &[requantize, "convert m.gguf -o out.gguf --type q5_0 --allow-requantize"];
    let evaluated: &[&str] = &[PERPLEXITY, IMATRIX];
    vec![
        bad("scale of Q8_0 NaN", Mix::Q8_0, |data| {
            data[..2].copy_from_slice(&f16::NAN.to_le_bytes());
        })
        .refused(refused, &[MATRIX, "row 0, column "])
        .refused(evaluated, &["m.gguf", "not a finite number"]),
        bad("scale of Q8_0 infinite", Mix::Q8_0, |data| {
            data[34..36].copy_from_slice(&f16::INFINITY.to_le_bytes());
        })
        .refused(refused, &[MATRIX, "row 0, column "])
        .refused(evaluated, &["m.gguf", "not a finite number"]),
        bad("scale of Q4_0 infinite", Mix::Q4_0, |data| {
            data[..2].copy_from_slice(&f16::NEG_INFINITY.to_le_bytes());
        })
        .refused(evaluated, &["m.gguf", "not a finite number"]),
        bad("weight of F16 NaN", Mix::F16, |data| {
            data[..2].copy_from_slice(&f16::NAN.to_le_bytes());
        })
        .refused(&[QUANTIZE], &[MATRIX, "row 0, column 0: weight is NaN"])
        .refused(evaluated, &["m.gguf", "not a finite number"]),
        bad("weight of F32 infinite", Mix::F32, |data| {
            data[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
        })
        .refused(&[QUANTIZE], &[MATRIX, "row 0, column 1: weight is inf"])
        .refused(evaluated, &["m.gguf", "not a finite number"]),
        bad("every weight 0", Mix::F32, |data| data.fill(0)).accepted(&[QUANTIZE, PERPLEXITY]),
        changed("a tensor of another type", |model| {
            let (spec, data) = model.tensors.iter_mut().find(|(s, _)| s.name == MATRIX).unwrap();
            spec.tensor_type = TensorType::I8;
            data.truncate(data.len() / 2);
        })
        .accepted(INSPECT)
        .refused(evaluated, &["m.gguf", MATRIX]),
        changed("a tensor is missing", |model| model.tensors.retain(|(s, _)| s.name != MATRIX))
            .accepted(INSPECT)
            .found_bad(VERIFY, &[MATRIX])
            .noted(&[QUANTIZE], &[REFUSED, MATRIX])
            .refused(evaluated, &["m.gguf", MATRIX]),
        changed("another shape than the numbers say", |model| {
            let (spec, _) = model.tensors.iter_mut().find(|(s, _)| s.name == MATRIX).unwrap();
            spec.shape.swap(0, 1);
        })
        .accepted(INSPECT)
        .refused(evaluated, &["m.gguf", MATRIX]),
    ]
}
