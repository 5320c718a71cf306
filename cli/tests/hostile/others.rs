//! What is given beside a model, and old containers: importance, recipes, adapters, logits, texts,
//! llamafiles, GGML files.

use std::{fs, path::PathBuf, sync::OnceLock};

use flate2::{Compression, write::GzEncoder};
use llq_convert::{Entry, Imatrix, ImatrixFormat, Overwrite};
use llq_gguf::{Metadata, TensorSpec, TensorType, Value, to_bytes};
use llq_quant::mix::Mix;
use serde_json::json;

use crate::{
    case::Case,
    harness::Place,
    support::{
        converted,
        ggml::{GGJT_3, GGML, Ggml},
        lora::{Made, tensor},
        pickle::zip,
        request,
        tiny::{Tiny, with_header},
    },
};

/// The small model as GGUF.
fn model() -> &'static [u8] {
    static MODEL: OnceLock<Vec<u8>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        Tiny::new().write(folder.path());
        converted(folder.path(), &request(Mix::F32))
    })
}

/// A file beside a sound model.
fn beside(name: &str, file: &'static str, bytes: impl AsRef<[u8]> + 'static) -> Case {
    Case::new(name, move |place| {
        place.write("m.gguf", model());
        place.write(file, bytes);
    })
}

const GUIDED: &[&str] = &["quantize m.gguf -o out.gguf --type q4_0 --imatrix i.dat"];

pub(crate) fn imatrix_cases() -> Vec<Case> {
    let mut imatrix = Imatrix::new(vec!["text".to_owned()], 2, 512);
    for matrix in ["attn_q", "ffn_up"] {
        let name = format!("blk.0.{matrix}.weight");
        imatrix.add(&name, Entry::new(&name, vec![1.5; 32], vec![1024.0]).unwrap()).unwrap();
    }
    let written = |format| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("importance");
        imatrix.write(&path, format, Overwrite::Forbid).unwrap();
        fs::read(path).unwrap()
    };
    let (dat, gguf) = (written(ImatrixFormat::Dat), written(ImatrixFormat::Gguf));
    let refused = |name: &str, bytes: Vec<u8>, place: &str| {
        beside(name, "i.dat", bytes).refused(GUIDED, &["i.dat", place])
    };
    let number = |n: i32| n.to_le_bytes().to_vec();
    let entry = |name: &[u8], calls: i32, values: i32, rest: &[u8]| {
        [
            number(1),
            number(name.len() as i32),
            name.to_vec(),
            number(calls),
            number(values),
            rest.to_vec(),
        ]
        .concat()
    };
    let float = |value: f32| entry(b"blk.0.ffn_up.weight", 1, 32, &value.to_le_bytes().repeat(32));
    let mut cases = vec![
        beside("sound, .dat", "i.dat", dat.clone()).accepted(GUIDED),
        beside("sound, GGUF", "i.dat", gguf.clone()).accepted(GUIDED),
        refused("empty", Vec::new(), "at byte 0"),
        refused("-1 entries", number(-1), "the number of entries"),
        refused("0 entries", number(0), "the number of entries"),
        refused("2^31 - 1 entries", number(i32::MAX), "a tensor's name"),
        refused(
            "name of 2^31 - 1 bytes",
            [number(1), number(i32::MAX)].concat(),
            "a tensor's name",
        ),
        refused("name of -1 bytes", [number(1), number(-1)].concat(), "a tensor's name"),
        refused("name not UTF-8", entry(b"\xff", 1, 1, &[0; 4]), "a tensor's name"),
        refused("-1 calls", entry(b"a", -1, 1, &[0; 4]), "a number of calls"),
        refused("-1 values", entry(b"a", 1, -1, &[0; 4]), "a tensor's values"),
        refused("0 values", entry(b"a", 1, 0, &[]), "a tensor's values"),
        refused("2^31 - 1 values", entry(b"a", 1, i32::MAX, &[0; 4]), "a tensor's values"),
        refused("value NaN", float(f32::NAN), "blk.0.ffn_up.weight"),
        refused("value infinite", float(f32::INFINITY), "blk.0.ffn_up.weight"),
        refused("value negative", float(-1.0), "blk.0.ffn_up.weight"),
        refused(
            "values of another width",
            entry(b"blk.0.ffn_up.weight", 1, 3, &[0; 12]),
            "blk.0.ffn_up.weight",
        ),
        refused("name steers terminals", entry(b"\x1b[2J", 1, 1, &f32::NAN.to_le_bytes()), "i.dat"),
        refused("bytes behind the end", [&dat[..], b"x"].concat(), "i.dat"),
    ];
    for end in [3, 9, dat.len() / 2] {
        cases.push(refused(&format!(".dat cut at byte {end}"), dat[..end].to_vec(), "byte"));
    }
    for end in [10, 100, gguf.len() / 2, gguf.len() - 33] {
        cases.push(refused(&format!("GGUF cut at byte {end}"), gguf[..end].to_vec(), "at byte"));
    }
    let of = |chunk_size: Value, tensors: &[(&str, &[u64])]| {
        let mut metadata = Metadata::new();
        metadata.set("general.type", "imatrix");
        metadata.set("imatrix.datasets", vec!["x"]);
        metadata.set("imatrix.chunk_count", 1u32);
        metadata.set("imatrix.chunk_size", chunk_size);
        let tensors = tensors.iter().map(|&(name, shape)| {
            let bytes = 4 * shape.iter().product::<u64>() as usize;
            (TensorSpec::new(name, shape.to_vec(), TensorType::F32), vec![0; bytes])
        });
        to_bytes(&metadata, tensors).unwrap()
    };
    let sums = "blk.0.ffn_up.weight.in_sum2";
    let counts = "blk.0.ffn_up.weight.counts";
    cases.extend([
        refused("a model", model().to_vec(), "model"),
        refused("chunk_size 0", of(Value::U32(0), &[]), "imatrix.chunk_size"),
        refused("chunk_size as string", of("512".into(), &[]), "imatrix.chunk_size"),
        refused("sums without counts", of(Value::U32(512), &[(sums, &[32])]), counts),
        refused(
            "sums and counts of unequal experts",
            of(Value::U32(512), &[(sums, &[32, 2]), (counts, &[1, 3])]),
            "blk.0.ffn_up.weight",
        ),
        refused("no matrix", of(Value::U32(512), &[]), "i.dat"),
    ]);
    cases
}

pub(crate) fn recipe_cases() -> Vec<Case> {
    const COMMAND: &[&str] = &["quantize m.gguf -o out.gguf --recipe r.toml"];
    let refused = |name: &str, text: &[u8], place: &str| {
        let text = text.to_vec();
        beside(name, "r.toml", text).refused(COMMAND, &["r.toml, line ", place])
    };
    let text = |name: &str, text: &str, place: &str| refused(name, text.as_bytes(), place);
    let pattern = |name: &str, find: &str, place: &str| {
        text(
            name,
            &format!("type = \"q8_0\"\n[[patterns]]\nfind = '{find}'\ntype = \"q4_0\"\n"),
            place,
        )
    };
    let deep = format!("type = {}", "[".repeat(1_000_000));
    let dotted = format!("{}x = 1", "a.".repeat(100_000));
    vec![
        beside("sound", "r.toml", "type = \"q8_0\"\n").accepted(COMMAND),
        text("not TOML", "type = \"q8_0", "line 1"),
        refused("not UTF-8", b"type = \"q8_0\"\n\xff", "line 2: not UTF-8"),
        text("unknown key", "type = \"q8_0\"\nx = 1\n", "line 2"),
        text("unknown type", "type = \"q8_9\\u001b[2J\"\n", "line 1"),
        text("a type twice", "type = \"q8_0\"\ntype = \"q4_0\"\n", "line 2"),
        text(
            "no tensor of that name",
            "type = \"q8_0\"\n[tensors]\n\"\\u001b[2J\" = \"q4_0\"\n",
            "line 3: ",
        ),
        text(
            "a type that a tensor cannot have",
            "type = \"q8_0\"\n[tensors]\n\"output.weight\" = \"q4_k\"\n",
            "line 3",
        ),
        text("deep", &deep, "line 1"),
        text("deep by dots", &dotted, "line 1"),
        text("deep by tables", &format!("[{}x]", "a.".repeat(100_000)), "line 1"),
        pattern("pattern is no regex", "(", "line 3"),
        pattern("pattern backtracks", r"(.|..)+\1-$", "looking for it in"),
        pattern("pattern of a large repetition", "(((a{1000}){1000}){1000}){1000}", "line 3"),
        pattern("pattern nested deep", &"(".repeat(100_000), "line 3"),
        beside("16 MB of patterns", "r.toml", {
            let one = "[[patterns]]\nfind='a'\ntype='q4_0'\n";
            format!("type='q8_0'\n{}", one.repeat((16 << 20) / one.len() - 1))
        })
        .refused(COMMAND, &["r.toml"]),
        Case::new("1 TB", |place| {
            place.write("m.gguf", model());
            fs::File::create(place.path("r.toml")).unwrap().set_len(1 << 40).unwrap();
        })
        .refused(COMMAND, &["r.toml: ", "more than"]),
    ]
}

pub(crate) fn adapter_cases() -> Vec<Case> {
    const COMMANDS: &[&str] =
        &["convert model -o out.gguf --lora adapter", "convert adapter --base model -o out.gguf"];
    const CONFIG: &str = "adapter/adapter_config.json: ";
    fn write(place: &Place, made: &Made) -> PathBuf {
        for name in ["model", "adapter"] {
            fs::create_dir(place.path(name)).unwrap();
        }
        Tiny::new().write(&place.path("model"));
        made.write(&place.path("adapter"));
        place.path("adapter")
    }
    let changed = |name: &str, change: fn(&mut Made)| {
        Case::new(name, move |place| {
            let mut made = Made::new(1);
            change(&mut made);
            write(place, &made);
        })
    };
    let config = |key: &'static str, value: serde_json::Value| {
        Case::new(format!("{key}: {value}"), move |place| {
            let mut made = Made::new(1);
            made.config[key] = value;
            write(place, &made);
        })
        .refused(COMMANDS, &[CONFIG, key])
    };
    let module = "model.layers.0.mlp.up_proj";
    vec![
        changed("sound", |_| ()).accepted(COMMANDS),
        config("r", json!(0)),
        config("r", json!(-1)),
        config("r", json!(1u64 << 32)),
        config("lora_alpha", json!(0)),
        config("lora_alpha", json!("8")),
        config("lora_alpha", json!(1e300)),
        config("peft_type", json!("\u{1b}[2J")),
        config("rank_pattern", json!({ "(": 4 })),
        config("alpha_pattern", json!({ "up_proj": "x" })),
        changed("a factor without the other", |made| {
            made.remove("model.layers.0.mlp.up_proj.lora_A.weight");
        })
        .refused(COMMANDS, &["adapter", module]),
        changed("factors of different ranks", |made| {
            made.set("model.layers.0.mlp.up_proj.lora_A.weight", tensor(1, &[5, 32]));
        })
        .refused(COMMANDS, &["adapter", module]),
        changed("a factor of another width", |made| {
            made.set("model.layers.0.mlp.up_proj.lora_A.weight", tensor(1, &[4, 31]));
        })
        .refused(COMMANDS, &["adapter", module]),
        changed("a module that the model has not", |made| {
            made.set("model.layers.9.mlp.up_proj.lora_A.weight", tensor(1, &[4, 32]));
            made.set("model.layers.9.mlp.up_proj.lora_B.weight", tensor(1, &[64, 4]));
        })
        .refused(COMMANDS, &["adapter", "model.layers.9.mlp.up_proj"]),
        changed("a tensor that steers terminals", |made| {
            made.set("\u{1b}[2J", tensor(1, &[4, 32]));
        })
        .refused(COMMANDS, &["adapter"]),
        Case::new("weights cut", |place| {
            let path = write(place, &Made::new(1)).join("adapter_model.safetensors");
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        })
        .refused(COMMANDS, &["adapter/adapter_model.safetensors: "]),
        Case::new("no weights", |place| {
            let path = write(place, &Made::new(1)).join("adapter_model.safetensors");
            fs::write(&path, with_header("{}", &[])).unwrap();
        })
        .refused(COMMANDS, &["adapter"]),
        Case::new("settings nested", |place| {
            let path = write(place, &Made::new(1)).join("adapter_config.json");
            fs::write(&path, format!("{{\"r\":{}", "[".repeat(1_000_000))).unwrap();
        })
        .refused(COMMANDS, &[CONFIG]),
    ]
}

pub(crate) fn logits_cases() -> Vec<Case> {
    const COMMAND: &[&str] = &["perplexity m.gguf --corpus text --against-logits l"];
    let head = |context: u32, vocabulary: u32, windows: u32| {
        [&b"_logits_"[..], &[context, vocabulary, windows].map(u32::to_le_bytes).concat()].concat()
    };
    let refused = |name: &str, bytes: Vec<u8>, place: &str| {
        beside(name, "l", bytes).refused(COMMAND, &["l: ", place])
    };
    vec![
        refused("empty", Vec::new(), "20 bytes or more"),
        refused("bad magic", vec![0x1b; 20], "first bytes"),
        refused("windows 2^32 - 1", head(8, 16, u32::MAX), "length"),
        refused("numbers whose product wraps", head(1 << 31, 1 << 31, 1 << 31), "length"),
        refused("no windows", head(8, 16, 0), "l"),
        refused("context 0", head(0, 16, 1), "l"),
        refused("cut", [head(8, 16, 1), vec![0; 31]].concat(), "length"),
    ]
}

pub(crate) fn corpus_cases() -> Vec<Case> {
    let on = |corpus: &str| {
        [
            format!("perplexity m.gguf --corpus {corpus} --ctx 8"),
            format!("imatrix m.gguf --corpus {corpus} --ctx 8 -o out.gguf"),
        ]
    };
    let refused = |name: &str, file: &'static str, bytes: Vec<u8>, parts: &[&str]| {
        let lines = on(file);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        beside(name, file, bytes).refused(&lines, &[&[file], parts].concat())
    };
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    // 256 MB and more of text in 300 KB.
    let member = gzip(&b"a\n".repeat(1 << 20));
    let bomb = member.repeat(160);
    let sound = gzip(&b"abcdefghijklm\n".repeat(3));
    let mut wrong_sum = sound.clone();
    let end = wrong_sum.len();
    wrong_sum[end - 8] ^= 1;
    let zstandard = [0x28, 0xb5, 0x2f, 0xfd];
    let window = [&zstandard[..], &[0x00, 0xff, 0, 0, 0, 0]].concat();
    let line = |text: &str| text.as_bytes().to_vec();
    let wide = |front: &str, end: &str| {
        [front.as_bytes(), &b"[],".repeat(10_000_000), b"0", end.as_bytes()].concat()
    };
    vec![
        refused("empty", "t.txt", Vec::new(), &["one window takes"]),
        refused("not UTF-8", "t.txt", b"caf\xe9 au lait".to_vec(), &["is not UTF-8 at byte 3"]),
        refused(
            "UTF-8 cut at the end",
            "t.txt",
            b"abc\xe6\xbc".to_vec(),
            &["is not UTF-8 at byte 3"],
        ),
        refused("gzip cut", "t.txt.gz", sound[..end - 9].to_vec(), &["cannot read the corpus"]),
        refused("gzip with a wrong sum", "t.txt.gz", wrong_sum, &["cannot read the corpus"]),
        refused("gzip bomb", "t.txt.gz", bomb, &["more than 64 times its size when inflated"]),
        refused(
            "Zstandard of no frame",
            "t.txt.zst",
            zstandard.to_vec(),
            &["cannot read the corpus"],
        ),
        refused(
            "Zstandard of a window of terabytes",
            "t.txt.zst",
            window,
            &["cannot read the corpus"],
        ),
        refused(
            "Zstandard, skippable beyond the end",
            "t.txt.zst",
            b"\x50\x2a\x4d\x18\xff\xff\xff\xff".to_vec(),
            &["cannot read the corpus"],
        ),
        refused(
            "JSON line not JSON",
            "t.jsonl",
            line("{\"text\":\"a\"}\n{\"text\":\n"),
            &["t.jsonl:2: "],
        ),
        refused(
            "JSON line without the field",
            "t.jsonl",
            line("{\"\\u001b[2J\":1}\n"),
            &["t.jsonl:1: "],
        ),
        refused(
            "JSON line of 10^6 lists",
            "t.jsonl",
            "[".repeat(1_000_000).into(),
            &["t.jsonl:1: "],
        ),
        refused("JSON line of 10^7 values", "t.jsonl", wide("{\"x\":[", "]}"), &["t.jsonl:1: "]),
        refused(
            "JSON array of 10^7 values in a document",
            "t.json",
            wide("[{\"x\":[", "]}]"),
            &["element 1"],
        ),
        refused("JSON array cut", "t.json", line("[{\"text\":\"a\"},"), &["line 1 column"]),
        refused("JSON array of numbers", "t.json", line("[1,2]"), &["element 1"]),
        refused(
            "JSON array of 10^6 lists",
            "t.json",
            "[".repeat(1_000_000).into(),
            &["line 1 column"],
        ),
        refused("Parquet", "t.parquet", b"PAR1".to_vec(), &["Parquet is not read"]),
    ]
}

pub(crate) fn llamafile_cases() -> Vec<Case> {
    const COMMANDS: &[&str] = &[
        "inspect m.llamafile",
        "verify m.llamafile",
        "quantize m.llamafile -o out.gguf --type q8_0",
        "perplexity m.llamafile --corpus text --ctx 8",
    ];
    let of = |name: &str, bytes: Vec<u8>| {
        Case::new(name, move |place| drop(place.write("m.llamafile", bytes)))
    };
    let refused = |name: &str, bytes: Vec<u8>, place: &str| {
        of(name, bytes).refused(COMMANDS, &["m.llamafile", place])
    };
    let entries = |name: &str, entries: &[(&str, &[u8])], place: &str| {
        refused(name, behind_program(entries), place)
    };
    let changed = |name: &str, signature: &[u8; 4], at: usize, value: u8, place: &str| {
        let mut file = behind_program(&[("m.gguf", model())]);
        let start = file.windows(4).rposition(|window| window == signature).unwrap();
        file[start + at] = value;
        refused(name, file, place)
    };
    let cut = model()[..model().len() - 1].to_vec();
    vec![
        of("sound", behind_program(&[(".args", b"-m"), ("m.gguf", model())])).accepted(COMMANDS),
        entries("no model", &[("a.txt", b"x")], "no model"),
        entries("two models", &[("a.gguf", model()), ("b.gguf", model())], "2 models"),
        entries("one name twice", &[("a.gguf", model()), ("a.gguf", model())], "twice"),
        entries("a model cut", &[("m.gguf", &cut)], "m.gguf"),
        entries("a model that is none", &[("m.gguf", b"lmgg")], "m.llamafile"),
        entries("a model called /etc/passwd.gguf", &[("/etc/passwd.gguf", b"GGUF")], "at byte 4"),
        entries("a model called ../x.gguf", &[("../x.gguf", b"GGUF")], "at byte 4"),
        entries("a model that steers terminals", &[("\u{1b}[2J.gguf", b"GGUF")], "at byte 4"),
        refused(
            "bytes behind the archive",
            [behind_program(&[("m.gguf", model())]), b"x".to_vec()].concat(),
            "bytes follow",
        ),
        changed("encrypted", b"PK\x01\x02", 8, 1, "m.gguf"),
        changed("deflated", b"PK\x01\x02", 10, 8, "m.gguf"),
        changed("names differ", b"PK\x01\x02", 46, b'n', ""),
        changed("sizes differ", b"PK\x01\x02", 24, 7, "m.gguf"),
        changed("offset is another", b"PK\x01\x02", 42, 1, ""),
        changed("entries counted wrong", b"PK\x05\x06", 10, 2, ""),
        changed("directory elsewhere", b"PK\x05\x06", 16, 1, ""),
    ]
}

/// An archive behind a program, with its places counted from the start of the file.
fn behind_program(entries: &[(&str, &[u8])]) -> Vec<u8> {
    const PROGRAM: &[u8] = b"\x7fELF and so on";
    let mut archive = zip(entries);
    let shift = |archive: &mut [u8], at: usize| {
        let place = u32::from_le_bytes(archive[at..at + 4].try_into().unwrap());
        let moved = place + PROGRAM.len() as u32;
        archive[at..at + 4].copy_from_slice(&moved.to_le_bytes());
        place as usize
    };
    let end = archive.len() - 22;
    let mut at = shift(&mut archive, end + 16);
    for (name, _) in entries {
        shift(&mut archive, at + 42);
        at += 46 + name.len();
    }
    [PROGRAM, &archive].concat()
}

pub(crate) fn ggml_cases() -> Vec<Case> {
    const COMMANDS: &[&str] =
        &["convert g.bin -o out.gguf", "quantize g.bin -o out.gguf --type q8_0", "verify g.bin"];
    let of = |name: &str, bytes: Vec<u8>| {
        Case::new(name, move |place| drop(place.write("g.bin", bytes)))
    };
    let refused = |name: &str, bytes: Vec<u8>, place: &str| {
        of(name, bytes).refused(COMMANDS, &["g.bin: ", place])
    };
    let changed = |name: &str, place: &str, change: fn(&mut Ggml)| {
        let mut ggml = Ggml::tiny(GGJT_3);
        change(&mut ggml);
        refused(name, ggml.bytes(), place)
    };
    let (whole, starts) = Ggml::tiny(GGJT_3).bytes_and_starts();
    let mut cases = vec![
        of("sound", whole.clone()).accepted(COMMANDS),
        of("sound, of the first container", Ggml::tiny(GGML).bytes()).accepted(COMMANDS),
        changed("vocabulary 2^32 - 1", "a vocabulary of 4294967295 tokens", |ggml| {
            ggml.numbers[0] = u32::MAX;
        }),
        changed("vocabulary 0", "", |ggml| ggml.numbers[0] = 0),
        changed("width 0", "", |ggml| ggml.numbers[1] = 0),
        changed("width 2^32 - 1", "", |ggml| ggml.numbers[1] = u32::MAX),
        changed("no heads", "", |ggml| ggml.numbers[3] = 0),
        changed("3 heads", "", |ggml| ggml.numbers[3] = 3),
        changed("no layers", "", |ggml| ggml.numbers[4] = 0),
        changed("2^32 - 1 layers", "", |ggml| ggml.numbers[4] = u32::MAX),
        changed("unknown version", "version", |ggml| ggml.container = (b"tjgg", Some(9))),
        changed("unknown type", "tok_embeddings.weight", |ggml| ggml.tensors[0].id = 99),
        changed("extent 0", "tok_embeddings.weight", |ggml| ggml.tensors[0].shape[1] = 0),
        changed("extent 2^32 - 1", "tok_embeddings.weight", |ggml| {
            ggml.tensors[0].shape[1] = u32::MAX;
        }),
        changed("5 dimensions", "", |ggml| ggml.tensors[0].shape = vec![1; 5]),
        changed("no dimensions", "", |ggml| ggml.tensors[0].shape.clear()),
        changed("name that is long", "", |ggml| ggml.tensors[0].name = "x".repeat(1 << 20)),
        changed("name that steers terminals", "", |ggml| ggml.tensors[0].name = "\u{1b}[2J".into()),
        changed("a tensor twice", "", |ggml| ggml.tensors.push(ggml.tensors[0].clone())),
        changed("a tensor missing", "", |ggml| drop(ggml.tensors.pop())),
        changed("score NaN", "", |ggml| ggml.pieces[5].1 = f32::NAN),
        refused("trailing bytes", [&whole[..], b"x"].concat(), "byte"),
    ];
    // Before every twentieth field of the vocabulary, and all of the first tensor.
    for &start in starts.iter().take(20).chain(&starts[starts.len() - 12..]) {
        if start > 4 {
            cases.push(refused(
                &format!("cut at {}", start - 1),
                whole[..start - 1].to_vec(),
                "byte",
            ));
        }
    }
    cases
}
