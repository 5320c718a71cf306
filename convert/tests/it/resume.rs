//! Writes that are interrupted and gone on with: the same bytes and the same report as in one run.

use std::{
    fs::{self, File},
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use llq_convert::{
    Earlier, Error, OnOverflow, OpenOptions, Overwrite, Plan, Progress, Report, Request, Silent,
    Split, open_with, write, write_resumably,
};
use llq_fixtures::fixture;
use llq_gguf::Error as GgufError;
use llq_quant::{Effort, mix::Mix};

use crate::{
    output::overflowing,
    support::{
        assert_says, listing,
        lora::{Made, merging},
        request,
        tiny::Tiny,
    },
};

/// Panics after so many groups of rows were written.
struct Interrupt {
    after: u64,
    written: AtomicU64,
    bytes: AtomicU64,
    passed: AtomicU64,
    total: AtomicU64,
    earlier: Mutex<Option<Earlier>>,
}

impl Interrupt {
    fn after(after: u64) -> Interrupt {
        let zero = || AtomicU64::new(0);
        let earlier = Mutex::new(None);
        let (written, bytes, passed, total) = (zero(), zero(), zero(), zero());
        Interrupt { after, written, bytes, passed, total, earlier }
    }

    fn never() -> Interrupt {
        Interrupt::after(u64::MAX)
    }

    fn found(&self) -> Earlier {
        self.earlier.lock().unwrap().clone().unwrap()
    }
}

impl Progress for Interrupt {
    fn begin(&self, total_bytes: u64) {
        self.total.store(total_bytes, Relaxed);
    }

    fn resume(&self, earlier: &Earlier) {
        *self.earlier.lock().unwrap() = Some(earlier.clone());
    }

    fn pass(&self, bytes: u64) {
        self.passed.fetch_add(bytes, Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        if self.written.fetch_add(1, Relaxed) >= self.after {
            panic::resume_unwind(Box::new("interrupted"));
        }
    }
}

/// One run; `None` where it was interrupted.
fn run(
    threads: usize,
    source: &Path,
    options: &OpenOptions,
    target: &Path,
    request: &Request,
    progress: &Interrupt,
) -> Option<Result<Report, Error>> {
    let source = open_with(source, options).unwrap();
    let plan = Plan::new(&*source, request).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let write = || write_resumably(&*source, &plan, target, Overwrite::Forbid, progress);
    panic::catch_unwind(AssertUnwindSafe(|| pool.install(write))).ok()
}

fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let names = listing(folder).into_iter();
    names.map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

/// Files and report of a run that nobody interrupts and that could not be gone on with.
fn uninterrupted(source: &Path, request: &Request) -> (Vec<(String, Vec<u8>)>, Report) {
    let folder = tempfile::tempdir().unwrap();
    let source = open_with(source, &OpenOptions::default()).unwrap();
    let plan = Plan::new(&*source, request).unwrap();
    let target = folder.path().join("out.gguf");
    let report = write(&*source, &plan, &target, Overwrite::Forbid, &Silent).unwrap();
    (contents(folder.path()), report)
}

/// Interrupts each run of `source` after `each` groups of rows until one is through; returns how many
/// were interrupted.
fn write_in_pieces(source: &Path, request: &Request, each: u64, threads: &[usize]) -> usize {
    let (expected, expected_report) = uninterrupted(source, request);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.gguf");
    let mut before = 0;
    for (number, &threads) in threads.iter().cycle().enumerate() {
        let progress = Interrupt::after(each);
        let report = run(threads, source, &OpenOptions::default(), &target, request, &progress);
        let found = progress.found();
        assert_eq!(found.damage, None);
        assert!(found.bytes >= before, "what was written is kept");
        before = found.bytes;
        if let Some(report) = report {
            assert!(contents(folder.path()) == expected);
            assert_eq!(report.unwrap(), expected_report);
            let (bytes, passed) = (progress.bytes.into_inner(), progress.passed.into_inner());
            assert_eq!(bytes + passed, progress.total.into_inner());
            return number;
        }
        assert_eq!(listing(folder.path()), [".llq-out.gguf.resume"]);
        assert!(number < 1000, "no end");
    }
    unreachable!()
}

#[test]
fn an_interrupted_run_is_gone_on_with() {
    let checkpoint = fixture("tiny-llama-2/hf");
    let whole = request(Mix::Q8_0);
    let parts = Request { split: Split::Bytes(1_000_000), ..whole.clone() };
    for request in [whole, parts] {
        assert!(write_in_pieces(&checkpoint, &request, 5, &[1]) > 4);
        // With more threads, fewer rows are taken at a time.
        assert!(write_in_pieces(&checkpoint, &request, 20, &[1, 64, 2]) > 1);
    }
}

/// Weights that are out of the ordinary are met again: they are reported, and decide about types.
#[test]
fn a_run_that_goes_on_knows_what_the_one_before_met() {
    let folder = tempfile::tempdir().unwrap();
    overflowing(&folder);
    for on_overflow in [OnOverflow::Clamp, OnOverflow::KeepBf16] {
        let whole = Request { on_overflow, ..request(Mix::F16) };
        let parts = Request { split: Split::Tensors(5), ..whole.clone() };
        for request in [whole, parts] {
            // Where all else is there, two tensors with such weights may have to be written again.
            for each in 4..30 {
                write_in_pieces(folder.path(), &request, each, &[1]);
            }
        }
    }
}

/// Weights that are too large are met by every run of these settings.
#[test]
fn a_run_that_cannot_come_to_its_end_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    overflowing(&folder);
    let out = tempfile::tempdir().unwrap();
    let (target, options) = (out.path().join("out.gguf"), OpenOptions::default());
    let request = request(Mix::F16);
    let ended = run(1, folder.path(), &options, &target, &request, &Interrupt::never());
    assert!(matches!(ended.unwrap().unwrap_err(), Error::Overflow { .. }));
    assert!(listing(out.path()).is_empty());
}

/// A run with these is refused where one with the others was interrupted.
#[track_caller]
fn assert_refused(
    (source, options, request): (&Path, &OpenOptions, &Request),
    change: impl FnOnce(),
    (changed_options, changed_request): (&OpenOptions, &Request),
) {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.gguf");
    let first = run(1, source, options, &target, request, &Interrupt::after(3));
    assert!(first.is_none());
    change();
    let second = run(1, source, changed_options, &target, changed_request, &Interrupt::never());
    let error = second.unwrap().unwrap_err();
    assert!(matches!(error, Error::Gguf(GgufError::OtherRun { .. })), "{error}");
    assert_says(&error, &[".llq-out.gguf.resume", "other settings"]);
    assert_eq!(listing(folder.path()), [".llq-out.gguf.resume"]);
}

#[test]
fn other_settings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let (source, plain) = (folder.path(), OpenOptions::default());
    let first = request(Mix::Q4_0);
    let change = |changed: Request| {
        assert_refused((source, &plain, &first), || (), (&plain, &changed));
    };
    change(request(Mix::Q8_0));
    change(Request { effort: Effort::Best, ..first.clone() });
    change(Request { context_length: Some(77), ..first.clone() });
    change(Request { split: Split::Tensors(5), ..first.clone() });

    let adapter = tempfile::tempdir().unwrap();
    Made::new(1).write(adapter.path());
    let [half, whole] = [0.5, 1.0].map(|scale| merging([(adapter.path(), scale)]));
    assert_refused((source, &half, &first), || (), (&whole, &first));
}

#[test]
fn a_source_that_has_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let (source, options, request) = (folder.path(), OpenOptions::default(), request(Mix::Q4_0));
    let touch = || {
        let weights = File::options().write(true).open(source.join("model.safetensors")).unwrap();
        weights.set_modified(SystemTime::now() - Duration::from_secs(1000)).unwrap();
    };
    assert_refused((source, &options, &request), touch, (&options, &request));
}
