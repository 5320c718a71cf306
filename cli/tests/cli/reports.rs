//! The documents of a sweep.

use std::fs;

use crate::harness::{Place, corpus, tiny_gguf};

const NAME: &str = "<script>alert('x')</script>";

#[test]
fn a_sweep_writes_its_report_and_tables() {
    let place = Place::new();
    let (model, corpus) = (tiny_gguf().to_str().unwrap(), corpus());
    place.llq(["convert", model, "-o", "model.gguf", "--name", NAME]).ok();
    let sweep = |more: &[&str]| {
        let corpus = ["--corpus", corpus.to_str().unwrap()];
        let line = "sweep model.gguf --types q8_0,q4_0 --pure --ctx 64 --chunks 2";
        place.llq(line.split_whitespace().chain(corpus).chain(more.iter().copied()))
    };
    let documents = ["--report", "report.html", "--csv", "table.csv", "--markdown", "table.md"];
    let swept = sweep(&documents).ok();
    assert_eq!(place.files(), ["model.gguf", "report.html", "table.csv", "table.md"]);

    let page = fs::read_to_string(place.path("report.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    for foreign in ["<script", "http:", "https:", "url(", "@import", "NaN", "<img"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;: quality against size"));
    // A point per type; a cell per quantized tensor of each: 7 in 6 blocks, embedding and head.
    assert_eq!(page.matches("<circle").count(), 2);
    assert_eq!(page.matches("<title>blk.").count(), 2 * (7 * 6));
    for part in ["Q4_0", "Q8_0", "token_embd.weight", "llq sweep model.gguf --types q8_0,q4_0"] {
        assert!(page.contains(part), "{part}");
    }

    let markdown = fs::read_to_string(place.path("table.md")).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.split(['|', ' ']).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    let printed: Vec<_> = swept.stdout.lines().map(cells).collect();
    let written: Vec<_> = markdown.lines().map(cells).collect();
    assert_eq!((&written[0], &written[2..]), (&printed[0], &printed[1..]));

    let csv = fs::read_to_string(place.path("table.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [20; 4]);
    assert_eq!((rows[0][7], rows[1][7], rows[3][0]), ("kld_mean", "", "Q4_0"));
    assert!(rows[3][7].parse::<f64>().unwrap() > rows[2][7].parse().unwrap());

    sweep(&["--report", "report.html"]).refused(&["report.html exists", "--force"]);
    sweep(&["--csv", "none/table.csv"]).refused(&["there is no folder none"]);
    sweep(&["--csv", "model.gguf", "--force"]).refused(&["output and input are the same file"]);
    sweep(&["--report", "report.html", "--force", "--quiet"]).ok();
}
