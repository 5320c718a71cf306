//! The page `docs/formats.md`, written from the table of formats.

use std::fmt::Write;

use crate::registry::{FORMATS, FormatInfo};

/// `docs/formats.md`: a table of all formats, then the layout of each block.
pub fn formats_markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    for format in FORMATS {
        page.push_str(&table_row(format));
    }
    page.push_str(LAYOUTS);
    for format in FORMATS {
        if let Some(block) = &format.blocks {
            let bytes = format.tensor_type.block_bytes();
            // Writing to a string cannot fail.
            let _ = write!(
                page,
                "\n### {}\n\n{} bytes.\n\n```text\n{}\n```\n",
                format.name(),
                bytes,
                block.layout
            );
        }
    }
    page
}

fn table_row(format: &FormatInfo) -> String {
    let (group, min) = match &format.blocks {
        Some(block) => (block.group.to_string(), if block.has_min { "yes" } else { "no" }),
        None => ("-".to_owned(), "-"),
    };
    format!(
        "| {} | {} | {} | {} | {group} | {min} | {} |\n",
        format.name(),
        format.tensor_type.id(),
        format.bits_per_weight(),
        format.tensor_type.block_weights(),
        format.summary,
    )
}

const INTRODUCTION: &str = "\
# Formats

This page is generated from the table of formats (`quant/src/registry.rs`); a test keeps it equal.

| name | wire id | bits per weight | weights per block | group | minimum | what it is |
|---|--:|--:|--:|--:|---|---|
";

const LAYOUTS: &str = "
A *group* is the weights that share a scale, and a minimum where the format has one.

## Block layouts

Offsets are in bytes, bit 0 is the lowest; an f16 is an IEEE half, and it and a u32 are in the
file's byte order (little endian but for big-endian GGUF). Codes are numbered along the row. Every product and
difference is rounded to 32-bit floats, none is fused: the same bytes are the same floats as in ggml.
";

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// `LLQ_UPDATE_DOCS=1 cargo test -p llq-quant` writes the page.
    #[test]
    fn the_page_in_docs_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/formats.md");
        if std::env::var_os("LLQ_UPDATE_DOCS").is_some() {
            fs::write(&path, formats_markdown()).unwrap();
        }
        let page = fs::read_to_string(&path).unwrap_or_default();
        assert!(page == formats_markdown(), "run LLQ_UPDATE_DOCS=1 cargo test -p llq-quant");
    }
}
