//! Opening the files of a split model, `…-0000I-of-0000N.gguf`, and checking that they belong
//! together.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    Header, container,
    error::{Error, Quoted, Result},
    map::Bytes,
    model::Shard,
};

pub(crate) const NUMBER: &str = "split.no";
pub(crate) const COUNT: &str = "split.count";
pub(crate) const TENSORS: &str = "split.tensors.count";
const ARCHITECTURE: &str = "general.architecture";

/// Opens the model that the file at `path` is or is part of: its first header with the tensors of
/// all files, and the files.
pub(crate) fn open(path: &Path) -> Result<(Header, Vec<Shard>)> {
    match ShardName::parse(path) {
        Some(name) if name.count > 1 => open_all(&name),
        _ => open_single(path, Bytes::map(path)?),
    }
}

/// A model that is whole in one file.
pub(crate) fn open_single(path: &Path, bytes: Bytes) -> Result<(Header, Vec<Shard>)> {
    let (entry, bytes) = match container::find_model(&bytes, path)? {
        Some((name, range)) => (Some(name), bytes.only(range)),
        None => (None, bytes),
    };
    // Not `join`: an entry may call itself `/etc/passwd`.
    let inside = entry.as_ref().map(|entry| PathBuf::from(format!("{}/{entry}", path.display())));
    let mut header = Header::parse(&bytes, inside.as_deref().unwrap_or(path))?;
    // A model whose parts were merged may say that it has 0 or 1 of them.
    if let Some(count) = optional_count(&header, path, COUNT)?.filter(|&count| count > 1) {
        return Err(Error::Shard {
            path: path.to_owned(),
            expected: format!("a name that ends with -00001-of-{count:05}.gguf or the like"),
            found: "another".to_owned(),
        });
    }
    remove_split_keys(&mut header);
    let data_start = header.data_start;
    Ok((header, vec![Shard { path: path.to_owned(), entry, bytes, data_start }]))
}

fn open_all(name: &ShardName) -> Result<(Header, Vec<Shard>)> {
    let (mut model, first) = open_shard(name, 1)?;
    let expected = count(&model, &first.path, TENSORS)?;
    let mut shards = vec![first];
    for number in 2..=name.count {
        let (mut header, shard) = open_shard(name, number)?;
        check_belongs(&header, &model, expected, &shard.path)?;
        for tensor in &mut header.tensors {
            tensor.shard = shards.len();
        }
        model.tensors.append(&mut header.tensors);
        shards.push(shard);
    }
    let found = model.tensors.len() as u64;
    if found != expected {
        return Err(Error::ShardTensors { path: shards.swap_remove(0).path, expected, found });
    }
    remove_split_keys(&mut model);
    Ok((model, shards))
}

/// Opens part `number`, from 1, and checks that it says so itself.
fn open_shard(name: &ShardName, number: u64) -> Result<(Header, Shard)> {
    let path = name.path(number);
    let bytes = match Bytes::map(&path) {
        Err(Error::Io { path, source }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(Error::MissingShard { path, number, count: name.count });
        }
        other => other?,
    };
    let header = Header::parse(&bytes, &path)?;
    check_number(&header, &path, NUMBER, number - 1)?;
    check_number(&header, &path, COUNT, name.count)?;
    let data_start = header.data_start;
    Ok((header, Shard { path, entry: None, bytes, data_start }))
}

fn check_belongs(header: &Header, first: &Header, tensors: u64, path: &Path) -> Result<()> {
    if header.endian != first.endian {
        return Err(Error::Shard {
            path: path.to_owned(),
            expected: format!("byte order {:?} as in the first part", first.endian),
            found: format!("{:?}", header.endian),
        });
    }
    if header.metadata.contains(TENSORS) {
        check_number(header, path, TENSORS, tensors)?;
    }
    let architecture = |header: &Header| header.metadata.string(ARCHITECTURE).ok().map(quoted);
    match (architecture(first), architecture(header)) {
        (Some(expected), Some(found)) if expected != found => Err(Error::Shard {
            path: path.to_owned(),
            expected: format!("{ARCHITECTURE} {expected} as in the first part"),
            found,
        }),
        _ => Ok(()),
    }
}

fn quoted(name: &str) -> String {
    Quoted(name).to_string()
}

fn check_number(header: &Header, path: &Path, key: &str, expected: u64) -> Result<()> {
    let found = count(header, path, key)?;
    if found == expected {
        return Ok(());
    }
    Err(Error::Shard {
        path: path.to_owned(),
        expected: format!("{key} {expected}"),
        found: found.to_string(),
    })
}

fn count(header: &Header, path: &Path, key: &str) -> Result<u64> {
    header.metadata.count(key).map_err(|error| Error::Shard {
        path: path.to_owned(),
        expected: format!("a count {key}"),
        found: match error {
            Error::MissingKey { .. } => "none".to_owned(),
            other => other.to_string(),
        },
    })
}

fn optional_count(header: &Header, path: &Path, key: &str) -> Result<Option<u64>> {
    header.metadata.contains(key).then(|| count(header, path, key)).transpose()
}

fn remove_split_keys(header: &mut Header) {
    for key in [NUMBER, COUNT, TENSORS] {
        header.metadata.remove(key);
    }
}

/// A path `STEM-0000I-of-0000N.gguf`.
pub(crate) struct ShardName {
    folder: PathBuf,
    stem: String,
    pub(crate) count: u64,
}

impl ShardName {
    pub(crate) fn parse(path: &Path) -> Option<ShardName> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (name, count) = name.rsplit_once("-of-")?;
        let (stem, number) = name.rsplit_once('-')?;
        let (number, count) = (five_digits(number)?, five_digits(count)?);
        if !(1..=count).contains(&number) {
            return None;
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Some(ShardName { folder, stem: stem.to_owned(), count })
    }

    /// The name that parts get of a model that would be `path` as one file.
    pub(crate) fn of_whole(path: &Path) -> ShardName {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.strip_suffix(".gguf").unwrap_or(&name).to_owned();
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        ShardName { folder, stem, count: 1 }
    }

    /// The path of part `number`, from 1.
    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count))
    }
}

fn five_digits(text: &str) -> Option<u64> {
    let digits = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_are_recognised() {
        let name = ShardName::parse(Path::new("models/a-b-00002-of-00003.gguf")).unwrap();
        assert_eq!(name.path(3), Path::new("models/a-b-00003-of-00003.gguf"));
        for other in [
            "a.gguf",
            "a-00000-of-00003.gguf",
            "a-00004-of-00003.gguf",
            "a-1-of-3.gguf",
            "a-00001-of-00003.bin",
            "a-+0001-of-00003.gguf",
        ] {
            assert!(ShardName::parse(Path::new(other)).is_none(), "{other}");
        }
    }
}
