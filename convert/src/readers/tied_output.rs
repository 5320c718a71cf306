//! An output projection that is the token embedding once more.

use crate::{
    Note,
    arch::{MappedTensor, Origin},
    error::Result,
    source::{row_bytes, rows},
    weights::Weights,
};

/// An output projection that has the bytes of the token embedding, as in the small models of
/// Llama 3.2. Loaders take the embedding in its place.
pub(super) struct TiedOutput {
    place: usize,
    names: [String; 2],
}

impl TiedOutput {
    /// Reads no further than the first rows that differ.
    pub(super) fn find(
        weights: &dyn Weights,
        mapped: &[MappedTensor],
    ) -> Result<Option<TiedOutput>> {
        let find = |name: &str| mapped.iter().position(|tensor| tensor.spec.name == name);
        let (Some(embedding), Some(place)) = (find("token_embd.weight"), find("output.weight"))
        else {
            return Ok(None);
        };
        let (a, b) = (&mapped[place], &mapped[embedding]);
        let (&Origin::Published(first), &Origin::Published(second)) = (&a.origin, &b.origin) else {
            return Ok(None);
        };
        let alike = a.spec.shape == b.spec.shape && a.spec.tensor_type == b.spec.tensor_type;
        if !alike || !have_equal_rows(weights, a, first, second)? {
            return Ok(None);
        }
        let names = [first, second].map(|index| weights.tensors()[index].name.clone());
        Ok(Some(TiedOutput { place, names }))
    }

    /// Leaves it out of the output.
    pub(super) fn drop_from(self, mapped: &mut Vec<MappedTensor>) -> Note {
        mapped.remove(self.place);
        let [output, embedding] = self.names;
        Note(format!("{output} equals {embedding} and is left out"))
    }
}

fn have_equal_rows(
    weights: &dyn Weights,
    like: &MappedTensor,
    first: usize,
    second: usize,
) -> Result<bool> {
    const AT_ONCE: u64 = 1 << 20;
    let (rows, row_bytes) = (rows(&like.spec), row_bytes(&like.spec));
    let step = (AT_ONCE / row_bytes.max(1)).max(1);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut start = 0;
    while start < rows {
        let some = start..rows.min(start + step);
        let bytes = ((some.end - some.start) * row_bytes) as usize;
        left.resize(bytes, 0);
        right.resize(bytes, 0);
        weights.read_rows(first, some.clone(), &mut left)?;
        weights.read_rows(second, some.clone(), &mut right)?;
        if left != right {
            return Ok(false);
        }
        start = some.end;
    }
    Ok(true)
}
