//! The field's file of logits: what a base model predicted on a text, so that others can be
//! compared with it where it is not at hand.
//!
//! Numbers are little endian. `_logits_`; tokens per window (u32), vocabulary size, number of
//! windows, and the tokens of all windows as they are in the text (i32); then a row of u16 per
//! scored token: a scale and the least log-probability (f32 each), a code per token of the
//! vocabulary, and one more where that makes their number even. The log-probability of a token is
//! scale × code + least, and least is at most 16 nats below the largest.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::{
    Error,
    error::Result,
    windows::{Windows, scored_positions},
};

const MAGIC: &[u8; 8] = b"_logits_";

/// The magic and three numbers.
const HEAD_BYTES: usize = 20;

/// An open file of logits. Its rows are read when they are needed; the tokens are kept, 4 bytes
/// each.
#[derive(Debug)]
pub struct LogitsFile {
    path: PathBuf,
    file: File,
    context: usize,
    vocabulary_size: usize,
    windows: usize,
    tokens: Vec<u32>,
}

impl LogitsFile {
    /// Opens the file and reads all but its rows.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is none of logits, or has another length than its numbers
    /// demand.
    pub fn open(path: &Path) -> Result<LogitsFile> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let wrong = |what: &str, expected: String, found: String| Error::LogitsFile {
            path: path.to_owned(),
            what: what.to_owned(),
            expected,
            found,
        };
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        if length < HEAD_BYTES as u64 {
            return Err(wrong("length", format!("{HEAD_BYTES} bytes or more"), length.to_string()));
        }
        let mut head = [0; HEAD_BYTES];
        file.read_exact(&mut head).map_err(failed)?;
        if !head.starts_with(MAGIC) {
            let found = head[..MAGIC.len()].escape_ascii().to_string();
            return Err(wrong("first bytes", "_logits_".to_owned(), found));
        }
        let number = |index: usize| {
            let start = MAGIC.len() + 4 * index;
            u32::from_le_bytes(std::array::from_fn(|byte| head[start + byte]))
        };
        let [context, vocabulary_size, windows] = [0, 1, 2].map(number);
        let expected = file_bytes(context, vocabulary_size, windows);
        if expected != Some(length) {
            let numbers = format!(
                "{windows} windows of {context} tokens, {vocabulary_size} in the vocabulary"
            );
            let expected = match expected {
                Some(bytes) => format!("{bytes} bytes for {numbers}"),
                None => format!("no such numbers as {numbers}"),
            };
            return Err(wrong("length", expected, format!("{length} bytes")));
        }
        // No more than the file has, as its length is right.
        let mut tokens = vec![0; context as usize * windows as usize * 4];
        file.read_exact(&mut tokens).map_err(failed)?;
        let (tokens, _) = tokens.as_chunks::<4>();
        Ok(LogitsFile {
            path: path.to_owned(),
            file,
            context: context as usize,
            vocabulary_size: vocabulary_size as usize,
            windows: windows as usize,
            tokens: tokens.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect(),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tokens per window.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Windows in the file.
    pub fn windows(&self) -> usize {
        self.windows
    }

    /// Checks that the file is about these windows, or more of the same text, and this vocabulary.
    pub(crate) fn check(&self, windows: &Windows<'_>, vocabulary_size: usize) -> Result<()> {
        let differs = |what: &str, expected: String, found: String| {
            let (path, what) = (self.path.clone(), what.to_owned());
            Err(Error::LogitsFile { path, what, expected, found })
        };
        let same = |what, expected: usize, found: usize| match expected == found {
            true => Ok(()),
            false => differs(what, expected.to_string(), found.to_string()),
        };
        same("size of the vocabulary", vocabulary_size, self.vocabulary_size)?;
        same("tokens per window", windows.context(), self.context)?;
        if windows.count() > self.windows {
            let expected = format!("{} or more", windows.count());
            return differs("windows", expected, self.windows.to_string());
        }
        let pairs = windows.tokens().iter().zip(&self.tokens);
        match pairs.enumerate().find(|(_, (expected, found))| expected != found) {
            None => Ok(()),
            Some((index, (expected, found))) => {
                let what = format!("token {index} of the text");
                differs(&what, expected.to_string(), found.to_string())
            }
        }
    }

    /// Reads `count` rows from row `first` on.
    pub(crate) fn rows(&self, first: usize, count: usize) -> Result<Rows> {
        let row_bytes = row_bytes(self.vocabulary_size);
        let mut bytes = vec![0; row_bytes * count];
        let start = HEAD_BYTES + 4 * self.tokens.len() + row_bytes * first;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(start as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| Error::Io { path: self.path.clone(), source })?;
        let rows = Rows { bytes, row_bytes, vocabulary_size: self.vocabulary_size };
        match (0..count).find(|&row| !rows.row(row).is_valid()) {
            None => Ok(rows),
            Some(row) => Err(Error::LogitsFile {
                path: self.path.clone(),
                what: format!("row {}", first + row),
                expected: "a finite scale of 0 or more and a finite log-probability".to_owned(),
                found: format!("{} and {}", rows.row(row).scale, rows.row(row).least),
            }),
        }
    }
}

/// Bytes of a row.
fn row_bytes(vocabulary_size: usize) -> usize {
    ROW_HEAD + 2 * vocabulary_size.next_multiple_of(2)
}

/// Scale, and the least log-probability.
const ROW_HEAD: usize = 8;

/// Bytes of a whole file; `None` where its numbers cannot be, or not be indexed here.
fn file_bytes(context: u32, vocabulary_size: u32, windows: u32) -> Option<u64> {
    let is_number = |number: u32| number > 0 && i32::try_from(number).is_ok();
    if ![context, vocabulary_size, windows].into_iter().all(is_number) {
        return None;
    }
    let rows = u64::from(windows).checked_mul(scored_positions(context as usize).len() as u64)?;
    let tokens = u64::from(windows).checked_mul(u64::from(context))?.checked_mul(4)?;
    let rows = rows.checked_mul(row_bytes(vocabulary_size as usize) as u64)?;
    let bytes = rows.checked_add(tokens)?.checked_add(HEAD_BYTES as u64)?;
    usize::try_from(bytes).is_ok().then_some(bytes)
}

/// Some rows of a file.
pub(crate) struct Rows {
    bytes: Vec<u8>,
    row_bytes: usize,
    vocabulary_size: usize,
}

impl Rows {
    pub(crate) fn row(&self, index: usize) -> Row<'_> {
        let (head, codes) =
            self.bytes[index * self.row_bytes..][..self.row_bytes].split_at(ROW_HEAD);
        let (head, _) = head.as_chunks::<4>();
        let [scale, least] = [0, 1].map(|place: usize| f32::from_le_bytes(head[place]));
        let (codes, _) = codes.as_chunks::<2>();
        Row { scale, least, codes: &codes[..self.vocabulary_size] }
    }
}

/// The log-probabilities of one prediction.
pub(crate) struct Row<'a> {
    scale: f32,
    least: f32,
    codes: &'a [[u8; 2]],
}

impl Row<'_> {
    fn is_valid(&self) -> bool {
        self.scale.is_finite() && self.scale >= 0.0 && self.least.is_finite()
    }

    /// The log-probability of every token.
    pub(crate) fn log_probabilities(&self) -> impl ExactSizeIterator<Item = f32> {
        self.codes.iter().map(|&code| self.scale * f32::from(u16::from_le_bytes(code)) + self.least)
    }
}

/// Writes all that comes before the rows.
pub(crate) fn write_head(
    out: &mut dyn Write,
    windows: &Windows<'_>,
    vocabulary_size: usize,
) -> io::Result<()> {
    out.write_all(MAGIC)?;
    for number in [windows.context(), vocabulary_size, windows.count()] {
        let number = i32::try_from(number)
            .map_err(|_| io::Error::other(format!("{number} is too large for a file of logits")))?;
        out.write_all(&number.to_le_bytes())?;
    }
    windows.tokens().iter().try_for_each(|token| out.write_all(&token.to_le_bytes()))
}

/// A row for these logits of all tokens, whose largest is `max` and which have `log_sum` as
/// logarithm of the sum of all `e^(logit - max)`.
pub(crate) fn encode_row<'a>(
    logits: impl Iterator<Item = &'a f32> + Clone,
    max: f32,
    log_sum: f64,
) -> Vec<u8> {
    /// Nats below the largest that are told apart.
    const DEPTH: f32 = 16.0;
    let min = logits.clone().copied().fold(max, f32::min).max(max - DEPTH);
    let scale = (max - min) / f32::from(u16::MAX);
    let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
    let least = min - max - log_sum as f32;
    let mut row = [scale, least].map(f32::to_le_bytes).concat();
    for &logit in logits {
        // The cast stops at the largest code.
        let code = (inverse * (logit - min)).round_ties_even() as u16;
        row.extend(code.to_le_bytes());
    }
    row.resize(row.len().next_multiple_of(4), 0);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: Vec<u8>, vocabulary_size: usize) -> Vec<f32> {
        assert_eq!(bytes.len(), row_bytes(vocabulary_size));
        let rows = Rows { row_bytes: bytes.len(), bytes, vocabulary_size };
        rows.row(0).log_probabilities().collect()
    }

    /// By hand: the scale is 16 / 65535, the largest has code 65535, what is 16 below or more has 0.
    #[test]
    fn a_row_is_as_the_format_says() {
        let logits = [1.0, -3.0, -100.0];
        let sum = 1.0 + (-4f64).exp();
        let row = encode_row(logits.iter(), 1.0, sum.ln());
        let expected = [
            &(16.0f32 / 65535.0).to_le_bytes()[..],
            &(-16.0 - sum.ln() as f32).to_le_bytes(),
            &65535u16.to_le_bytes(),
            &49151u16.to_le_bytes(), // ¾ of 65535 is 49151.25
            &[0, 0, 0, 0],
        ];
        assert_eq!(row, expected.concat());
        let found = decoded(row, 3);
        for (found, logit) in found.iter().zip([1.0, -3.0, -15.0]) {
            let expected = logit - 1.0 - sum.ln() as f32;
            assert!((found - expected).abs() < 1.3e-4, "{found} for {expected}");
        }
    }

    #[test]
    fn equal_logits_have_no_scale() {
        let row = encode_row([2.5f32; 4].iter(), 2.5, 4f64.ln());
        assert_eq!(decoded(row, 4), [-(4f64.ln() as f32); 4]);
    }

    #[test]
    fn impossible_numbers_have_no_length() {
        assert_eq!(file_bytes(512, 32000, 2), Some(20 + 2 * (4 * 512 + 255 * (64000 + 8))));
        assert_eq!(file_bytes(4, 3, 1), Some(20 + 16 + 16));
        for numbers in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (u32::MAX, 1, 1)] {
            assert_eq!(file_bytes(numbers.0, numbers.1, numbers.2), None, "{numbers:?}");
        }
        assert_eq!(file_bytes(1 << 30, 1 << 30, 1 << 30), None);
    }
}
