//! Which files a set of weights consists of: what an index says, or what the names of shards say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Component, Path},
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::InputFile;
use crate::{Error, error::Result};

/// Size limit of an index in bytes; those of a hundred thousand tensors have nine million.
const MAX_INDEX: u64 = 32 << 20;

/// The most tensors of an index: a few bytes of it become two hundred in memory.
const MAX_TENSORS: usize = 1 << 18;

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Which file each tensor is in.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tensors and their files")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<WeightMap, A::Error> {
                let mut files = BTreeMap::new();
                while let Some((tensor, file)) = map.next_entry()? {
                    files.insert(tensor, file);
                    if files.len() > MAX_TENSORS {
                        let problem = format_args!("more than {MAX_TENSORS} tensors");
                        return Err(A::Error::custom(problem));
                    }
                }
                Ok(WeightMap(files))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The files that `index` names and the tensors that it promises of each. All are there, beside
/// the index.
pub(super) fn promised_tensors(index: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let json = InputFile::read_small(index, MAX_INDEX)?;
    let Index { weight_map: WeightMap(weight_map) } = serde_json::from_slice(&json)
        .map_err(|source| Error::Json { path: index.to_path_buf(), source })?;
    let fail = |problem| Error::Shards { path: index.to_path_buf(), problem };
    if weight_map.is_empty() {
        return Err(fail("weight_map names no tensor".to_owned()));
    }
    let mut promised: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in weight_map {
        if !is_plain_file_name(&file) {
            let problem = format!("tensor {tensor:?} is said to be in {file:?}");
            return Err(fail(problem + ", which is no file name of this folder"));
        }
        promised.entry(file).or_default().push(tensor);
    }
    let folder = index.parent().unwrap_or(Path::new(""));
    let absent: Vec<&str> =
        promised.keys().filter(|file| !folder.join(file).exists()).map(String::as_str).collect();
    if !absent.is_empty() {
        let looked_for = format!("{}, which {} names", absent.join(", "), file_name(index));
        return Err(Error::MissingFile { folder: folder.to_path_buf(), looked_for });
    }
    Ok(promised)
}

/// The last part of a path, for a message.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether `name` stays in its folder.
pub(crate) fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}

/// Of the file `names` of `folder` those that are `{stem}-NNNNN-of-MMMMM{extension}`, in order. They
/// must be all M of one set.
pub(super) fn shard_names(
    folder: &Path,
    names: &[String],
    stem: &str,
    extension: &str,
) -> Result<Vec<String>> {
    let counted = |name: &String| Some((shard_count(name, stem, extension)?, name.clone()));
    let mut shards: Vec<(u32, String)> = names.iter().filter_map(counted).collect();
    shards.sort_unstable();
    let Some(&(count, _)) = shards.first() else { return Ok(Vec::new()) };
    if let Some((_, other)) = shards.iter().find(|(other, _)| *other != count) {
        let problem = format!("{other} is of another set than {}", shards[0].1);
        return Err(Error::Shards { path: folder.to_path_buf(), problem });
    }
    let present: BTreeSet<&str> = shards.iter().map(|(_, name)| name.as_str()).collect();
    let mut wanted =
        (1..=count).map(|number| format!("{stem}-{number:05}-of-{count:05}{extension}"));
    if let Some(absent) = wanted.find(|name| !present.contains(name.as_str())) {
        let looked_for = format!("{absent}; found {} of {count} shards", shards.len());
        return Err(Error::MissingFile { folder: folder.to_path_buf(), looked_for });
    }
    if shards.len() as u64 != u64::from(count) {
        let problem = format!("{} shards, though {} is one of {count}", shards.len(), shards[0].1);
        return Err(Error::Shards { path: folder.to_path_buf(), problem });
    }
    Ok(shards.into_iter().map(|(_, name)| name).collect())
}

/// The M of `{stem}-NNNNN-of-MMMMM{extension}`.
pub(super) fn shard_count(name: &str, stem: &str, extension: &str) -> Option<u32> {
    let numbers = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(extension)?;
    let (number, count) = numbers.split_once("-of-")?;
    let five_digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (five_digits(number) && five_digits(count)).then(|| count.parse().ok()).flatten()
}
