//! `llq bench`: that it measures, not how fast.

use llq_quant::{FORMATS, kernels};

use crate::harness::{Place, assert_outcome};

#[test]
fn every_format_is_measured_beside_the_limits() {
    let outcome = Place::new().run("bench --quick --json --quiet --threads 2").ok();
    let report = outcome.json();
    let rows = report["kernels"].as_array().unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["isa"], kernels::selected().isa().name());
    assert_eq!((&report["gemv_cols"], &report["gemv_threads"]), (&512.into(), &2.into()));

    let limits = rows[0]["limits"].as_array().unwrap();
    assert_eq!(limits.iter().map(|l| l["threads"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for limits in limits {
        for limit in ["multiply_adds", "code_products", "read_bytes"] {
            assert!(limits[limit].as_f64().unwrap() > 0.0, "{limits}");
        }
    }

    let figures = rows[0]["formats"].as_array().unwrap();
    let names: Vec<_> = FORMATS.iter().map(|format| format.name()).collect();
    assert_eq!(figures.iter().map(|f| f["format"].as_str().unwrap()).collect::<Vec<_>>(), names);
    for (figures, format) in figures.iter().zip(FORMATS) {
        for figure in ["decode_bytes", "encode_weights", "exact_multiply_adds", "gemv_bytes"] {
            assert!(figures[figure].as_f64().unwrap() > 0.0, "{figures}");
        }
        // 8 MiB of weights, in sixteens of rows.
        let row_bytes = format.tensor_type.row_bytes(512).unwrap();
        let rows = (8 << 20) / (16 * row_bytes) * 16;
        assert_eq!(figures["gemv_rows"], rows, "{figures}");
        assert_eq!(figures["fast_multiply_adds"].is_f64(), format.blocks.is_some(), "{figures}");
    }
}

#[test]
fn rows_and_formats_can_be_named() {
    let outcome =
        Place::new().run("bench --quick --quiet --threads 1 --isa SCALAR --format q4-k,f16").ok();
    let named = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = outcome.stdout.lines().take(4).map(named).collect();
    assert_eq!(lines, ["kernels format", "scalar limit,", "scalar Q4_K", "scalar F16"]);
}

#[test]
fn what_there_is_not_is_refused() {
    let place = Place::new();
    place.run("bench --format iq9").refused(&["'iq9'", "no such format", "q4_k"]);
    place.run("bench --isa mmx").refused(&["'mmx'", "scalar"]);
}

#[test]
fn help_says_what_is_measured() {
    assert_outcome!(Place::new().run("bench -h"), @r"
    exit code 0
    --- stdout
    Measure the kernels on this machine, beside what the machine can do at most

    Usage: llq bench [OPTIONS]

    Examples:
      llq bench
      llq bench --format q4_k,q6_k
      llq bench --isa avx2,scalar --quick --json

    Options:
          --isa <ISA>        Rows of the kernel table (see llq cpu) [default: the one llq uses]
          --format <FORMAT>  Formats [default: all]
          --quick            Small matrices and few runs: whether it works rather than how fast it is
      -h, --help             Print help (see more with '--help')

    Everywhere:
          --threads <N>   Threads to compute on [default: one per core]. Results do not depend on it
          --json          Print results as JSON
      -q, --quiet         Show no progress, only results, notes and errors
          --color <WHEN>  Colour: auto looks for a terminal and for NO_COLOR [default: auto] [possible
                          values: auto, always, never]
    --- stderr
    ");
}
