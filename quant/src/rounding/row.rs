//! One row as it is rounded.

use crate::{
    format::Fields,
    packing::HalfLe,
    registry::{BlockInfo, FormatInfo},
};

/// What the integers of a format can be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) format: &'static FormatInfo,
    pub(super) blocks: &'static BlockInfo,
    /// Weights of a block, and of a group.
    pub(super) block: usize,
    pub(super) group: usize,
    pub(super) lowest: f32,
    pub(super) highest: f32,
    pub(super) scale_codes: [f32; 2],
    pub(super) has_min: bool,
    /// Whether halves are stored per group, without integers of their own.
    pub(super) is_plain: bool,
}

impl Shape {
    pub(super) fn of(format: &'static FormatInfo) -> Option<Shape> {
        let blocks = format.blocks.as_ref()?;
        let lowest = f32::from(blocks.lowest);
        Some(Shape {
            format,
            blocks,
            block: format.tensor_type.block_weights(),
            group: blocks.group,
            lowest,
            highest: lowest + ((1u32 << blocks.code_bits) - 1) as f32,
            scale_codes: blocks.scale_codes.map(f32::from),
            has_min: blocks.has_min,
            is_plain: blocks.scale_codes == [1, 1],
        })
    }

    /// Whether a common scale or minimum may have this value.
    pub(super) fn allows(&self, common: f32) -> bool {
        common >= 0.0 || !self.has_min || self.is_plain
    }
}

/// A row in the view of its format: weight `j` is `scale[b] * scale_codes[g] * codes[j] - min[b] *
/// min_codes[g]` in block `b` and group `g`.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Per block; values that halves hold.
    pub(super) scale: Vec<f32>,
    pub(super) min: Vec<f32>,
    /// Per group.
    pub(super) scale_codes: Vec<f32>,
    pub(super) min_codes: Vec<f32>,
    /// Per weight.
    pub(super) codes: Vec<f32>,
    /// The weights that these mean.
    pub(super) weights: Vec<f32>,
}

impl Row {
    pub(super) fn zeros(shape: &Shape, cols: usize) -> Row {
        let (blocks, groups) = (cols / shape.block, cols / shape.group);
        Row {
            scale: vec![0.0; blocks],
            min: vec![0.0; blocks],
            scale_codes: vec![0.0; groups],
            min_codes: vec![0.0; groups],
            codes: vec![0.0; cols],
            weights: vec![0.0; cols],
        }
    }

    /// Takes block `b` from its bytes.
    pub(super) fn read_block(&mut self, shape: &Shape, b: usize, bytes: &[u8]) {
        let fields = shape.blocks.fields(bytes);
        self.scale[b] = fields.scale.to_f32();
        self.min[b] = if shape.has_min { fields.min.to_f32() } else { 0.0 };
        let groups = shape.block / shape.group;
        for i in 0..groups {
            self.scale_codes[b * groups + i] = f32::from(fields.scale_codes[i]);
            let min_code = if shape.has_min { f32::from(fields.min_codes[i]) } else { 0.0 };
            self.min_codes[b * groups + i] = min_code;
        }
        for i in 0..shape.block {
            self.codes[b * shape.block + i] = f32::from(fields.codes[i]) + shape.lowest;
        }
        for g in b * groups..(b + 1) * groups {
            self.refresh(shape, g);
        }
    }

    /// The bytes of the row.
    pub(super) fn encode(&self, shape: &Shape, bytes: &mut [u8]) {
        let groups = shape.block / shape.group;
        let blocks = bytes.chunks_exact_mut(shape.format.tensor_type.block_bytes());
        for (b, bytes) in blocks.enumerate() {
            let (scale, min) = (HalfLe::finite(self.scale[b]), HalfLe::finite(self.min[b]));
            let mut fields = Fields::of_group(scale, min);
            for i in 0..groups {
                fields.scale_codes[i] = self.scale_codes[b * groups + i] as i8;
                fields.min_codes[i] = self.min_codes[b * groups + i] as i8;
            }
            for i in 0..shape.block {
                fields.codes[i] = (self.codes[b * shape.block + i] - shape.lowest) as u8;
            }
            shape.blocks.pack(&fields, bytes);
        }
    }

    /// Scale and minimum of group `g`.
    #[inline(always)]
    pub(super) fn grid(&self, shape: &Shape, g: usize) -> (f32, f32) {
        let b = g * shape.group / shape.block;
        (self.scale[b] * self.scale_codes[g], self.min[b] * self.min_codes[g])
    }

    /// The weights of group `g` from its numbers.
    #[inline(always)]
    pub(super) fn refresh(&mut self, shape: &Shape, g: usize) {
        let (scale, min) = self.grid(shape, g);
        let columns = g * shape.group..(g + 1) * shape.group;
        for (weight, &code) in self.weights[columns.clone()].iter_mut().zip(&self.codes[columns]) {
            *weight = scale * code - min;
        }
    }
}
