//! Vocabularies and chat templates.

use std::{fs, io::Write, path::Path};

use llq_gguf::Model;
use serde_json::{Value as Json, json};

use crate::{
    case::{CHECKPOINT, Case, checkpoint},
    gguf_model::JINJA,
    harness::Place,
    support::{
        meta::{self, EmbeddingCut},
        tiny::{Tiny, named_tokenizer, tokenizer},
    },
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = sentencepiece();
    cases.extend(tiktoken());
    cases.extend(tokenizer_json());
    cases.extend(settings());
    cases.extend(templates());
    cases
}

/// Pieces of which the last is the fourth once more.
const TWICE: [&str; 16] =
    ["<unk>", "<s>", "</s>", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "a"];

fn sentencepiece() -> Vec<Case> {
    let of = |name: &str, bytes: Vec<u8>, place: &str| {
        let write = move |place: &Place| {
            Tiny { tokenizer: bytes, ..Tiny::new() }.write(&checkpoint(place));
        };
        Case::new(name, write).refused(CHECKPOINT, &["model/tokenizer.model: ", place])
    };
    let sound = tokenizer(16);
    let bpe = [0x12, 2, 0x18, 2];
    // A piece of these fields before or behind sound ones.
    let piece = |fields: &[u8]| {
        let length = [fields.len() as u8 | 0x80, (fields.len() >> 7) as u8];
        [&sound[..], &[0x0a], &length, fields].concat()
    };
    let field = |bytes: &[u8]| [&sound[..], bytes].concat();
    let score = |score: f32| [&[0x0a, 1, b'x', 0x15][..], &score.to_le_bytes()].concat();
    let deep = {
        // Each message is the only field of the one around it.
        let mut message = Vec::new();
        for _ in 0..20 {
            message = [&[0x0a, message.len() as u8][..], &message].concat();
        }
        message
    };
    vec![
        of("empty", Vec::new(), "no pieces"),
        of("truncated", sound[..sound.len() - 1].to_vec(), "beyond its end"),
        of("truncated in a piece", sound[..7].to_vec(), "beyond its end"),
        of("varint of 11 bytes", field(&[0xff; 11]), "more than 64 bits"),
        of(
            "varint of 10 bytes that is too large",
            field(&[&[0xff; 9][..], &[0x7f]].concat()),
            "more than 64 bits",
        ),
        of("varint without end", field(&[0x08, 0x80]), "beyond its end"),
        of("length beyond the rest", field(&[0x0a, 0x7f, b'x']), "beyond its end"),
        of("length 2^64 - 1", field(&[&[0x0a][..], &[0xff; 9], &[1]].concat()), "beyond its end"),
        of("field 0", field(&[0x00, 0x00]), "field of number 0"),
        of("group", field(&[0x0b, 0x0c]), "withdrawn or unknown kind"),
        of("wire type 7", field(&[0x0f]), "withdrawn or unknown kind"),
        Case::new("deep", move |place| {
            let unknown = [&tokenizer(16)[..], &[0x7a, deep.len() as u8], &deep].concat();
            Tiny { tokenizer: unknown, ..Tiny::new() }.write(&checkpoint(place));
        })
        .accepted(CHECKPOINT),
        of("piece not UTF-8", piece(&[0x0a, 2, 0xff, 0xfe]), "piece 16 is not UTF-8"),
        of("score NaN", piece(&score(f32::NAN)), "piece 16 has score NaN"),
        of("score infinite", piece(&score(f32::INFINITY)), "piece 16 has score inf"),
        of("piece of unknown type", piece(&[0x0a, 1, b'x', 0x18, 9]), "piece 16 has type 9"),
        of("piece twice", named_tokenizer(&TWICE), "tokens 3 and 15 are both \"a\""),
        of("no BPE", sound[..sound.len() - bpe.len()].to_vec(), "model type 1"),
        Case::new("10^6 empty pieces", move |place| {
            let tokenizer = [&[0x0a, 0].repeat(1_000_000)[..], &bpe].concat();
            Tiny { tokenizer, ..Tiny::new() }.write(&checkpoint(place));
        })
        .noted(&CHECKPOINT[..1], &["the last 999984 tokens are left out"]),
        Case::new("larger than any model", |place| {
            let folder = checkpoint(place);
            Tiny::new().write(&folder);
            fs::File::create(folder.join("tokenizer.model")).unwrap().set_len(1 << 40).unwrap();
        })
        .refused(CHECKPOINT, &["model/tokenizer.model: ", "more than the"]),
        Case::new("a folder", |place| {
            let folder = checkpoint(place);
            Tiny::new().write(&folder);
            fs::remove_file(folder.join("tokenizer.model")).unwrap();
            fs::create_dir(folder.join("tokenizer.model")).unwrap();
        })
        .refused(CHECKPOINT, &["model/tokenizer.model: ", "not a regular file"]),
    ]
}

/// Base64 of each single byte.
fn single_bytes() -> Vec<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |value: u16| char::from(DIGITS[usize::from(value)]);
    (0..256).map(|byte| format!("{}{}==", digit(byte >> 2), digit((byte & 3) << 4))).collect()
}

fn ranked(tokens: &[String]) -> String {
    tokens.iter().enumerate().map(|(rank, token)| format!("{token} {rank}\n")).collect()
}

fn tiktoken() -> Vec<Case> {
    let with = |name: &str, file: String| {
        Case::new(name, move |place| {
            // A row for each byte and each reserved token.
            let mut tiny = Tiny::new();
            for name in ["model.embed_tokens.weight", "lm_head.weight"] {
                let tensor = tiny.tensors.get_mut(name).unwrap();
                tensor.shape[0] = 512;
                tensor.weights.resize(512 * 32, 0.5);
            }
            let folder = checkpoint(place);
            meta::write(&tiny, &folder, 1, EmbeddingCut::Rows);
            fs::write(folder.join("tokenizer.model"), file).unwrap();
        })
    };
    let of = |name: &str, file: String, place: &str| {
        with(name, file).refused(CHECKPOINT, &["model/tokenizer.model: ", place])
    };
    let good = single_bytes();
    let line_3 = |line: &str| {
        let mut lines: Vec<String> = ranked(&good).lines().map(str::to_owned).collect();
        lines[2] = line.to_owned();
        lines.join("\n")
    };
    let doubled = |first: usize, second: usize| {
        let mut tokens = good.clone();
        tokens[second] = tokens[first].clone();
        ranked(&tokens)
    };
    let long = |count: usize| {
        // Every prefix of a long token is one too: the most merges for their bytes.
        let prefixes = (2..count).map(|length| base64(&vec![b'a'; length]));
        ranked(&good.iter().cloned().chain(prefixes).collect::<Vec<_>>())
    };
    vec![
        with("sound", ranked(&good)).accepted(CHECKPOINT),
        with("CRLF", ranked(&good).replace('\n', "\r\n")).accepted(CHECKPOINT),
        of("bad Base64", line_3("A*== 2"), "line 3 is not a token"),
        of("Base64 with bits to spare", line_3("Ah== 2"), "line 3 is not a token"),
        of("Base64 cut", line_3("Ag= 2"), "line 3 is not a token"),
        of("rank twice", line_3("Ag== 1"), "line 3 has rank 1, expected 2"),
        of("rank gap", line_3("Ag== 3"), "line 3 has rank 3, expected 2"),
        of("rank 2^32 + 2", line_3("Ag== 4294967298"), "line 3 has rank 4294967298"),
        of("rank 2^64", line_3("Ag== 18446744073709551616"), "line 3 is not a token"),
        of("rank negative", line_3("Ag== -2"), "line 3 is not a token"),
        of("bytes twice", doubled(7, 9), "ranks 7 and 9 are the same bytes"),
        of("blank line", line_3(""), "line 3 is not a token"),
        of("blank line at the end", ranked(&good) + "\n", "line 257 is not a token"),
        of("missing byte", ranked(&good[..255]), "no token is the single byte 0xff"),
        of("token of 300 bytes", ranked(&["A".repeat(400)]), "rank 0 has 300 bytes"),
        with("tokens of 2 to 255 bytes", long(256)).accepted(CHECKPOINT),
        of("line of 10 MB", line_3(&"A".repeat(10_000_000)), "line 3 is not a token"),
    ]
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=chunk.len()].copy_from_slice(chunk);
        let value = u32::from_be_bytes(padded);
        let digits = [18, 12, 6, 0].map(|shift| char::from(DIGITS[(value >> shift & 63) as usize]));
        text.extend(&digits[..=chunk.len()]);
        text.extend(std::iter::repeat_n('=', 3 - chunk.len()));
    }
    text
}

/// A byte-level BPE of seven tokens.
fn byte_level() -> Json {
    let split = json!({ "type": "Split", "pattern": { "Regex": LLAMA_3 },
        "behavior": "Isolated", "invert": false });
    let spell = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
    json!({
        "added_tokens": [{ "id": 9, "content": "<bos>", "special": true }],
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, spell] },
        "model": {
            "type": "BPE",
            "ignore_merges": true,
            "vocab": { "a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "Ġ": 5, "Ġa": 6, "bc": 7 },
            "merges": ["a b", "ab c", "Ġ a", "b c"],
        },
    })
}

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn write_byte_level(place: &Place, write: impl FnOnce(&Path)) {
    let folder = checkpoint(place);
    let mut tiny = Tiny::new();
    tiny.config["bos_token_id"] = json!(9);
    tiny.write(&folder);
    fs::remove_file(folder.join("tokenizer.model")).unwrap();
    write(&folder.join("tokenizer.json"));
}

fn tokenizer_json() -> Vec<Case> {
    const FILE: &str = "model/tokenizer.json: ";
    let text = |name: &str, text: String| {
        Case::new(name, |place| write_byte_level(place, |path| fs::write(path, text).unwrap()))
    };
    let of = |name: &str, change: &dyn Fn(&mut Json)| {
        let mut json = byte_level();
        change(&mut json);
        text(name, json.to_string())
    };
    let bad = |name: &str, change: &dyn Fn(&mut Json), place: &str| {
        of(name, change).refused(CHECKPOINT, &[FILE, place])
    };
    let id = |name: &str, id: Json, place: &str| {
        bad(name, &|json| json["model"]["vocab"]["c"] = id.clone(), place)
    };
    let merge = |name: &str, merge: Json, place: &str| {
        bad(name, &|json| json["model"]["merges"][1] = merge.clone(), place)
    };
    let spliced = |name: &str, key: &str, value: &str| {
        // A key once more, before the others.
        text(name, byte_level().to_string().replacen('{', &format!("{{\"{key}\":{value},"), 1))
    };
    let many =
        |name: &str, unit: &'static str, front: &'static str, end: &'static str, count: usize| {
            Case::new(name, move |place| {
                write_byte_level(place, |path| {
                    let mut file = std::io::BufWriter::new(fs::File::create(path).unwrap());
                    file.write_all(front.as_bytes()).unwrap();
                    for _ in 1..count {
                        file.write_all(unit.as_bytes()).unwrap();
                    }
                    write!(file, "{}{end}", unit.trim_end_matches(',')).unwrap();
                });
            })
        };
    let model = r#"{"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":["#;
    let mega = 1_000_000;
    vec![
        of("sound", &|_| ()).accepted(CHECKPOINT),
        of("id hole", &|json| json["model"]["vocab"]["c"] = json!(12)).accepted(CHECKPOINT),
        of("merges of both forms", &|json| json["model"]["merges"][1] = json!(["ab", "c"]))
            .accepted(CHECKPOINT),
        id("id twice", json!(1), "both have id 1"),
        id("id -1", json!(-1), "line 1 column"),
        id("id 2^32", json!(1u64 << 32), "token \"c\" has id 4294967296"),
        id("id 2^31", json!(1u64 << 31), "token \"c\" has id 2147483648"),
        id("id 2^64 - 1", json!(u64::MAX), "token \"c\" has id 18446744073709551615"),
        id("id a float", json!(2.5), "line 1 column"),
        id("id a string", json!("2"), "line 1 column"),
        merge("merge of an absent token", json!("ab z"), "merge 1 is \"ab z\": a part is no token"),
        merge("merge that makes no token", json!("abc b"), "merge 1"),
        merge("merge of one part", json!("abc"), "merge 1"),
        merge("merge of nothing", json!(" "), "merge 1"),
        merge("merge of three", json!(["a", "b", "c"]), "line 1 column"),
        merge("merge is a number", json!(1), "line 1 column"),
        merge("merge steers terminals", json!("\u{1b}[2J \u{202e}"), "merge 1"),
        bad(
            "added id 2^31",
            &|json| json["added_tokens"][0]["id"] = json!(1u64 << 31),
            "2147483648",
        ),
        // The one that was added holds, as in the field's converter.
        of("added id of another token", &|json| json["added_tokens"][0]["id"] = json!(1))
            .noted(&CHECKPOINT[..1], &["not checked: tokenizer.ggml.merges"]),
        bad("no vocabulary", &|json| json["model"]["vocab"] = json!({}), ""),
        bad("no model", &|json| json["model"] = Json::Null, "line 1 column"),
        bad("Unigram", &|json| json["model"]["type"] = json!("Unigram"), "Unigram"),
        bad(
            "unknown pre-tokenizer",
            &|json| json["pre_tokenizer"] = json!({ "type": "\u{1b}[2J" }),
            "pre-tokenizer",
        ),
        bad(
            "regex that backtracks",
            &|json| {
                json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"(a+)+\1$");
            },
            "pre-tokenizer",
        ),
        spliced("model twice", "model", "{}").refused(CHECKPOINT, &[FILE, "line 1 column"]),
        text("not JSON", "{".into()).refused(CHECKPOINT, &[FILE, "line 1 column"]),
        text("10^6 lists", format!("{{\"model\":{}", "[".repeat(mega)))
            .refused(CHECKPOINT, &[FILE]),
        text("10^6 lists in a step", format!("{{\"normalizer\":{}", "[".repeat(mega)))
            .refused(CHECKPOINT, &[FILE]),
        many("10^7 merges", "\"a b\",", model, "]}}", 10_000_000)
            .refused(CHECKPOINT, &[FILE, "more than 2097152 entries"]),
        many(
            "10^7 tokens",
            "\"a\":0,",
            r#"{"model":{"type":"BPE","merges":[],"vocab":{"#,
            "}}}",
            10_000_000,
        )
        .refused(CHECKPOINT, &[FILE, "more than 2097152 entries"]),
        many("a step of 10^7 numbers", "0,", r#"{"normalizer":["#, "]}", 10_000_000)
            .refused(CHECKPOINT, &[FILE]),
        many(
            "a step of 5 10^5 lists",
            "[],",
            r#"{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"normalizer":["#,
            "]}",
            300_000,
        )
        .refused(CHECKPOINT, &[FILE]),
    ]
}

fn settings() -> Vec<Case> {
    const CONFIG: &str = "model/tokenizer_config.json: ";
    let with = |name: &str, file: &'static str, json: Json| {
        Case::new(name, move |place| {
            let mut tiny = Tiny::new();
            tiny.others.insert(file, json);
            tiny.write(&checkpoint(place));
        })
    };
    let added = |name: &str, id: &str, place: &str| {
        let decoder = json!({ id: { "content": "\u{1b}[2J", "special": true } });
        with(name, "tokenizer_config.json", json!({ "added_tokens_decoder": decoder }))
            .refused(CHECKPOINT, &[CONFIG, place])
    };
    let text = |name: &str, file: &'static str, text: String| {
        Case::new(name, move |place| {
            let folder = checkpoint(place);
            Tiny::new().write(&folder);
            fs::write(folder.join(file), text).unwrap();
        })
        .refused(CHECKPOINT, &[&format!("model/{file}: ")])
    };
    // Fifteen bytes of memory for each of the file: more than JSON of any checkpoint has.
    let wide = || format!("{{\"x\":[{}0]}}", "0,".repeat(8 << 20));
    let lists = || format!("{{\"x\":[{}0]}}", "[],".repeat(5 << 20));
    vec![
        added("added id 2^32", "4294967296", "4294967296"),
        added("added id -1", "-1", "\"-1\""),
        added("added id is no number", "x", "\"x\""),
        added("added id steers terminals", "\u{1b}[2J", "has id"),
        with(
            "added id 2^31",
            "tokenizer_config.json",
            json!({ "added_tokens_decoder": { "2147483648": { "content": "\u{1b}[2J" } } }),
        )
        .noted(&CHECKPOINT[..1], &["has id 2147483648, the embedding 16 rows: it is left out"]),
        with(
            "added id far behind the vocabulary",
            "added_tokens.json",
            json!({ "x": 2_000_000_000 }),
        )
        .accepted(CHECKPOINT),
        with("added text that is there", "added_tokens.json", json!({ "a": 15 }))
            .refused(CHECKPOINT, &["model/tokenizer.model: ", "tokens 3 and 15 are both \"a\""]),
        text("tokenizer_config.json not JSON", "tokenizer_config.json", "{\"a\"".into()),
        text("tokenizer_config.json a list", "tokenizer_config.json", "[]".into()),
        text(
            "tokenizer_config.json of 10^6 lists",
            "tokenizer_config.json",
            format!("{{\"a\":{}", "[".repeat(1_000_000)),
        ),
        text("tokenizer_config.json of 10^7 numbers", "tokenizer_config.json", wide()),
        text("tokenizer_config.json of 5 10^6 empty lists", "tokenizer_config.json", lists()),
        text("config.json of 10^7 numbers", "config.json", wide()),
        text("config.json of 5 10^6 empty lists", "config.json", lists()),
    ]
}

fn templates() -> Vec<Case> {
    const QUANTIZED: &str = "convert model -o out.gguf --type q8_0";
    fn is_copied(place: &Place) {
        let model = Model::open(&place.path("out.gguf")).unwrap();
        assert_eq!(model.metadata().string("tokenizer.chat_template").unwrap(), JINJA);
        assert!(!place.path("owned").exists());
    }
    fn sparse(place: &Place, file: &str) {
        let folder = checkpoint(place);
        Tiny::new().write(&folder);
        fs::File::create(folder.join(file)).unwrap().set_len(100_000_000).unwrap();
    }
    vec![
        Case::new("hostile Jinja in tokenizer_config.json", |place| {
            let mut tiny = Tiny::new();
            tiny.others.insert("tokenizer_config.json", json!({ "chat_template": JINJA }));
            tiny.write(&checkpoint(place));
        })
        .accepted_as(QUANTIZED, is_copied),
        Case::new("hostile Jinja in a file of its own", |place| {
            let folder = checkpoint(place);
            Tiny::new().write(&folder);
            fs::write(folder.join("chat_template.jinja"), JINJA).unwrap();
        })
        .accepted_as(QUANTIZED, is_copied),
        Case::new("template of 100 MB in a file of its own", |place| {
            sparse(place, "chat_template.jinja");
        })
        .refused(CHECKPOINT, &["model/chat_template.jinja: 100000000 bytes, more than"]),
        Case::new("template of 100 MB in tokenizer_config.json", |place| {
            sparse(place, "tokenizer_config.json");
        })
        .refused(CHECKPOINT, &["model/tokenizer_config.json: 100000000 bytes, more than"]),
        Case::new("template of 4 MB in tokenizer_config.json", |place| {
            let mut tiny = Tiny::new();
            let template = "{{ x }}".repeat(600_000);
            tiny.others.insert("tokenizer_config.json", json!({ "chat_template": template }));
            tiny.write(&checkpoint(place));
        })
        .accepted(CHECKPOINT),
        Case::new("template not UTF-8", |place| {
            let folder = checkpoint(place);
            Tiny::new().write(&folder);
            fs::write(folder.join("chat_template.jinja"), b"{{ \xff }}").unwrap();
        })
        .refused(CHECKPOINT, &["model/chat_template.jinja: "]),
        Case::new("template is a number", |place| {
            let mut tiny = Tiny::new();
            tiny.others.insert("tokenizer_config.json", json!({ "chat_template": 1 }));
            tiny.write(&checkpoint(place));
        })
        .refused(CHECKPOINT, &["model/tokenizer_config.json: ", "chat_template"]),
    ]
}
