//! One shard of a Meta checkpoint: a PyTorch file, and the scales of what it has in FP8.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
};

use half::bf16;
use llq_gguf::TensorType;

use super::{Dtype, PublishedTensor, Weights, torch::TorchFile};
use crate::{Error, error::Result};

/// What PyTorch calls the numbers of Llama 3.1 405B's feed-forward matrices.
const FP8: &str = "Float8_e4m3fn";

/// The tensors of a shard; those in FP8 are read as BF16.
#[derive(Debug)]
pub(super) struct MetaShard {
    file: TorchFile,
    tensors: Vec<PublishedTensor>,
    scales: Option<Scales>,
}

/// `fp8_scales_N.pt`: per matrix a factor for each of its rows, in F32.
#[derive(Debug)]
struct Scales {
    file: TorchFile,
    /// Index of a matrix in the shard to index of its scales.
    of: HashMap<usize, usize>,
}

impl MetaShard {
    /// Opens shard number `rank` of `folder`.
    pub(super) fn open(folder: &Path, rank: usize, path: &Path) -> Result<MetaShard> {
        let file = TorchFile::open(path)?;
        let mut tensors = file.tensors().to_vec();
        let is_fp8 = |tensor: &PublishedTensor| tensor.dtype == Dtype::Other(FP8.to_owned());
        let fp8: Vec<usize> = (0..tensors.len()).filter(|&i| is_fp8(&tensors[i])).collect();
        if fp8.is_empty() {
            return Ok(MetaShard { file, tensors, scales: None });
        }
        let scales = Scales::open(folder, rank, &tensors, &fp8)?;
        for index in fp8 {
            tensors[index].dtype = Dtype::Float(TensorType::BF16);
        }
        Ok(MetaShard { file, tensors, scales: Some(scales) })
    }

    /// How many tensors are in FP8.
    pub(super) fn fp8_tensors(&self) -> usize {
        self.scales.as_ref().map_or(0, |scales| scales.of.len())
    }
}

impl Weights for MetaShard {
    fn tensors(&self) -> &[PublishedTensor] {
        &self.tensors
    }

    fn files(&self) -> Vec<PathBuf> {
        let scales = self.scales.iter().flat_map(|scales| scales.file.files());
        self.file.files().into_iter().chain(scales).collect()
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let scales = self.scales.as_ref().and_then(|s| Some((s, *s.of.get(&tensor)?)));
        let Some((scales, index)) = scales else {
            return self.file.read_rows(tensor, rows, out);
        };
        let factors = scales.read(index, rows.clone())?;
        let mut codes = vec![0; out.len() / 2];
        self.file.read_rows(tensor, rows, &mut codes)?;
        let columns = self.tensors[tensor].columns() as usize;
        let rows = codes.chunks_exact(columns).zip(out.chunks_exact_mut(2 * columns));
        for (&factor, (codes, out)) in factors.iter().zip(rows) {
            for (&code, out) in codes.iter().zip(out.chunks_exact_mut(2)) {
                let weight = bf16::from_f32(e4m3(code) * factor);
                out.copy_from_slice(&weight.to_le_bytes());
            }
        }
        Ok(())
    }
}

impl Scales {
    /// The scales of `matrices`, which index `tensors`.
    fn open(
        folder: &Path,
        rank: usize,
        tensors: &[PublishedTensor],
        matrices: &[usize],
    ) -> Result<Scales> {
        let name = format!("fp8_scales_{rank}.pt");
        let path = folder.join(&name);
        if !path.exists() {
            let tensor = &tensors[matrices[0]].name;
            let looked_for = format!("{name}, the scales of tensor {tensor:?}, which is in FP8");
            return Err(Error::MissingFile { folder: folder.to_path_buf(), looked_for });
        }
        let file = TorchFile::open(&path)?;
        let index: HashMap<&str, usize> =
            file.tensors().iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        let mut of = HashMap::new();
        for &matrix in matrices {
            let PublishedTensor { name, .. } = &tensors[matrix];
            let tensor = key(name, rank);
            let Some(&scales) = index.get(tensor.as_str()) else {
                return Err(Error::MissingTensor { path, tensor, nearest: None });
            };
            let (found, rows) = (&file.tensors()[scales], tensors[matrix].rows());
            if found.float(&path)? != TensorType::F32 {
                let problem = format!("tensor {tensor:?} is {:?}, expected F32", found.dtype);
                return Err(Error::Shards { path, problem });
            }
            if found.shape != [rows] && found.shape != [rows, 1] {
                let (expected, found) = (vec![rows], found.shape.clone());
                return Err(Error::Shape { path, tensor, expected, found });
            }
            of.insert(matrix, scales);
        }
        Ok(Scales { file, of })
    }

    fn read(&self, index: usize, rows: Range<u64>) -> Result<Vec<f32>> {
        let mut bytes = vec![0; 4 * (rows.end - rows.start) as usize];
        match self.file.tensors()[index].shape.len() {
            1 => self.file.read_columns(index, rows, &mut bytes)?,
            _ => self.file.read_rows(index, rows, &mut bytes)?,
        }
        let (scales, _) = bytes.as_chunks::<4>();
        Ok(scales.iter().map(|&scale| f32::from_le_bytes(scale)).collect())
    }
}

/// What Meta calls the scales of `layers.N.feed_forward.wM.weight`.
fn key(tensor: &str, rank: usize) -> String {
    let stem = tensor.strip_prefix("layers.").and_then(|rest| rest.strip_suffix(".weight"));
    match stem.and_then(|stem| stem.split_once('.')) {
        Some((layer, matrix)) => format!("{layer}_{matrix}_{rank}"),
        None => format!("{tensor}_{rank}"),
    }
}

/// The number with one sign bit, four of exponent (bias 7) and three of mantissa; all ones is NaN,
/// and nothing is infinite (Micikevicius et al. 2022, E4M3).
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (u32::from((code >> 3) & 0xf), u32::from(code & 7));
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        (0, mantissa) => mantissa as f32 / 512.0,
        (exponent, mantissa) => f32::from_bits(((exponent + 120) << 23) | (mantissa << 20)),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_published_values() {
        let cases =
            [(0x00, 0.0), (0x01, 1.0 / 512.0), (0x08, 1.0 / 64.0), (0x38, 1.0), (0x7e, 448.0)];
        for (code, value) in cases {
            assert_eq!(e4m3(code), value);
            assert_eq!(e4m3(code | 0x80), -value);
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        // All others are finite, and rise with the code.
        assert!((0..0x7e).all(|code| e4m3(code) < e4m3(code + 1)));
    }

    #[test]
    fn scales_are_found_by_layer_matrix_and_rank() {
        assert_eq!(key("layers.17.feed_forward.w2.weight", 3), "17_feed_forward.w2_3");
    }
}
