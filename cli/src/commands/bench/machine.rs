//! What else the machine does, and what it has.

use std::{fs, thread};

/// A load average per core above this spoils the figures.
pub(super) const BUSY: f64 = 0.5;

/// Processes that ran or waited in the last minute, per core, where the system tells it.
pub(super) fn load_per_core() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(load / thread::available_parallelism().ok()?.get() as f64)
}

/// Bytes that can be taken without others losing theirs, where the system tells it.
pub(in crate::commands) fn available_memory() -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: usize = line.split_whitespace().next()?.parse().ok()?;
    kilobytes.checked_mul(1024)
}
