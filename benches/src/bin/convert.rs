//! `llq convert` beside `cp`: wall time over the same bytes on the same disk, and peak memory.
//!
//! `cargo run --release -p llq-benches --bin convert -- FOLDER [BLOCKS [ROUNDS]]` makes a
//! checkpoint with the shapes of LLaMA 2 7B in FOLDER (32 blocks are 13.5 GB; as much again is
//! needed for the copy), runs each job once per round, alternating, and removes everything.
//! Sources are dropped from the page cache and dirty pages are written back before each run.
//! `cp` does not sync; llq does, so its peer is also timed with a sync of the copies.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // the table is what it is for

use std::{
    env,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const EMBEDDING: u64 = 4096;
const FEED_FORWARD: u64 = 11008;
const VOCABULARY: u64 = 32000;
const SHARDS: usize = 3;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let folder = PathBuf::from(arguments.first().expect("FOLDER [BLOCKS [ROUNDS]]"));
    let number = |index: usize, default: u64| {
        arguments.get(index).map_or(default, |text| text.parse().unwrap())
    };
    let (blocks, rounds) = (number(1, 32), number(2, 3));
    let checkpoint = folder.join("checkpoint");
    fs::create_dir_all(&checkpoint).unwrap();
    write_checkpoint(&checkpoint, blocks);
    let jobs = [
        Job::Copy(Sync::Never),
        Job::Copy(Sync::AtTheEnd),
        Job::Convert(&["--outtype", "bf16"]),
        Job::Convert(&["--type", "q8_0"]),
    ];
    let mut seconds = vec![Vec::new(); jobs.len()];
    for _ in 0..rounds {
        for (job, seconds) in jobs.iter().zip(&mut seconds) {
            let run = job.run(&checkpoint, &folder.join("output"));
            println!(
                "{:28} {:7.2} s   peak RssAnon {:4} MB",
                job.name(),
                run.seconds,
                run.megabytes
            );
            seconds.push(run.seconds);
        }
    }
    println!("\nmedians over {rounds} rounds, and the speed as a part of cp's and of cp + sync's");
    let medians: Vec<f64> = seconds.into_iter().map(median).collect();
    for (job, median) in jobs.iter().zip(&medians) {
        let (plain, synced) = (medians[0] / median, medians[1] / median);
        println!("{:28} {median:7.2} s   {plain:5.2}   {synced:5.2}", job.name());
    }
    fs::remove_dir_all(&checkpoint).unwrap();
}

enum Job {
    Copy(Sync),
    Convert(&'static [&'static str]),
}

#[derive(PartialEq)]
enum Sync {
    Never,
    AtTheEnd,
}

struct Run {
    seconds: f64,
    megabytes: u64,
}

impl Job {
    fn name(&self) -> String {
        match self {
            Job::Copy(Sync::Never) => "cp".to_owned(),
            Job::Copy(Sync::AtTheEnd) => "cp, sync".to_owned(),
            Job::Convert(options) => format!("llq convert {}", options.join(" ")),
        }
    }

    /// Runs from a cold source with no dirty pages; removes what it wrote.
    fn run(&self, checkpoint: &Path, output: &Path) -> Run {
        fs::create_dir_all(output).unwrap();
        rustix::fs::sync();
        for entry in fs::read_dir(checkpoint).unwrap() {
            let file = File::open(entry.unwrap().path()).unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
        let mut command = match self {
            Job::Copy(_) => {
                let mut command = Command::new("cp");
                command.arg("-r").arg(checkpoint).arg(output);
                command
            }
            Job::Convert(options) => {
                let mut command = Command::new(beside_this("llq"));
                command.arg("convert").arg(checkpoint).args(*options);
                command.arg("-o").arg(output.join("model.gguf"));
                command
            }
        };
        let started = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut megabytes = 0;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            megabytes = megabytes.max(anonymous_megabytes(child.id()));
            thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "{} failed", self.name());
        if matches!(self, Job::Copy(Sync::AtTheEnd)) {
            for entry in fs::read_dir(output.join("checkpoint")).unwrap() {
                File::open(entry.unwrap().path()).unwrap().sync_all().unwrap();
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        fs::remove_dir_all(output).unwrap();
        Run { seconds, megabytes }
    }
}

/// A program in the folder of this one.
fn beside_this(name: &str) -> PathBuf {
    let path = env::current_exe().unwrap().with_file_name(name);
    assert!(path.exists(), "no {}: cargo build --release makes it", path.display());
    path
}

fn anonymous_megabytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0) / 1000
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// A Hugging Face folder with random BF16 weights: one block of them, again and again.
fn write_checkpoint(folder: &Path, blocks: u64) {
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "hidden_size": {EMBEDDING},
        "intermediate_size": {FEED_FORWARD}, "num_attention_heads": 32, "num_key_value_heads": 32,
        "num_hidden_layers": {blocks}, "vocab_size": {VOCABULARY}, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2}}"#
    );
    fs::write(folder.join("config.json"), config).unwrap();
    let tokenizer = llq_fixtures::fixture("tiny-llama-2/hf/tokenizer.model");
    fs::copy(tokenizer, folder.join("tokenizer.model")).unwrap();
    let tensors = tensors(blocks);
    let weights = random_weights(16 << 20);
    let mut map = Vec::new();
    for (shard, tensors) in tensors.chunks(tensors.len().div_ceil(SHARDS)).enumerate() {
        let name = format!("model-{:05}-of-{SHARDS:05}.safetensors", shard + 1);
        map.extend(tensors.iter().map(|(tensor, _)| format!(r#""{tensor}": "{name}""#)));
        write_safetensors(&folder.join(name), tensors, &weights);
    }
    let index = format!(r#"{{"weight_map": {{{}}}}}"#, map.join(", "));
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

fn write_safetensors(path: &Path, tensors: &[(String, Vec<u64>)], weights: &[u8]) {
    let mut header = Vec::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<u64>() * 2;
        header.push(format!(
            r#""{name}": {{"dtype": "BF16", "shape": {shape:?}, "data_offsets": [{start}, {end}]}}"#
        ));
    }
    let header = format!("{{{}}}", header.join(", "));
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let mut left = end as usize;
    while left > 0 {
        let count = left.min(weights.len());
        file.write_all(&weights[..count]).unwrap();
        left -= count;
    }
    file.into_inner().unwrap().sync_all().unwrap();
}

/// Names and shapes, rows first, in the order of a published checkpoint.
fn tensors(blocks: u64) -> Vec<(String, Vec<u64>)> {
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, EMBEDDING])];
    for block in 0..blocks {
        let mut add = |name: &str, shape: &[u64]| {
            all.push((format!("model.layers.{block}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[EMBEDDING]);
        add("mlp.down_proj", &[EMBEDDING, FEED_FORWARD]);
        add("mlp.gate_proj", &[FEED_FORWARD, EMBEDDING]);
        add("mlp.up_proj", &[FEED_FORWARD, EMBEDDING]);
        add("post_attention_layernorm", &[EMBEDDING]);
        for projection in ["k", "o", "q", "v"] {
            add(&format!("self_attn.{projection}_proj"), &[EMBEDDING, EMBEDDING]);
        }
    }
    all.push(("model.norm.weight".to_owned(), vec![EMBEDDING]));
    all.push(("lm_head.weight".to_owned(), vec![VOCABULARY, EMBEDDING]));
    all
}

/// BF16 weights between -0.0625 and 0.0625.
fn random_weights(count: usize) -> Vec<u8> {
    let bf16 = |number: f32| ((number / 16.0).to_bits() >> 16) as u16;
    llq_fixtures::random(1).take(count).flat_map(|number| bf16(number).to_le_bytes()).collect()
}
