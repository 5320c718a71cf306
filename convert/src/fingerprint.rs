//! All that the bytes of an output depend on, in one sum: by it a run finds out whether it can go on
//! with what an interrupted one has left.

use std::fmt::{self, Write};

use llq_gguf::Fingerprint;
use sha2::{Digest as _, Sha256};

use crate::{
    Error, Plan, Source,
    error::Result,
    source::{row_bytes, rows},
};

/// The sum of llq's version, the plan with its request and its headers, the size and time of change
/// of every file that weights are read from, and the first and last row of each tensor. The rows
/// tell what stands in no file of weights, such as an adapter's scale.
pub(crate) fn fingerprint(source: &dyn Source, plan: &Plan) -> Result<Fingerprint> {
    let mut sum = Sum(Sha256::new());
    // The debug form names every field: one that is added later cannot be forgotten.
    sum.line(format_args!("llq {} {plan:?}", env!("CARGO_PKG_VERSION")));
    for path in source.files() {
        let metadata = path.metadata().map_err(Error::io(&path))?;
        let path = path.canonicalize().map_err(Error::io(&path))?;
        let modified = metadata.modified().ok();
        sum.line(format_args!("{path:?} {} {modified:?}", metadata.len()));
    }
    let mut row = Vec::new();
    for (tensor, spec) in source.tensors().iter().enumerate() {
        row.resize(row_bytes(spec) as usize, 0);
        if let Some(last) = rows(spec).checked_sub(1) {
            for number in [0, last] {
                source.read_rows(tensor, number..number + 1, &mut row)?;
                sum.0.update(&row);
            }
        }
    }
    Ok(Fingerprint(sum.0.finalize().into()))
}

struct Sum(Sha256);

impl Sum {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        // The sum takes everything.
        let _ = writeln!(self, "{line}");
    }
}

impl Write for Sum {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}
