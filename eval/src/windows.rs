//! The windows of a corpus that are evaluated, and running over them in passes.

use std::ops::Range;

use crate::{
    Corpus, Error, Options, Progress, Running,
    error::Result,
    statistics::{self, TokenScore},
};

/// The shortest window with a scored token.
pub const LEAST_CONTEXT: usize = 3;

/// Tokens that pass through the model together at the most, where windows are not longer. Weights
/// are unpacked once for all of them, and what takes memory grows with them.
pub(crate) const PASS_TOKENS: usize = 2048;

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

    /// Scores the windows in passes of as equal numbers as can be, and gathers the scores in the
    /// order of the text. `score` gets the windows of a pass and the index of the first.
    pub(crate) fn run(
        &self,
        progress: &dyn Progress,
        mut score: impl FnMut(usize, &[Window]) -> Result<Vec<TokenScore>> + Send,
    ) -> Result<Vec<TokenScore>> {
        let mut tally = Tally { nll: 0.0, tokens: 0 };
        let mut scores = Vec::new();
        self.for_each_pass(progress, |pass, windows| {
            let scored = windows[0].scored().len();
            scores.extend(score(pass.start, windows)?);
            pass.map(|window| {
                let own = &scores[window * scored..][..scored];
                match own.iter().all(TokenScore::is_finite) {
                    true => Ok(Some(tally.add(own))),
                    false => Err(Error::NotFinite { window }),
                }
            })
            .collect()
        })?;
        Ok(scores)
    }

    /// Hands the windows to `work` in passes, with their indices, in the order of the text. It gives
    /// for each window the perplexity so far, if it knows one.
    pub(crate) fn for_each_pass(
        &self,
        progress: &dyn Progress,
        mut work: impl FnMut(Range<usize>, &[Window]) -> Result<Vec<Option<f64>>> + Send,
    ) -> Result<()> {
        progress.start(self.count, self.context);
        let mut done = 0;
        for pass in self.passes() {
            let windows: Vec<Window> = pass.clone().map(|index| self.window(index)).collect();
            // On a thread of the pool, so that the many small steps need no waking of one.
            for perplexity in rayon::scope(|_| work(pass, &windows))? {
                done += 1;
                progress.window(Running { done, windows: self.count, perplexity });
            }
        }
        Ok(())
    }

    fn passes(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let count = self.count;
        let most = (PASS_TOKENS / self.context).max(1);
        let passes = count.div_ceil(most);
        let start = move |pass| pass * (count / passes) + (count % passes).min(pass);
        (0..passes).map(move |pass| start(pass)..start(pass + 1))
    }

    fn window(&self, index: usize) -> Window {
        Window { tokens: self.corpus.window(index, self.context) }
    }
}

impl Window {
    /// All tokens.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What a model has to see: the last token is only ever predicted.
    pub(crate) fn inputs(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - 1]
    }

    /// The input positions whose prediction is scored.
    pub(crate) fn scored(&self) -> Range<usize> {
        scored_positions(self.tokens.len())
    }

    /// The true token after each scored position.
    pub(crate) fn targets(&self) -> &[u32] {
        &self.tokens[self.scored().start + 1..]
    }
}

/// The input positions of a window of `context` tokens whose prediction is scored: what comes before
/// is only context.
pub(crate) fn scored_positions(context: usize) -> Range<usize> {
    context / 2..context.saturating_sub(1)
}

/// The running figures.
struct Tally {
    nll: f64,
    tokens: usize,
}

impl Tally {
    /// The perplexity so far.
    fn add(&mut self, scores: &[TokenScore]) -> f64 {
        self.tokens += scores.len();
        self.nll += statistics::total_nll(scores);
        (self.nll / self.tokens as f64).exp()
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

    #[test]
    fn passes_are_even_and_bounded() {
        let corpus = Corpus::of(vec![0; 40960]);
        for (context, count, expected) in [
            (512, 1, &[1][..]),
            (512, 5, &[3, 2]),
            (512, 9, &[3, 3, 3]),
            (1000, 5, &[2, 2, 1]),
            (4096, 2, &[1, 1]),
            (24, 40, &[40]),
        ] {
            let options = Options { context, chunks: Some(count), ..Options::default() };
            let passes: Vec<_> = Windows::plan(&corpus, &options).unwrap().passes().collect();
            let sizes: Vec<usize> = passes.iter().map(Range::len).collect();
            assert_eq!(sizes, expected, "{count} of {context}");
            assert!(passes[0].start == 0 && passes.is_sorted_by(|a, b| a.end == b.start));
        }
    }
}
