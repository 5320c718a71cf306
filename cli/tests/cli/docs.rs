//! `docs/cli.md` is what the binary says. After a change:
//! `LLQ_UPDATE_DOCS=1 cargo test -p llq --test cli docs`.

use std::{env, fs, path::Path};

use crate::harness::Place;

const COMMANDS: [&str; 21] = [
    "convert",
    "quantize",
    "perplexity",
    "imatrix",
    "sample",
    "transform",
    "sweep",
    "compare",
    "inspect",
    "verify",
    "diff",
    "hash",
    "edit",
    "split",
    "merge",
    "tokenize",
    "formats",
    "cpu",
    "bench",
    "completions",
    "man",
];

#[test]
fn command_line_page_is_fresh() {
    let place = Place::new();
    let mut page = format!(
        "# The command line\n\nGenerated from `--help`; a test compares.\n\n```text\n{}```\n",
        help(&place, "--help")
    );
    for command in COMMANDS {
        let help = help(&place, &format!("{command} --help"));
        page.push_str(&format!("\n## llq {command}\n\n```text\n{help}```\n"));
    }
    assert_fresh(&page);
}

/// What llq prints, without the blanks that fill its empty lines.
fn help(place: &Place, line: &str) -> String {
    place.run(line).ok().stdout.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[track_caller]
fn assert_fresh(fresh: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    if env::var_os("LLQ_UPDATE_DOCS").is_some() {
        fs::write(&path, fresh).unwrap();
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(stored, fresh, "stale: LLQ_UPDATE_DOCS=1 cargo test -p llq --test cli docs");
}
