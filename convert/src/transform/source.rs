//! A source whose rows are transformed as they are read.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use llq_gguf::{Metadata, TensorSpec, TensorType};
use llq_quant::{Encoding, FormatInfo, format};

use super::{Axis, columns};
use crate::{
    Error, Note, Source, SourceKind,
    error::Result,
    source::{row_bytes, rows},
};

/// What happens to the columns and the rows of a tensor.
#[derive(Clone, Debug, Default)]
pub(super) struct Axes {
    columns: Axis,
    rows: Axis,
}

impl Axes {
    pub(super) fn new(columns: Axis, rows: Axis) -> Axes {
        Axes { columns, rows }
    }

    /// Of a tensor whose rows stay.
    pub(super) fn columns(columns: Axis) -> Axes {
        Axes { columns, rows: Axis::default() }
    }

    pub(super) fn are_scaled(&self) -> bool {
        self.columns.scales.is_some() || self.rows.scales.is_some()
    }

    /// Whether a tensor has as many columns and rows.
    pub(super) fn fit(&self, spec: &TensorSpec) -> bool {
        self.columns.fits(columns(spec)) && self.rows.fits(rows(spec))
    }

    fn change_nothing(&self) -> bool {
        !self.are_scaled() && self.columns.order.is_none() && self.rows.order.is_none()
    }

    /// Row `row` of the output, of which `weights` is what stood there.
    fn apply(&self, row: u64, weights: &[f32], out: &mut [f32]) {
        match &self.columns.order {
            Some(order) => {
                out.iter_mut().zip(&**order).for_each(|(out, &i)| *out = weights[i as usize]);
            }
            None => out.copy_from_slice(weights),
        }
        if let Some(scales) = &self.columns.scales {
            out.iter_mut().zip(&**scales).for_each(|(out, scale)| *out *= scale);
        }
        if let Some(scales) = &self.rows.scales {
            let scale = scales[row as usize];
            out.iter_mut().for_each(|out| *out *= scale);
        }
    }
}

#[derive(Debug)]
pub(super) struct Transformed {
    pub(super) source: Box<dyn Source>,
    pub(super) metadata: Metadata,
    pub(super) specs: Vec<TensorSpec>,
    pub(super) axes: Vec<Axes>,
    pub(super) notes: Vec<Note>,
}

impl Source for Transformed {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn files(&self) -> Vec<PathBuf> {
        self.source.files()
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let (from, to, axes) =
            (&self.source.tensors()[tensor], &self.specs[tensor], &self.axes[tensor]);
        if axes.change_nothing() {
            return self.source.read_rows(tensor, rows, out);
        }
        let (decoder, encoder) = (known(from)?, known(to)?);
        let mut bytes = vec![0; row_bytes(from) as usize];
        let mut weights = vec![0.0; columns(from) as usize];
        let mut moved = weights.clone();
        for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes(to) as usize)) {
            let place = axes.rows.order.as_ref().map_or(row, |order| order[row as usize].into());
            self.source.read_rows(tensor, place..place + 1, &mut bytes)?;
            let failed = |source| Error::Row { tensor: from.name.clone(), row, source };
            decoder.dequantize(&bytes, &mut weights).map_err(failed)?;
            axes.apply(row, &weights, &mut moved);
            encoder.encode_row(&moved, Encoding::default(), out).map_err(failed)?;
        }
        Ok(())
    }

    fn kind(&self) -> SourceKind {
        self.source.kind()
    }

    fn stored_type(&self, tensor: usize) -> TensorType {
        self.source.stored_type(tensor)
    }

    fn notes(&self) -> &[Note] {
        &self.notes
    }
}

fn known(spec: &TensorSpec) -> Result<&'static FormatInfo> {
    let (tensor, tensor_type) = (&spec.name, spec.tensor_type);
    format(tensor_type).ok_or_else(|| Error::NoFormat { tensor: tensor.clone(), tensor_type })
}
