//! Files as they are, or compressed by gzip or Zstandard, told by their first bytes.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTANDARD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A frame to pass over, as parallel compressors write one first, begins with 0x50 to 0x5f and
/// this.
const SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];

/// What any compressed file may hold, in bytes.
const LEAST_LIMIT: u64 = 32 << 20;

/// How many times its size a larger one may: text becomes five times smaller, seldom twenty.
const MOST_RATIO: u64 = 64;

pub(super) fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let file = File::open(path)?;
    let left = file.metadata()?.len().saturating_mul(MOST_RATIO).max(LEAST_LIMIT);
    let mut file = BufReader::with_capacity(1 << 16, file);
    let start = file.fill_buf()?;
    if start.starts_with(GZIP) {
        let inner = MultiGzDecoder::new(file);
        Ok(Box::new(BufReader::new(Inflated { inner, left })))
    } else if is_zstandard(start) {
        let inner = Zstandard::new(file);
        Ok(Box::new(BufReader::new(Inflated { inner, left })))
    } else {
        Ok(Box::new(file))
    }
}

/// What comes out of a compressed file: an error where it is more than any text becomes.
struct Inflated<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Inflated<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        let left = self.left.checked_sub(read as u64);
        self.left = left.ok_or_else(|| {
            let problem = format!("more than {MOST_RATIO} times its size when inflated: no text");
            io::Error::new(io::ErrorKind::InvalidData, problem)
        })?;
        Ok(read)
    }
}

fn is_zstandard(start: &[u8]) -> bool {
    let skippable = |(&first, rest): (&u8, &[u8])| first >> 4 == 5 && rest.starts_with(SKIPPABLE);
    start.starts_with(ZSTANDARD) || start.split_first().is_some_and(skippable)
}

/// All frames of a Zstandard file, one after the other (RFC 8878).
struct Zstandard<R> {
    source: R,
    decoder: FrameDecoder,
    frame: Frame,
}

#[derive(PartialEq, Eq)]
enum Frame {
    Open,
    Closed,
}

impl<R: BufRead> Zstandard<R> {
    fn new(source: R) -> Zstandard<R> {
        Zstandard { source, decoder: FrameDecoder::new(), frame: Frame::Closed }
    }

    /// Opens the next frame that holds data; `Closed` at the end of the file.
    fn open_frame(&mut self) -> io::Result<()> {
        while self.frame == Frame::Closed && !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => self.frame = Frame::Open,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = (&mut self.source).take(u64::from(length));
                    if io::copy(&mut skipped, &mut io::sink())? < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(())
    }

    fn close_frame(&mut self) -> io::Result<()> {
        self.frame = Frame::Closed;
        let stated = self.decoder.get_checksum_from_data();
        if stated.is_some() && stated != self.decoder.get_calculated_checksum() {
            let wrong = "Zstandard: the checksum is another";
            return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Zstandard<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            self.open_frame()?;
            if self.frame == Frame::Closed || out.is_empty() {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
            }
            match self.decoder.read(out)? {
                0 => self.close_frame()?,
                read => return Ok(read),
            }
        }
    }
}
