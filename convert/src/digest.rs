//! SHA-256 sums of tensors, which tell whether two models hold the same weights.

use llq_gguf::TensorSpec;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::{
    Progress, Source,
    error::Result,
    source::{row_bytes, rows},
};

/// Bytes that are read at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// A SHA-256 sum.
pub type Digest = [u8; 32];

/// The sum of each tensor's bytes, little endian, in the order of [`Source::tensors`]. Where a tensor
/// lies, in which file and with what padding does not count. Tensors are read in pieces, on the
/// threads of the current rayon pool.
///
/// # Errors
///
/// Weights that can't be read.
pub fn digests(source: &dyn Source, progress: &dyn Progress) -> Result<Vec<Digest>> {
    let specs = source.tensors();
    progress.begin(specs.iter().map(|spec| row_bytes(spec) * rows(spec)).sum());
    let tensors = specs.par_iter().enumerate();
    tensors.map(|(index, spec)| digest(source, index, spec, progress)).collect()
}

fn digest(
    source: &dyn Source,
    index: usize,
    spec: &TensorSpec,
    progress: &dyn Progress,
) -> Result<Digest> {
    let (row_bytes, rows) = (row_bytes(spec), rows(spec));
    let per_piece = (PIECE_BYTES / row_bytes.max(1)).max(1);
    let mut sum = Sha256::new();
    let mut piece = Vec::new();
    let mut start = 0;
    while start < rows {
        let end = rows.min(start + per_piece);
        let bytes = row_bytes * (end - start);
        piece.resize(bytes as usize, 0);
        source.read_rows(index, start..end, &mut piece)?;
        sum.update(&piece);
        progress.advance(bytes);
        start = end;
    }
    Ok(sum.finalize().into())
}

/// One sum over all tensors: names, types, shapes and bytes, whatever their order.
pub fn whole(specs: &[TensorSpec], digests: &[Digest]) -> Digest {
    let mut lines: Vec<String> = specs
        .iter()
        .zip(digests)
        .map(|(spec, digest)| {
            let (name, shape) = (&spec.name, &spec.shape);
            format!("{} {} {shape:?} {name}\n", hexadecimal(digest), spec.tensor_type)
        })
        .collect();
    lines.sort_unstable();
    Sha256::digest(lines.concat()).into()
}

/// The sum as people write it.
pub fn hexadecimal(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use llq_gguf::TensorType;

    use super::*;

    #[test]
    fn the_whole_does_not_depend_on_the_order() {
        let specs = [("a", [2u64, 3]), ("b", [3, 2])]
            .map(|(name, shape)| TensorSpec::new(name, shape, TensorType::F32));
        let sums = [[1; 32], [2; 32]];
        let turned = [specs[1].clone(), specs[0].clone()];
        assert_eq!(whole(&specs, &sums), whole(&turned, &[sums[1], sums[0]]));
        assert_ne!(whole(&specs, &sums), whole(&turned, &sums));
        let renamed = [specs[0].clone(), TensorSpec::new("c", [3, 2], TensorType::F32)];
        assert_ne!(whole(&specs, &sums), whole(&renamed, &sums));
    }
}
