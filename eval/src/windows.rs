//! The windows of a corpus that are evaluated, and running over them in parallel.

use std::{
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rayon::prelude::*;

use crate::{
    Corpus, Error, Options, Progress, Running,
    error::Result,
    statistics::{self, TokenScore},
};

/// The shortest window with a scored token.
pub const LEAST_CONTEXT: usize = 3;

/// Which windows of which corpus.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows<'c> {
    corpus: &'c Corpus,
    context: usize,
    count: usize,
}

/// What a model sees of a window, and what it should have said.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    tokens: Vec<u32>,
}

impl<'c> Windows<'c> {
    pub(crate) fn plan(corpus: &'c Corpus, options: &Options) -> Result<Windows<'c>> {
        let context = options.context;
        if context < LEAST_CONTEXT {
            return Err(Error::Context { least: LEAST_CONTEXT, found: context });
        }
        let whole = corpus.windows(context);
        if whole == 0 {
            return Err(Error::CorpusTooShort { expected: context, found: corpus.tokens().len() });
        }
        match options.chunks.map_or(whole, |most| most.min(whole)) {
            0 => Err(Error::NoWindows),
            count => Ok(Windows { corpus, context, count }),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// The tokens of all windows, as they are in the text.
    pub(crate) fn tokens(&self) -> &'c [u32] {
        &self.corpus.tokens()[..self.context * self.count]
    }

    /// Checks that a model knows all the tokens.
    pub(crate) fn check_vocabulary(&self, vocabulary_size: usize) -> Result<()> {
        let start = self.window_start();
        let unknown =
            self.tokens().iter().chain(&start).find(|&&token| token as usize >= vocabulary_size);
        match unknown {
            Some(&token) => Err(Error::Token { token, vocabulary_size }),
            None => Ok(()),
        }
    }

    /// What replaces the first token of every window.
    pub(crate) fn window_start(&self) -> Option<u32> {
        self.corpus.window_start()
    }

    /// Scores every window, each on one thread, and gathers in the order of the text what `score`
    /// returns beside the scores. After a window without finite scores only the ones before it are
    /// still scored, so that the first of such is named whatever thread meets it.
    pub(crate) fn run<W: Send, T: Send>(
        &self,
        progress: &dyn Progress,
        workspace: impl Fn() -> W + Sync + Send,
        score: impl Fn(&mut W, usize, &Window) -> (Vec<TokenScore>, T) + Sync + Send,
    ) -> Result<(Vec<TokenScore>, Vec<T>)> {
        progress.start(self.count, self.context);
        let tally = Mutex::new(Tally { done: 0, nll: 0.0, tokens: 0 });
        let not_finite = AtomicUsize::new(usize::MAX);
        let idle = Pool { workspaces: Mutex::default() };
        let windows: Vec<Option<(Vec<TokenScore>, T)>> = (0..self.count)
            .into_par_iter()
            .with_max_len(1)
            .map(|index| {
                if not_finite.load(Relaxed) < index {
                    return None;
                }
                let mut own = idle.take().unwrap_or_else(&workspace);
                let (scores, beside) = score(&mut own, index, &self.window(index));
                idle.put(own);
                if !scores.iter().all(TokenScore::is_finite) {
                    not_finite.fetch_min(index, Relaxed);
                    return None;
                }
                progress.window(Tally::add(&tally, &scores, self.count));
                Some((scores, beside))
            })
            .collect();
        match not_finite.into_inner() {
            usize::MAX => {
                let (scores, beside): (Vec<_>, Vec<T>) = windows.into_iter().flatten().unzip();
                Ok((scores.concat(), beside))
            }
            window => Err(Error::NotFinite { window }),
        }
    }

    fn window(&self, index: usize) -> Window {
        Window { tokens: self.corpus.window(index, self.context) }
    }
}

impl Window {
    /// The first scored position: what comes before is only context.
    fn first_scored(&self) -> usize {
        self.tokens.len() / 2
    }

    /// What a model has to see: the last token is only ever predicted.
    pub(crate) fn inputs(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - 1]
    }

    /// The input positions whose prediction is scored.
    pub(crate) fn scored(&self) -> Range<usize> {
        self.first_scored()..self.tokens.len() - 1
    }

    /// The true token after each scored position.
    pub(crate) fn targets(&self) -> &[u32] {
        &self.tokens[self.first_scored() + 1..]
    }
}

/// Workspaces that no thread uses just now: there are never more than threads.
struct Pool<W> {
    workspaces: Mutex<Vec<W>>,
}

impl<W> Pool<W> {
    fn take(&self) -> Option<W> {
        self.lock().pop()
    }

    fn put(&self, workspace: W) {
        self.lock().push(workspace);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<W>> {
        // A thread that panicked elsewhere leaves the list whole.
        self.workspaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running figures.
struct Tally {
    done: usize,
    nll: f64,
    tokens: usize,
}

impl Tally {
    fn add(tally: &Mutex<Tally>, scores: &[TokenScore], windows: usize) -> Running {
        // A thread that panicked elsewhere does not spoil a sum.
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.done += 1;
        tally.tokens += scores.len();
        tally.nll += statistics::total_nll(scores);
        let perplexity = (tally.nll / tally.tokens as f64).exp();
        Running { done: tally.done, windows, perplexity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_is_scored() {
        let window = Window { tokens: (0..512).collect() };
        assert_eq!(window.scored(), 256..511);
        assert_eq!((window.targets().first(), window.targets().len()), (Some(&257), 255));
        let odd = Window { tokens: (0..3).collect() };
        assert_eq!((odd.inputs(), odd.scored(), odd.targets()), (&[0, 1][..], 1..2, &[2][..]));
    }
}
