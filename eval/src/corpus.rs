//! A tokenized text, ready to be cut into windows.

use crate::Tokenizer;

/// A tokenized text, and what every window of it starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    tokens: Vec<u32>,
    window_start: Option<u32>,
}

impl Corpus {
    /// Tokenizes the whole of `text` at once, with BOS in front and EOS behind where the vocabulary
    /// asks for them.
    pub fn tokenize(tokenizer: &Tokenizer, text: &str) -> Corpus {
        let mut tokens: Vec<u32> = tokenizer.text_start().into_iter().collect();
        tokens.extend(tokenizer.encode(text));
        tokens.extend(tokenizer.text_end());
        Corpus { tokens, window_start: tokenizer.text_start() }
    }

    /// The tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many whole windows of `context` tokens the text has.
    pub fn windows(&self, context: usize) -> usize {
        self.tokens.len().checked_div(context).unwrap_or(0)
    }

    /// The first `windows` windows of `context` tokens, or all where there are fewer.
    pub fn first(&self, context: usize, windows: usize) -> Corpus {
        let tokens = self.windows(context).min(windows) * context;
        Corpus { tokens: self.tokens[..tokens].to_vec(), window_start: self.window_start }
    }

    /// Deals the whole windows of `context` tokens out to two texts: `windows` of them, spread over
    /// this text, and all others.
    pub fn deal(&self, context: usize, windows: usize) -> (Corpus, Corpus) {
        let whole = self.windows(context);
        let dealt = windows.min(whole);
        let [mut first, mut second] =
            [(); 2].map(|()| Corpus { tokens: Vec::new(), window_start: self.window_start });
        for window in 0..whole {
            let is_first = (window + 1) * dealt / whole > window * dealt / whole;
            let to = if is_first { &mut first } else { &mut second };
            to.tokens.extend(&self.tokens[window * context..(window + 1) * context]);
        }
        (first, second)
    }

    /// The token that replaces the first of every window, where the vocabulary asks for one.
    pub(crate) fn window_start(&self) -> Option<u32> {
        self.window_start
    }

    /// Window `index` of `context` tokens: the text's own tokens, the first replaced by BOS where
    /// the vocabulary asks for it.
    pub(crate) fn window(&self, index: usize, context: usize) -> Vec<u32> {
        let mut window = self.tokens[index * context..(index + 1) * context].to_vec();
        if let Some(start) = self.window_start {
            window[0] = start;
        }
        window
    }
}

#[cfg(test)]
impl Corpus {
    /// These tokens, with nothing in front of a window.
    pub(crate) fn of(tokens: Vec<u32>) -> Corpus {
        Corpus { tokens, window_start: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_is_dealt_once() {
        let corpus = Corpus::of((0..23).collect());
        let (first, second) = corpus.deal(2, 3);
        assert_eq!(first.tokens, [6, 7, 14, 15, 20, 21]);
        assert_eq!(second.tokens, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 16, 17, 18, 19]);
        assert_eq!(corpus.deal(2, 99).0.tokens, corpus.tokens[..22]);
        assert!(corpus.deal(24, 1).0.tokens.is_empty());
    }
}
