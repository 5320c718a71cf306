//! Progress of a long step: a bar with rate and remaining time on a terminal, a few lines in a log.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressState, ProgressStyle as BarStyle};

use crate::{
    figures::{ByteRate, Count, Seconds},
    output::{Output, ProgressStyle},
};

/// A log gets a line per tenth of the work, and never more often than this.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Tokens,
    Steps,
}

/// A running step; any thread may move it on. The bar disappears when it is dropped.
pub(crate) struct Progress<'a> {
    output: &'a Output,
    label: String,
    unit: Unit,
    total: u64,
    done: AtomicU64,
    /// What of that took no time, as it was done before.
    passed: Arc<AtomicU64>,
    started: Instant,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines(Mutex<LastLine>),
    Nothing,
}

struct LastLine {
    at: Instant,
    tenth: u64,
}

/// Shows a step over bytes whose number is known once files are open.
pub(crate) struct Reading<'a> {
    output: &'a Output,
    label: &'a str,
    shown: OnceLock<Progress<'a>>,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(output: &'a Output, label: &'a str) -> Reading<'a> {
        Reading { output, label, shown: OnceLock::new() }
    }
}

impl llq_convert::Progress for Reading<'_> {
    fn begin(&self, total_bytes: u64) {
        self.shown.get_or_init(|| self.output.progress(self.label, total_bytes, Unit::Bytes));
    }

    fn advance(&self, bytes: u64) {
        if let Some(shown) = self.shown.get() {
            shown.advance(bytes);
        }
    }
}

impl<'a> Progress<'a> {
    pub(crate) fn start(output: &'a Output, label: &str, total: u64, unit: Unit) -> Progress<'a> {
        let passed = Arc::new(AtomicU64::new(0));
        let shown = match output.progress_style() {
            ProgressStyle::Bar => Shown::Bar(bar(output, (label, total, unit), &passed)),
            ProgressStyle::Lines => {
                Shown::Lines(Mutex::new(LastLine { at: Instant::now(), tenth: 0 }))
            }
            ProgressStyle::Silent => Shown::Nothing,
        };
        let (label, done, started) = (label.to_owned(), AtomicU64::new(0), Instant::now());
        Progress { output, label, unit, total, done, passed, started, shown }
    }

    /// Counts `units` more as done.
    pub(crate) fn advance(&self, units: u64) {
        let done = self.done.fetch_add(units, Ordering::Relaxed) + units;
        match &self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines(last) => self.log(done, last),
            Shown::Nothing => {}
        }
    }

    /// Counts `units` as done before the step started.
    pub(crate) fn pass(&self, units: u64) {
        self.passed.fetch_add(units, Ordering::Relaxed);
        let done = self.done.fetch_add(units, Ordering::Relaxed) + units;
        if let Shown::Bar(bar) = &self.shown {
            bar.set_position(done);
            bar.reset_eta();
        }
    }

    /// Shows a figure beside the bar; a log has no place for it.
    pub(crate) fn tell(&self, figure: String) {
        if let Shown::Bar(bar) = &self.shown {
            bar.set_prefix(figure);
        }
    }

    fn log(&self, done: u64, last: &Mutex<LastLine>) {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let tenth = done.saturating_mul(10) / self.total.max(1);
        if tenth <= last.tenth || tenth >= 10 || last.at.elapsed() < BETWEEN_LINES {
            return;
        }
        *last = LastLine { at: Instant::now(), tenth };
        let elapsed = self.started.elapsed();
        let made = done.saturating_sub(self.passed.load(Ordering::Relaxed));
        let left = elapsed.mul_f64(self.total.saturating_sub(done) as f64 / made.max(1) as f64);
        let (label, percent) = (&self.label, tenth * 10);
        let (rate, left) = (self.unit.rate(made, elapsed), Seconds(left));
        self.output.done(&format_args!("{label}: {percent} %, {rate}, {left} left"));
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

impl Unit {
    fn rate(self, done: u64, elapsed: Duration) -> String {
        match self {
            Unit::Bytes => ByteRate { bytes: done, elapsed }.to_string(),
            Unit::Tokens => {
                let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
                format!("{} tokens/s", Count(rate as u64))
            }
            Unit::Steps => format!("{done} done"),
        }
    }

    fn bar_template(self) -> &'static str {
        match self {
            Unit::Bytes => {
                "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes}, {rate}, {eta} left"
            }
            Unit::Tokens => {
                "{msg} {wide_bar} {human_pos}/{human_len} tokens, {rate}, {eta} left {prefix}"
            }
            Unit::Steps => "{msg} {wide_bar} {human_pos}/{human_len}, {eta} left, {prefix}",
        }
    }
}

fn bar(
    output: &Output,
    (label, total, unit): (&str, u64, Unit),
    passed: &Arc<AtomicU64>,
) -> ProgressBar {
    let passed = Arc::clone(passed);
    let style = BarStyle::with_template(unit.bar_template())
        .unwrap_or_else(|_| BarStyle::default_bar())
        .with_key("rate", move |state: &ProgressState, out: &mut dyn fmt::Write| {
            let made = state.pos().saturating_sub(passed.load(Ordering::Relaxed));
            // A terminal that cannot be written to leaves nobody to tell.
            let _ = out.write_str(&unit.rate(made, state.elapsed()));
        })
        .progress_chars("█▉▊▋▌▍▎▏ ");
    let bar = output.bars().add(ProgressBar::new(total).with_style(style));
    bar.set_message(label.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
