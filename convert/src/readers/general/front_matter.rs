//! The front matter of a model card: YAML between two lines `---` at the start of `README.md`.

use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle};

use crate::weights::InputFile;

/// The end of the front matter must lie within so many bytes. Cards that list results of
/// evaluations have some hundred thousand.
const LONGEST: u64 = 1 << 20;

/// Limits on what YAML can make of them.
const MOST_NODES: usize = 100_000;
const DEEPEST: usize = 32;

/// A YAML value. Plain scalars stay text: `1.0` and `no` mean what is written there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Yaml {
    Null,
    Text(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    /// The value of `key`; of a key given twice the last.
    pub(super) fn get(&self, key: &str) -> Option<&Yaml> {
        let Yaml::Map(entries) = self else { return None };
        entries.iter().rfind(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Yaml::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A list, or one value as a list of one.
    pub(super) fn items(&self) -> &[Yaml] {
        match self {
            Yaml::Null => &[],
            Yaml::List(items) => items,
            one => std::slice::from_ref(one),
        }
    }
}

/// What the card of the checkpoint in `folder` says, where it has one; why it cannot be used.
pub(super) fn read(folder: &Path) -> Result<Option<Yaml>, String> {
    let path = folder.join("README.md");
    if !path.is_file() {
        return Ok(None);
    }
    let start = InputFile::open(&path).and_then(|file| file.start(LONGEST));
    let start = start.map_err(|error| error.to_string())?;
    let Some(front) = front_matter(&start)? else { return Ok(None) };
    let text = std::str::from_utf8(front).map_err(|error| error.to_string())?;
    match parse(text)? {
        card @ Yaml::Map(_) => Ok(Some(card)),
        Yaml::Null => Ok(None),
        _ => Err("its front matter is no list of keys and values".to_owned()),
    }
}

/// The bytes between the two lines, where the first is there.
fn front_matter(start: &[u8]) -> Result<Option<&[u8]>, String> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let mut lines = start.split_inclusive(|&byte| byte == b'\n');
    let is_fence = |line: &[u8]| line.trim_ascii_end() == b"---";
    let Some(first) = lines.next().filter(|line| is_fence(line)) else { return Ok(None) };
    let mut end = first.len();
    for line in lines {
        if is_fence(line) {
            return Ok(Some(&start[first.len()..end]));
        }
        end += line.len();
    }
    Err(format!("its front matter has no end within {LONGEST} bytes"))
}

fn parse(text: &str) -> Result<Yaml, String> {
    // Not YAML, but found in published cards.
    let text = text.replace('\t', "  ");
    let mut tree = Tree { parser: Parser::new_from_str(&text), nodes: 0 };
    loop {
        match tree.next()? {
            Event::StreamEnd => return Ok(Yaml::Null),
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            event => return tree.value(event, 0),
        }
    }
}

/// Builds values from the parser's events.
struct Tree<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    nodes: usize,
}

impl<'t> Tree<'t> {
    fn next(&mut self) -> Result<Event<'t>, String> {
        match self.parser.next_event() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(error)) => Err(error.to_string()),
            None => Ok(Event::StreamEnd),
        }
    }

    fn value(&mut self, event: Event<'t>, depth: usize) -> Result<Yaml, String> {
        self.nodes += 1;
        if self.nodes > MOST_NODES || depth > DEEPEST {
            return Err(format!("more than {MOST_NODES} values, or {DEEPEST} inside each other"));
        }
        match event {
            Event::Scalar(text, style, ..) => Ok(scalar(&text, style)),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => return Ok(Yaml::List(items)),
                        event => items.push(self.value(event, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut entries = Vec::new();
                loop {
                    let key = match self.next()? {
                        Event::MappingEnd => return Ok(Yaml::Map(entries)),
                        event => self.value(event, depth + 1)?,
                    };
                    let event = self.next()?;
                    let value = self.value(event, depth + 1)?;
                    if let Yaml::Text(key) = key {
                        entries.push((key, value));
                    }
                }
            }
            // What refers to itself ten times over, thirty times, would fill any memory.
            Event::Alias(_) => Err("YAML aliases are not followed".to_owned()),
            other => Err(format!("a value was expected, not {other:?}")),
        }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Yaml {
    match text {
        "" | "~" | "null" | "Null" | "NULL" if style == ScalarStyle::Plain => Yaml::Null,
        text => Yaml::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Yaml {
        Yaml::Text(text.to_owned())
    }

    #[test]
    fn scalars_stay_as_they_are_written() {
        let yaml = parse("version: 1.0\nlanguage:\n- no\n- 'null'\ntags: [a, ~]\n").unwrap();
        assert_eq!(yaml.get("version"), Some(&text("1.0")));
        assert_eq!(yaml.get("language"), Some(&Yaml::List(vec![text("no"), text("null")])));
        assert_eq!(yaml.get("tags"), Some(&Yaml::List(vec![text("a"), Yaml::Null])));
        assert_eq!(yaml.get("absent"), None);
    }

    #[test]
    fn hostile_yaml_is_refused() {
        let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n";
        assert!(parse(bomb).unwrap_err().contains("aliases"));
        for open in ["[", "{a: ", "- ", "? "] {
            assert!(parse(&open.repeat(100_000)).is_err(), "{open:?}");
        }
        assert!(parse(&format!("[{}]", "a,".repeat(MOST_NODES))).unwrap_err().contains("values"));
    }

    #[test]
    fn no_damage_makes_it_panic() {
        let card = "%YAML 1.2\n--- !!map\na: [b, 'c', \"\\u00e9\"]\n? d\n: {e: f, g: |2-\n  h\n}\n\
                    i: >+\n  j\n k: &l m\n- n # o\n!<p> q: ~\n...\n--- r";
        for at in 0..card.len() {
            let _ = parse(&card[at..]);
            let _ = parse(&card[..at]);
            for other in "[]{}&*!|>'\"%@`?:-, \n\r\t#\\9\0é\u{feff}\u{85}".chars() {
                let _ = parse(&format!("{}{other}{}", &card[..at], &card[at + 1..]));
                let _ = parse(&format!("{}{other}{}", &card[..at], &card[at..]));
            }
        }
    }

    #[test]
    fn only_what_is_fenced_is_front_matter() {
        let front = |text: &'static str| front_matter(text.as_bytes());
        assert_eq!(front("---\r\na: b\r\n---\r\n# Card"), Ok(Some(&b"a: b\r\n"[..])));
        assert_eq!(front("\u{feff}---\n---\n"), Ok(Some(&b""[..])));
        assert_eq!(front("# Card\n---\na: b\n---\n"), Ok(None));
        assert_eq!(front(""), Ok(None));
        assert!(front("---\na: b\n").is_err());
    }
}
