//! How a bench is run.

use std::time::Duration;

use criterion::{BatchSize, Bencher, BenchmarkId, Criterion, Throughput};
use llq_quant::{FORMATS, FormatInfo, kernels::Kernels};

use crate::ProcessorTime;

/// Runs the benches that the command line names, briefly: a grid has a hundred of them.
pub fn run(benches: impl FnOnce(&mut Criterion<ProcessorTime>)) {
    let mut criterion = Criterion::default()
        .with_measurement(ProcessorTime)
        .without_plots()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
}

/// A bench of one row of the kernel table.
pub struct Case<'a> {
    /// What is done.
    pub operation: &'a str,
    /// By which row.
    pub kernels: &'static Kernels,
    /// To what: most often a format.
    pub name: &'a str,
    /// Weights, values or multiply-adds of one run.
    pub elements: usize,
}

impl Case<'_> {
    /// Cases of all formats by all rows that this machine has, the fastest first.
    pub fn grid() -> impl Iterator<Item = (&'static Kernels, &'static FormatInfo, String)> {
        llq_quant::kernels::available().rev().flat_map(|kernels| {
            FORMATS.iter().map(move |format| (kernels, *format, format.name().to_lowercase()))
        })
    }
}

/// Runs a bench if it was asked for. `prepare` makes what `run` works on and checks an answer;
/// it is called once, and not at all for a bench that was not asked for.
pub fn bench<T, R>(
    criterion: &mut Criterion<ProcessorTime>,
    case: &Case<'_>,
    prepare: impl Fn() -> T,
    mut run: impl FnMut(&mut T) -> R,
) {
    start(criterion, case, prepare, |bencher, input| bencher.iter(|| run(input)));
}

/// [`bench()`] of what changes its input: each run has its own copy.
pub fn bench_in_place<T: Clone, R>(
    criterion: &mut Criterion<ProcessorTime>,
    case: &Case<'_>,
    prepare: impl Fn() -> T,
    mut run: impl FnMut(&mut T) -> R,
) {
    start(criterion, case, prepare, |bencher, input| {
        bencher.iter_batched_ref(|| input.clone(), &mut run, BatchSize::SmallInput);
    });
}

fn start<T>(
    criterion: &mut Criterion<ProcessorTime>,
    case: &Case<'_>,
    prepare: impl Fn() -> T,
    mut measure: impl FnMut(&mut Bencher<'_, ProcessorTime>, &mut T),
) {
    let mut prepared = None;
    let mut group = criterion.benchmark_group(case.operation);
    group.throughput(Throughput::Elements(case.elements as u64));
    let id = BenchmarkId::new(case.kernels.isa().name(), case.name);
    group.bench_function(id, |bencher| measure(bencher, prepared.get_or_insert_with(&prepare)));
    group.finish();
}
