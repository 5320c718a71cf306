//! The same bits for any number of threads and any instruction set.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::{env, process::Command, sync::Mutex};

use llq_eval::{Against, Llama, Mode, Options, Progress, Report, Running, evaluate, record};
use llq_quant::kernels;
use rayon::ThreadPoolBuilder;
use support::{corpus, golden, options};

/// Short windows: without a vector unit's help a fused multiply-add takes a library call.
fn short(mode: Mode, chunks: usize) -> Options {
    Options { mode, context: 24, chunks: Some(chunks) }
}

fn on_threads(threads: usize, options: &Options) -> Option<Report> {
    let (model, base) = (golden("q3_k_m")?, golden("q5_0")?);
    let corpus = corpus(&model, "sampled")?;
    let (llama, base) = (Llama::load(&model).unwrap(), Llama::load(&base).unwrap());
    let against = Against::Model(&base);
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    Some(pool.install(|| evaluate(&llama, against, &corpus, options, &()).unwrap()))
}

#[test]
fn thread_counts_give_the_same_bits() {
    // A window that is cut for attention, too.
    let long = Options { context: 300, ..short(Mode::Exact, 1) };
    for options in [short(Mode::Exact, 40), short(Mode::Fast, 40), long] {
        let one = on_threads(1, &options);
        assert_eq!(one, on_threads(2, &options));
        assert_eq!(one, on_threads(3, &options));
    }
}

/// Windows pass through the model together, and one does not see the others.
#[test]
fn windows_score_the_same_alone_and_in_company() {
    let Some(model) = golden("q3_k_m") else { return };
    let Some(corpus) = corpus(&model, "sampled") else { return };
    let llama = Llama::load(&model).unwrap();
    for mode in [Mode::Exact, Mode::Fast] {
        let heard_of = |chunks: usize| {
            let heard = Heard::default();
            evaluate(&llama, Against::Nothing, &corpus, &short(mode, chunks), &heard).unwrap();
            heard.0.into_inner().unwrap()
        };
        // 86 windows of 24 tokens are more than a pass takes.
        let together = heard_of(100);
        assert_eq!(together.len(), 100);
        for chunks in [1, 2, 5, 90] {
            assert_eq!(heard_of(chunks), together[..chunks], "{chunks} in {mode:?}");
        }
    }
}

/// The perplexity after each window.
#[derive(Default)]
struct Heard(Mutex<Vec<f64>>);

impl Progress for Heard {
    fn start(&self, _windows: usize, _context: usize) {}

    fn window(&self, running: Running) {
        self.0.lock().unwrap().push(running.perplexity.unwrap());
    }
}

/// Kernels are selected once per process, so each instruction set has one of its own, which runs
/// only `prints_the_report`.
#[test]
fn instruction_sets_give_the_same_bits() {
    if golden("q3_k_m").is_none() {
        return;
    }
    let reports: Vec<String> =
        kernels::available().map(|row| report_of(row.isa().name())).collect();
    assert!(reports[0].contains("perplexity"));
    assert!(reports.windows(2).all(|pair| pair[0] == pair[1]), "{reports:#?}");
}

fn report_of(isa: &str) -> String {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "prints_the_report", "--ignored", "--nocapture"])
        .env(kernels::ISA_VARIABLE, isa)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().filter(|line| line.contains("Report")).collect()
}

#[test]
#[ignore = "run by instruction_sets_give_the_same_bits"]
fn prints_the_report() {
    for mode in [Mode::Exact, Mode::Fast] {
        println!("{:?}", on_threads(1, &short(mode, 1)));
    }
}

#[test]
fn a_recorded_base_gives_what_the_model_gives() {
    let (Some(model), Some(base)) = (golden("q4_0"), golden("q5_k_m")) else { return };
    let Some(corpus) = corpus(&model, "sampled") else { return };
    let (llama, base) = (Llama::load(&model).unwrap(), Llama::load(&base).unwrap());
    // More than a pass takes.
    let options = short(Mode::Fast, 100);
    let live = evaluate(&llama, Against::Model(&base), &corpus, &options, &()).unwrap();
    let (base_report, recorded) = record(&base, &corpus, &options, &()).unwrap();
    let replayed = evaluate(&llama, Against::Recorded(&recorded), &corpus, &options, &()).unwrap();
    assert_eq!(live, replayed);
    assert_eq!(base_report.perplexity, live.against.unwrap().base_perplexity);
    let alone = evaluate(&llama, Against::Nothing, &corpus, &options, &()).unwrap();
    assert_eq!((alone.perplexity, alone.stderr), (live.perplexity, live.stderr));
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let Some(model) = golden("q4_k_m") else { return };
    let Some(corpus) = corpus(&model, "sampled") else { return };
    let llama = Llama::load(&model).unwrap();
    let report =
        evaluate(&llama, Against::Model(&llama), &corpus, &options(Mode::Fast, 1), &()).unwrap();
    let comparison = report.against.unwrap();
    assert_eq!((comparison.kld.mean, comparison.kld.max, comparison.ln_ratio), (0.0, 0.0, 0.0));
    assert_eq!((comparison.same_top, comparison.delta_p_rms), (1.0, 0.0));
}
