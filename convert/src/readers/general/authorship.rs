//! Who made a model, of what, under which licence: the keys `general.*` that describe it.

use std::collections::BTreeMap;

use llq_gguf::Value;

use super::{
    front_matter::Yaml,
    model_id::{ModelId, title},
};

/// The keys after `general.` whose values are text, in the order llama.cpp's converter writes them.
pub(crate) const TEXTS: &[&str] = &[
    "name",
    "author",
    "version",
    "organization",
    "finetune",
    "basename",
    "description",
    "quantized_by",
    "size_label",
    "license",
    "license.name",
    "license.link",
    "url",
    "doi",
    "uuid",
    "repo_url",
    "source.url",
    "source.doi",
    "source.uuid",
    "source.repo_url",
];

/// The keys of a base model or a data set, in that order.
pub(crate) const PARENT_TEXTS: &[&str] =
    &["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];

/// Keys of a model card and what they tell; the first of a kind holds. `url` and its like tell of
/// the checkpoint, which is the source of what is written.
const CARD_TEXTS: &[(&str, &str)] = &[
    ("name", "name"),
    ("author", "author"),
    ("version", "version"),
    ("organization", "organization"),
    ("description", "description"),
    ("finetune", "finetune"),
    ("basename", "basename"),
    ("size_label", "size_label"),
    ("url", "source.url"),
    ("doi", "source.doi"),
    ("uuid", "source.uuid"),
    ("repo_url", "source.repo_url"),
    ("model_name", "name"),
    ("model_author", "author"),
    ("model_version", "version"),
    ("model_organization", "organization"),
    ("model_description", "description"),
    ("model_finetune", "finetune"),
    ("model_basename", "basename"),
    ("model_size_label", "size_label"),
    ("model_url", "source.url"),
    ("model_doi", "source.doi"),
    ("model_uuid", "source.uuid"),
    ("model_repo_url", "source.repo_url"),
    ("model_creator", "author"),
    ("model_type", "basename"),
    ("quantized_by", "quantized_by"),
    ("license", "license"),
    ("license_name", "license.name"),
    ("license_link", "license.link"),
];

const BASE_MODELS: [&str; 3] = ["base_model", "base_models", "base_model_sources"];
const DATASETS: [&str; 3] = ["datasets", "dataset", "dataset_sources"];
const TAGS: [&str; 2] = ["tags", "pipeline_tag"];
const LANGUAGES: [&str; 2] = ["languages", "language"];

/// A base model or a data set, by [`PARENT_TEXTS`].
pub(crate) type Parent = BTreeMap<&'static str, String>;

/// What is known of a model. Nothing in it is empty.
#[derive(Debug, Default)]
pub(crate) struct Authorship {
    texts: BTreeMap<&'static str, String>,
    base_models: Vec<Parent>,
    datasets: Vec<Parent>,
    tags: Vec<String>,
    languages: Vec<String>,
}

impl Authorship {
    /// What the card of a model of so many weights says.
    pub(super) fn from_card(card: &Yaml, weights: f64) -> Authorship {
        let mut known = Authorship::default();
        for &(key, tells) in CARD_TEXTS {
            let items = card.get(key).map(Yaml::items).unwrap_or_default();
            let texts: Vec<&str> = items.iter().filter_map(Yaml::text).collect();
            known.add(tells, &texts.join(","));
        }
        let first = |keys: [&str; 3]| keys.into_iter().find_map(|key| card.get(key));
        let parents = |keys| {
            let items = first(keys).map(Yaml::items).unwrap_or_default();
            items.iter().map(|item| parent(item, weights)).filter(|p| !p.is_empty()).collect()
        };
        known.base_models = parents(BASE_MODELS);
        known.datasets = parents(DATASETS);
        let all = |keys: [&str; 2]| {
            let items = keys.into_iter().filter_map(|key| card.get(key)).flat_map(Yaml::items);
            items.filter_map(|item| plain(item.text()?)).collect()
        };
        known.tags = all(TAGS);
        known.languages = all(LANGUAGES);
        known
    }

    /// Adds what a name says, where nothing better is known.
    pub(super) fn add_id(&mut self, id: &ModelId) {
        self.add("name", &title(&id.full_name));
        self.add("organization", &title(id.organization.as_deref().unwrap_or_default()));
        let parts = [
            ("basename", &id.basename),
            ("finetune", &id.finetune),
            ("version", &id.version),
            ("size_label", &id.size_label),
        ];
        for (key, part) in parts {
            self.add(key, part.as_deref().unwrap_or_default());
        }
    }

    /// Adds a text, where there is none yet.
    pub(super) fn add(&mut self, key: &'static str, text: &str) {
        if let Some(text) = plain(text) {
            self.texts.entry(key).or_insert(text);
        }
    }

    /// The keys and values, in the order llama.cpp's converter writes them.
    pub(super) fn keys(self) -> Vec<(String, Value)> {
        let mut keys = Vec::new();
        for key in TEXTS {
            let text = self.texts.get(key);
            keys.extend(text.map(|text| (format!("general.{key}"), Value::from(text.as_str()))));
        }
        keys.extend(parent_keys("base_model", &self.base_models));
        keys.extend(parent_keys("dataset", &self.datasets));
        for (key, texts) in [("general.tags", self.tags), ("general.languages", self.languages)] {
            if !texts.is_empty() {
                keys.push((key.to_owned(), Value::from(texts)));
            }
        }
        keys
    }
}

/// The keys of base models or data sets; none for none.
pub(crate) fn parent_keys(kind: &str, parents: &[Parent]) -> Vec<(String, Value)> {
    let mut keys = Vec::new();
    if !parents.is_empty() {
        keys.push((format!("general.{kind}.count"), Value::U32(parents.len() as u32)));
    }
    for (index, parent) in parents.iter().enumerate() {
        for key in PARENT_TEXTS {
            let text = parent.get(key);
            let name = || format!("general.{kind}.{index}.{key}");
            keys.extend(text.map(|text| (name(), Value::from(text.as_str()))));
        }
    }
    keys
}

/// A base model or data set as cards have it: an id, an address, or a map. Base models are taken
/// to be of about the size of the model itself.
fn parent(item: &Yaml, weights: f64) -> Parent {
    match item {
        Yaml::Text(id) => parent_of_id(id, weights),
        item => PARENT_TEXTS
            .iter()
            .filter_map(|key| Some((*key, plain(item.get(key)?.text()?)?)))
            .collect(),
    }
}

/// What `owner/name` says, or an address.
pub(crate) fn parent_of_id(id: &str, weights: f64) -> Parent {
    const HUB: &str = "huggingface.co/";
    let mut parent = Parent::new();
    let mut add = |key, text: &str| parent.extend(plain(text).map(|text| (key, text)));
    let is_address = ["http://", "https://", "ssh://"].iter().any(|start| id.starts_with(start));
    let on_hub = id.split_once("://").and_then(|(_, place)| place.strip_prefix(HUB));
    let is_repository =
        |(owner, name): (&str, &str)| !owner.is_empty() && !name.is_empty() && !name.contains('/');
    let on_hub = on_hub.filter(|id| id.split_once('/').is_some_and(is_repository));
    let name = if is_address { on_hub } else { Some(id) };
    if let Some(name) = name {
        let parts = ModelId::parse(name, weights);
        add("name", &title(&parts.full_name));
        add("version", parts.version.as_deref().unwrap_or_default());
        if let Some(owner) = &parts.organization {
            add("organization", &title(owner));
            add("repo_url", &format!("https://{HUB}{owner}/{}", parts.full_name));
        }
    }
    if is_address {
        parent.extend(plain(id).map(|id| ("repo_url", id)));
    }
    parent
}

/// Text without what no text has: GGUF's readers in C end at a nul, and terminals act on others.
pub(crate) fn plain(text: &str) -> Option<String> {
    let kept: String = text.chars().filter(|&c| !c.is_control() || c == '\n').collect();
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}
