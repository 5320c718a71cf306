//! The pipeline: groups of rows are read, decoded, encoded and written at their place.

mod job;
mod overflow;
mod tally;

use std::{
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use llq_gguf::{Earlier, ModelWriter, Overwrite, SealedModel, TensorType};

use self::{
    job::{Job, Jobs, Scratch},
    tally::Tally,
};
use crate::{
    Error, OnOverflow, Plan, Source, TensorPlan, demands, error::Result, fingerprint::fingerprint,
};

pub use self::overflow::Overflow;

/// Hears how far a [`write()`] has come, from several threads.
pub trait Progress: Sync {
    /// Work starts; it will read `total_bytes` of the source.
    fn begin(&self, total_bytes: u64);

    /// An interrupted run has left this, of which what is of use is [passed](Self::pass).
    fn resume(&self, _earlier: &Earlier) {}

    /// `bytes` more of the source need not be read, as an earlier run has done so.
    fn pass(&self, bytes: u64) {
        self.advance(bytes);
    }

    /// `bytes` more of the source were read, encoded and written. It is also called with 0, where
    /// tensors have to be read a second time.
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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Size of the output, all files together, in bytes.
    pub file_bytes: u64,
    /// Bytes of tensor data that were read.
    pub source_bytes: u64,
    /// Tensors of the plain types that hold weights which are NaN or infinite.
    pub non_finite: Vec<NonFinite>,
    /// Tensors that hold weights which were too large for the planned type.
    pub overflows: Vec<Overflow>,
}

/// How many weights of a tensor are NaN or infinite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// The tensor.
    pub tensor: String,
    /// The count.
    pub weights: u64,
}

/// Writes what `plan` says from `source` to `target`, or to the parts beside it that
/// [`ModelLayout::paths`](llq_gguf::ModelLayout::paths) names, on the current rayon pool. The bytes
/// are the same for any number of threads; after an error nothing is left behind. No file gets its
/// name before all are complete and were read back.
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
    refuse_source_as_target(source, plan, target)?;
    let writer = ModelWriter::create(target, plan.layout().clone(), overwrite)?;
    progress.begin(plan.source_bytes());
    run(source, plan, writer, target, progress)
}

/// Does what [`write()`] does, but goes on with what an interrupted run of the same plan has left,
/// and leaves after an interruption or an error what the next can go on with, if there is any: the
/// folder `.llq-NAME.resume` beside the target. The bytes are those of a run that was never interrupted.
///
/// # Errors
///
/// Those of [`write()`], and [`Error::Gguf`] where a run of another plan or source has left something,
/// or another run is writing.
pub fn write_resumably(
    source: &dyn Source,
    plan: &Plan,
    target: &Path,
    overwrite: Overwrite,
    progress: &dyn Progress,
) -> Result<Report> {
    refuse_source_as_target(source, plan, target)?;
    let fingerprint = fingerprint(source, plan)?;
    let (writer, earlier) =
        ModelWriter::resume(target, plan.layout().clone(), overwrite, fingerprint)?;
    progress.begin(plan.source_bytes());
    progress.resume(&earlier);
    run(source, plan, writer, target, progress)
}

fn run(
    source: &dyn Source,
    plan: &Plan,
    writer: ModelWriter,
    target: &Path,
    progress: &dyn Progress,
) -> Result<Report> {
    let tallies = plan.tensors().iter().map(|_| Tally::default()).collect();
    let mut pipeline = Pipeline { source, plan, writer, progress, tallies };
    match pipeline.convert() {
        // The next run will have other settings.
        Err(error @ Error::Overflow { .. }) => {
            pipeline.writer.discard();
            return Err(error);
        }
        converted => converted?,
    }
    pipeline.keep_what_overflowed()?;
    pipeline.finish(target)
}

fn refuse_source_as_target(source: &dyn Source, plan: &Plan, target: &Path) -> Result<()> {
    for path in plan.layout().paths(target)? {
        match (source.path().canonicalize(), path.canonicalize()) {
            (Ok(source), Ok(path)) if source == path => {
                return Err(Error::TargetIsSource { path });
            }
            _ => {}
        }
    }
    Ok(())
}

struct Pipeline<'a> {
    source: &'a dyn Source,
    plan: &'a Plan,
    writer: ModelWriter,
    progress: &'a dyn Progress,
    /// Per tensor, the weights that are out of the ordinary.
    tallies: Vec<Tally>,
}

impl Pipeline<'_> {
    /// Writes every tensor in its planned type.
    fn convert(&self) -> Result<()> {
        let written =
            run_jobs(self.plan, |_, _| true, |job, scratch| self.convert_rows(job, scratch));
        match written {
            Err(Error::Overflow { .. }) => Err(self.name_all_overflows()?),
            other => other,
        }
    }

    fn convert_rows(&self, job: &Job, scratch: &mut Scratch) -> Result<()> {
        let Pipeline { source, plan, ref writer, progress, .. } = *self;
        let tensor = &plan.tensors()[job.tensor];
        if writer.adopt(job.tensor, job.bytes(tensor))? {
            progress.pass(job.source_bytes(tensor));
            return Ok(());
        }
        let (bytes, census) = job.convert(source, plan, scratch)?;
        if !overflow::is_allowed(tensor, &census, plan.request().on_overflow) {
            return Err(Error::Overflow { tensors: Vec::new() });
        }
        writer.write_at(job.tensor, job.bytes(tensor).start, bytes)?;
        self.tallies[job.tensor].add(&census);
        // What is to be reported, or decides a tensor's type, has to be met again.
        if census.is_ordinary() {
            writer.keep(job.tensor, job.bytes(tensor))?;
        }
        progress.advance(job.source_bytes(tensor));
        Ok(())
    }

    /// The error of weights that are too large. The job that met one has not seen the others, so
    /// all tensors that may hold such are read again.
    fn name_all_overflows(&self) -> Result<Error> {
        let Pipeline { source, plan, progress, .. } = *self;
        let tallies: Vec<Tally> = plan.tensors().iter().map(|_| Tally::default()).collect();
        let may_overflow = |_, tensor: &TensorPlan| overflow::is_possible(tensor);
        run_jobs(plan, may_overflow, |job, scratch| {
            let tensor = &plan.tensors()[job.tensor];
            tallies[job.tensor].add(&job.census(source, tensor, scratch)?);
            progress.advance(0);
            Ok(())
        })?;
        let on_overflow = plan.request().on_overflow;
        let refused =
            plan.tensors().iter().zip(&tallies).filter(|(tensor, tally)| {
                !overflow::is_allowed(tensor, &tally.census(), on_overflow)
            });
        let tensors = refused.filter_map(|(tensor, tally)| tally.overflow(tensor)).collect();
        Ok(Error::Overflow { tensors })
    }

    /// Writes tensors again as BF16 that did not fit F16. Both have the same size, so everything
    /// else stays where it is.
    fn keep_what_overflowed(&mut self) -> Result<()> {
        if self.plan.request().on_overflow != OnOverflow::KeepBf16 {
            return Ok(());
        }
        let overflowed = |tally: &Tally| tally.census().too_large > 0;
        let kept: Vec<usize> =
            (0..self.tallies.len()).filter(|&index| overflowed(&self.tallies[index])).collect();
        if kept.is_empty() {
            return Ok(());
        }
        let plan = self.plan.retyped(self.source, &kept, TensorType::BF16)?;
        self.writer.replace_layout(plan.layout().clone())?;
        let Pipeline { source, ref writer, progress, .. } = *self;
        run_jobs(
            &plan,
            |index, _| kept.binary_search(&index).is_ok(),
            |job, scratch| {
                let tensor = &plan.tensors()[job.tensor];
                let (bytes, _) = job.convert(source, &plan, scratch)?;
                writer.write_at(job.tensor, job.bytes(tensor).start, bytes)?;
                progress.advance(0);
                Ok(())
            },
        )
    }

    fn finish(self, target: &Path) -> Result<Report> {
        let Pipeline { plan, writer, tallies, .. } = self;
        let sealed = writer.seal()?;
        check_demands(&sealed, plan, target)?;
        sealed.publish()?;
        let tallies = || plan.tensors().iter().zip(&tallies);
        Ok(Report {
            file_bytes: plan.file_bytes(),
            source_bytes: plan.source_bytes(),
            non_finite: tallies().filter_map(|(tensor, tally)| tally.non_finite(tensor)).collect(),
            overflows: tallies().filter_map(|(tensor, tally)| tally.overflow(tensor)).collect(),
        })
    }
}

/// Checks what was written, as it was read back, against the demands of loaders. What the source
/// did not meet was told by the plan.
fn check_demands(sealed: &SealedModel, plan: &Plan, target: &Path) -> Result<()> {
    let Some(first) = sealed.headers().next() else { return Ok(()) };
    let tensors = sealed.headers().flat_map(|header| &header.tensors);
    let unmet = demands::unmet(&first.metadata, demands::tensors(tensors));
    match unmet.into_iter().find(|demand| !plan.unmet().contains(demand)) {
        Some(demand) => Err(Error::Demand { path: target.to_path_buf(), demand }),
        None => Ok(()),
    }
}

/// Does `work` for all rows of the tensors that `wanted` (of index and plan) chooses.
///
/// Every thread takes the next job until none is left. Jobs are taken in order, so when one fails
/// all before it were taken too, and the first failure is the same for any number of threads.
fn run_jobs(
    plan: &Plan,
    wanted: impl Fn(usize, &TensorPlan) -> bool,
    work: impl Fn(&Job, &mut Scratch) -> Result<()> + Sync,
) -> Result<()> {
    let jobs = Jobs::of(plan.tensors(), wanted, rayon::current_num_threads());
    let next = AtomicU64::new(0);
    let failure: Mutex<Option<(u64, Error)>> = Mutex::new(None);
    rayon::broadcast(|_| {
        let mut scratch = Scratch::default();
        while let Some((index, job)) = take(&jobs, &next) {
            if let Err(error) = work(&job, &mut scratch) {
                next.fetch_max(jobs.count(), Relaxed);
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                if failure.as_ref().is_none_or(|(first, _)| index < *first) {
                    *failure = Some((index, error));
                }
            }
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

fn take(jobs: &Jobs, next: &AtomicU64) -> Option<(u64, Job)> {
    let index = next.fetch_add(1, Relaxed);
    Some((index, jobs.get(index)?))
}
