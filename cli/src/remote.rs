//! Models on web servers, of which only what is wanted is fetched: into sparse files of the same
//! lengths, which are then opened as any other.

mod ranges;

use std::{
    fs::{File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use llq_gguf::{Header, Model, TensorInfo};

use self::ranges::RangeClient;
use crate::{failure::Refusal, interrupt::TemporaryFolder, output::Output, progress::Unit};

/// What is fetched first of a file. Headers take less, unless their vocabulary is large.
const FIRST_BYTES: u64 = 256 << 10;

/// How much more is asked for each time that it was too little.
const GROWTH: u64 = 4;

/// The most that is fetched of all headers of a model.
const MOST_BYTES: u64 = 256 << 20;

/// A model whose headers are here.
pub(crate) struct RemoteModel {
    client: RangeClient,
    urls: Vec<String>,
    folder: TemporaryFolder,
}

/// The address that the user gave in place of a file.
pub(crate) fn url(argument: &Path) -> Option<&str> {
    let text = argument.to_str()?;
    let (scheme, _) = text.split_once("://")?;
    ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)).then_some(text)
}

impl RemoteModel {
    /// Fetches the header of the file at `url`, and those of all other parts of a split model.
    pub(crate) fn fetch(url: &str) -> anyhow::Result<RemoteModel> {
        let mut fetcher = Fetcher { client: RangeClient::new(), left: MOST_BYTES };
        let url = file_behind_page(url);
        let mut given = Some(fetcher.front(&url)?);
        let urls = given.as_ref().and_then(|front| front.part_urls(&url));
        let urls = urls.unwrap_or_else(|| vec![url.clone()]);
        let folder = TemporaryFolder::new().context("cannot create a temporary folder")?;
        for (part, of_part) in urls.iter().enumerate() {
            let front = match given.take_if(|_| *of_part == url) {
                Some(front) => front,
                None => fetcher.front(of_part)?,
            };
            front.lay_down(&folder.path().join(part_name(part, urls.len())))?;
        }
        Ok(RemoteModel { client: fetcher.client, urls, folder })
    }

    /// The file here that stands for the model; of tensors it holds what was fetched.
    pub(crate) fn path(&self) -> PathBuf {
        self.part(0)
    }

    fn part(&self, part: usize) -> PathBuf {
        self.folder.path().join(part_name(part, self.urls.len()))
    }

    /// Fetches the bytes of one of the model's tensors.
    pub(crate) fn fetch_tensor(
        &self,
        model: &Model,
        tensor: &TensorInfo,
        output: &Output,
    ) -> anyhow::Result<()> {
        let url = &self.urls[tensor.shard];
        let start = model.data_offset(tensor);
        let mut file = OpenOptions::new().write(true).open(self.part(tensor.shard))?;
        file.seek(SeekFrom::Start(start))?;
        let progress = output.progress("fetching", tensor.bytes, Unit::Bytes);
        let range = self.client.range(url, start, tensor.bytes)?;
        range.copy_to(&mut file, |bytes| progress.advance(bytes))
    }
}

/// The first bytes of a file, its whole header among them.
struct Front {
    bytes: Vec<u8>,
    file_bytes: u64,
    header: Header,
}

struct Fetcher {
    client: RangeClient,
    /// Bytes that headers may still take.
    left: u64,
}

impl Fetcher {
    /// Fetches the first bytes of a file, and more of them until its header is whole.
    fn front(&mut self, url: &str) -> anyhow::Result<Front> {
        let mut bytes = Vec::new();
        let mut wanted = FIRST_BYTES;
        loop {
            let start = bytes.len() as u64;
            let range = self.client.range(url, start, wanted - start)?;
            let file_bytes = range.file_bytes;
            range.copy_to(&mut bytes, |_| ())?;
            self.left = self.left.saturating_sub(bytes.len() as u64 - start);
            if let Some(header) = Header::parse_front(&bytes, file_bytes, Path::new(url))? {
                return Ok(Front { bytes, file_bytes, header });
            }
            if self.left == 0 {
                let most = MOST_BYTES >> 20;
                return Err(Refusal::new(format!("{url}: headers take over {most} MiB")).into());
            }
            wanted *= GROWTH;
        }
    }
}

impl Front {
    /// Where all parts of a split model are, this one among them.
    fn part_urls(&self, url: &str) -> Option<Vec<String>> {
        let count = self.header.metadata.count("split.count").ok().filter(|&count| count > 1)?;
        let number = self.header.metadata.count("split.no").ok()?.checked_add(1)?;
        let (before, after) = url.rsplit_once(&part_suffix(number, count))?;
        let part = |number| format!("{before}{}{after}", part_suffix(number, count));
        Some((1..=count.min(MOST_PARTS)).map(part).collect())
    }

    /// Makes a file of the same length that begins with them, and takes no more room than they do.
    fn lay_down(&self, path: &Path) -> anyhow::Result<()> {
        let written = File::create_new(path).and_then(|mut file| {
            file.write_all(&self.bytes)?;
            file.set_len(self.file_bytes)
        });
        let length = self.file_bytes;
        written.with_context(|| format!("{}: cannot stand for {length} bytes", path.display()))
    }
}

/// Five digits count no more.
const MOST_PARTS: u64 = 99_999;

/// The name here of a part of `count`, from 0.
fn part_name(part: usize, count: usize) -> String {
    match count {
        1 => "model.gguf".to_owned(),
        _ => format!("model{}", part_suffix(part as u64 + 1, count as u64)),
    }
}

/// How the name of part `number` of `count` ends, from 1.
fn part_suffix(number: u64, count: u64) -> String {
    format!("-{number:05}-of-{count:05}.gguf")
}

/// The file that a page of the Hugging Face hub shows.
fn file_behind_page(url: &str) -> String {
    match url.split_once("://huggingface.co/") {
        Some((scheme, path)) => {
            let path = path.replacen("/blob/", "/resolve/", 1);
            format!("{scheme}://huggingface.co/{path}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_the_hub_are_their_files() {
        let page = "https://huggingface.co/org/model/blob/main/model.gguf";
        let file = "https://huggingface.co/org/model/resolve/main/model.gguf";
        assert_eq!(file_behind_page(page), file);
        assert_eq!(file_behind_page(file), file);
        let other = "https://example.com/blob/model.gguf";
        assert_eq!(file_behind_page(other), other);
    }

    #[test]
    fn only_addresses_are_fetched() {
        assert_eq!(url(Path::new("HTTPS://example.com/a")), Some("HTTPS://example.com/a"));
        for other in ["a.gguf", "ftp://example.com/a", "https:/a", "C:/http"] {
            assert_eq!(url(Path::new(other)), None, "{other}");
        }
    }
}
