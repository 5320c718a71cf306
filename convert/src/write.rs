//! The pipeline: groups of rows are read, decoded, encoded and written at their place.

mod job;

use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use llq_gguf::{FileWriter, Overwrite};

use self::job::{Job, Jobs, Scratch};
use crate::{Error, Plan, Source, error::Result};

/// Hears how far a [`write()`] has come, from several threads.
pub trait Progress: Sync {
    /// Work starts; it will read `total_bytes` of the source.
    fn begin(&self, total_bytes: u64);

    /// `bytes` more of the source were read, encoded and written.
    fn advance(&self, bytes: u64);
}

/// Nobody listens.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
}

/// What a [`write()`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Size of the output in bytes.
    pub file_bytes: u64,
    /// Bytes of tensor data that were read.
    pub source_bytes: u64,
    /// Tensors of the plain types that hold weights which are NaN or infinite.
    pub non_finite: Vec<NonFinite>,
}

/// How many weights of a tensor are NaN or infinite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// The tensor.
    pub tensor: String,
    /// The count.
    pub weights: u64,
}

/// Writes what `plan` says from `source` to `target`, on the current rayon pool. The bytes are the
/// same for any number of threads; after an error nothing is left behind.
///
/// Memory is bounded whatever the model's size: all threads together hold groups of rows of at
/// most 128 MiB, unless a row is so long that one per thread exceeds that.
pub fn write(
    source: &dyn Source,
    plan: &Plan,
    target: &Path,
    overwrite: Overwrite,
    progress: &dyn Progress,
) -> Result<Report> {
    refuse_source_as_target(source, target)?;
    let writer = FileWriter::create(target, plan.layout().clone(), overwrite)?;
    progress.begin(plan.source_bytes());
    let pipeline = Pipeline {
        source,
        plan,
        writer,
        progress,
        non_finite: plan.tensors().iter().map(|_| AtomicU64::new(0)).collect(),
    };
    pipeline.run()?;
    pipeline.finish()
}

fn refuse_source_as_target(source: &dyn Source, target: &Path) -> Result<()> {
    match (source.path().canonicalize(), target.canonicalize()) {
        (Ok(source), Ok(target)) if source == target => Err(Error::TargetIsSource { path: target }),
        _ => Ok(()),
    }
}

struct Pipeline<'a> {
    source: &'a dyn Source,
    plan: &'a Plan,
    writer: FileWriter,
    progress: &'a dyn Progress,
    /// Per tensor, how many weights are NaN or infinite.
    non_finite: Vec<AtomicU64>,
}

impl Pipeline<'_> {
    /// Every thread takes the next job until none is left. Jobs are taken in order, so when one
    /// fails all before it were taken too, and the first failure is the same for any number of
    /// threads.
    fn run(&self) -> Result<()> {
        let jobs = Jobs::of(self.plan, rayon::current_num_threads());
        let next = AtomicU64::new(0);
        let failure: Mutex<Option<(u64, Error)>> = Mutex::new(None);
        rayon::broadcast(|_| {
            let mut scratch = Scratch::default();
            while let Some((index, job)) = take(&jobs, &next) {
                if let Err(error) = self.run_job(&job, &mut scratch) {
                    next.fetch_max(jobs.count(), Relaxed);
                    let mut failure =
                        failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    if failure.as_ref().is_none_or(|(first, _)| index < *first) {
                        *failure = Some((index, error));
                    }
                }
            }
        });
        match failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    fn run_job(&self, job: &Job, scratch: &mut Scratch) -> Result<()> {
        let tensor = &self.plan.tensors()[job.tensor];
        let (bytes, non_finite) = job.convert(self.source, tensor, scratch)?;
        self.writer.write_at(job.tensor, job.offset(tensor), bytes)?;
        self.non_finite[job.tensor].fetch_add(non_finite, Relaxed);
        self.progress.advance(job.source_bytes(tensor));
        Ok(())
    }

    fn finish(self) -> Result<Report> {
        self.writer.finish()?;
        let counts = self.plan.tensors().iter().zip(&self.non_finite);
        let non_finite = counts
            .map(|(tensor, count)| (tensor, count.load(Relaxed)))
            .filter(|&(_, weights)| weights > 0)
            .map(|(tensor, weights)| NonFinite { tensor: tensor.name.clone(), weights })
            .collect();
        let (file_bytes, source_bytes) = (self.plan.file_bytes(), self.plan.source_bytes());
        Ok(Report { file_bytes, source_bytes, non_finite })
    }
}

fn take(jobs: &Jobs, next: &AtomicU64) -> Option<(u64, Job)> {
    let index = next.fetch_add(1, Relaxed);
    Some((index, jobs.get(index)?))
}
