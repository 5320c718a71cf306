//! Matrix products per format and instruction set, beside the machine's limits, on one core.
//!
//! `cargo bench -p llq-benches --bench products -- [NAME]…` prints one table, of the formats and
//! instruction sets that are named, or of all. Every product is checked against its definition
//! before it is timed; a time is the least of some runs.

#![allow(clippy::print_stdout)] // the table is what it is for

use std::{
    env, fs,
    time::{Duration, Instant},
};

use llq_gguf::TensorType;
use llq_quant::{
    Activations, FORMATS, FormatInfo, Matrix, Mode, Scratch,
    kernels::{self, Chains, Isa, Kernels},
    matmul_with,
};

const ROWS: usize = 2048;
const COLS: usize = 2048;
const TOKENS: usize = 512;
/// The scalar row is slow: its rate shows on few tokens.
const SCALAR_TOKENS: usize = 12;

fn main() {
    let filters: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let formats = || FORMATS.iter().filter(|f| wanted(&filters, is_format, f.tensor_type.name()));
    println!("{ROWS} × {COLS} weights, {TOKENS} tokens, one core; 10^9 multiply-adds per second");
    println!(
        "{:8} {:8} {:>8} {:>6} {:>8} {:>6}",
        "row", "format", "exact", "limit", "fast", "limit"
    );
    for kernels in kernels::available().rev() {
        let isa = kernels.isa().name();
        if !wanted(&filters, is_isa, isa) {
            continue;
        }
        let limits = [
            limit(|chains| kernels.multiply_add_burst(chains)),
            limit(|chains| kernels.code_product_burst(chains)),
        ];
        println!("{isa:8} {:8} {:8.1} {:6} {:8.1}", "(limit)", limits[0], "", limits[1]);
        for format in formats() {
            let exact = rate(kernels, format, Mode::Exact);
            let fast = rate(kernels, format, Mode::Fast);
            println!(
                "{isa:8} {:8} {exact:8.1} {:5.0}% {fast:8.1} {:5.0}%",
                format.tensor_type,
                100.0 * exact / limits[0],
                100.0 * fast / limits[1],
            );
        }
    }
}

/// Whether no filter is of this kind, or one names this.
fn wanted(filters: &[String], kind: fn(&str) -> bool, name: &str) -> bool {
    let mut filters = filters.iter().filter(|filter| kind(filter)).peekable();
    filters.peek().is_none() || filters.any(|filter| filter.eq_ignore_ascii_case(name))
}

fn is_isa(filter: &str) -> bool {
    filter.parse::<Isa>().is_ok()
}

fn is_format(filter: &str) -> bool {
    TensorType::from_name(filter).is_some()
}

/// The best rate of a burst.
fn limit(burst: impl Fn(Chains) -> u64) -> f64 {
    let rate = |chains| {
        let mut operations = 0;
        let time = least(20, || operations = burst(chains));
        operations as f64 / time.as_nanos() as f64
    };
    rate(Chains::Few).max(rate(Chains::Many))
}

fn rate(kernels: &Kernels, format: &FormatInfo, mode: Mode) -> f64 {
    let tokens = if kernels.isa() == Isa::Scalar { SCALAR_TOKENS } else { TOKENS };
    let bytes = encoded(format);
    let w = Matrix::new(format.tensor_type, ROWS, COLS, &bytes).expect("whole rows");
    let values = numbers(1, tokens * COLS);
    let x = Activations::new(mode, &values, COLS);
    let mut out = vec![0.0; tokens * ROWS];
    let mut scratch = Scratch::default();
    matmul_with(kernels, &w, &x, &mut out, &mut scratch);
    check(&w, &values, &out, mode);
    let time = least(5, || matmul_with(kernels, &w, &x, &mut out, &mut scratch));
    (ROWS * COLS * tokens) as f64 / time.as_nanos() as f64
}

/// Some outputs against the definition: equal in exact mode, near in fast mode.
fn check(w: &Matrix<'_>, x: &[f32], out: &[f32], mode: Mode) {
    let mut weights = vec![0.0; COLS];
    for row in (0..ROWS).step_by(511) {
        w.decode_row(row, &mut weights);
        for (token, x) in x.chunks_exact(COLS).enumerate().step_by(5) {
            let expected = weights.iter().zip(x).fold(0.0f32, |sum, (w, x)| w.mul_add(*x, sum));
            let found = out[token * ROWS + row];
            let magnitude: f32 = weights.iter().zip(x).map(|(w, x)| (w * x).abs()).sum();
            match mode {
                Mode::Exact => assert_eq!(found.to_bits(), expected.to_bits()),
                Mode::Fast => assert!((found - expected).abs() < 0.004 * magnitude),
            }
        }
    }
}

fn encoded(format: &FormatInfo) -> Vec<u8> {
    let row_bytes = format.tensor_type.row_bytes(COLS as u64).expect("whole blocks") as usize;
    let values = numbers(2, 16 * COLS);
    let mut rows = vec![0; 16 * row_bytes];
    for (row, out) in values.chunks_exact(COLS).zip(rows.chunks_exact_mut(row_bytes)) {
        format.encode_row(row, None, out).expect("whole rows");
    }
    rows.repeat(ROWS / 16)
}

/// Numbers in -1..1 (xorshift).
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

/// The least time of some runs.
fn least(runs: usize, mut run: impl FnMut()) -> Duration {
    (0..runs)
        .map(|_| {
            let start = Stopwatch::start();
            run();
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}

/// The processor's time of this thread where the system tells it (a neighbour's share of the core
/// does not count), otherwise the time on the wall.
struct Stopwatch {
    wall: Instant,
    processor: Option<u64>,
}

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch { wall: Instant::now(), processor: processor_nanoseconds() }
    }

    fn elapsed(&self) -> Duration {
        match (self.processor, processor_nanoseconds()) {
            (Some(start), Some(end)) => Duration::from_nanos(end - start),
            _ => self.wall.elapsed(),
        }
    }
}

fn processor_nanoseconds() -> Option<u64> {
    // The scheduler accounts for the time up to now when the thread gives up the core.
    std::thread::yield_now();
    fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}
