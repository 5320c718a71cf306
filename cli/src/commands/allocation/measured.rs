//! A mix that was measured, and how it is told.

use std::{fmt, path::Path};

use anyhow::Context;
use llq_convert::{Endian, Tensors, TypeRules};
use llq_eval::{Against, Corpus, Divergence, Options, evaluate};
use llq_gguf::{Model, TensorType};
use llq_quant::mix::Mix;
use serde::Serialize;

use super::{
    super::{corpus::Evaluating, perplexity},
    Rounding,
};
use crate::{
    escape::Escaped,
    figures::Count,
    output::Output,
    table::{Column, Columns, pairs},
};

/// A mix, and what it was chosen by.
#[derive(Serialize)]
pub(crate) struct Measured {
    #[serde(skip)]
    pub(crate) mix: Mix,
    pub(super) tensors: Vec<Row>,
    /// KL divergence, in nats per token.
    pub(super) predicted: f64,
    /// The same of what was written, on the windows that nothing was chosen by.
    pub(super) measured: Option<Divergence>,
    pub(super) windows: usize,
    /// What measuring took.
    pub(super) seconds: f64,
    #[serde(skip)]
    pub(super) judged: Corpus,
    #[serde(skip)]
    pub(super) rounding: Rounding,
    #[serde(skip)]
    pub(super) options: Options,
}

#[derive(Serialize)]
pub(super) struct Row {
    pub(super) tensor: String,
    #[serde(rename = "type", serialize_with = "type_name")]
    pub(super) tensor_type: TensorType,
    /// Of the tensor's output, relative, squared.
    pub(super) error: f64,
    /// KL divergence per unit of that.
    pub(super) sensitivity: f64,
    pub(super) loss: f64,
}

fn type_name<S: serde::Serializer>(found: &TensorType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(found.name())
}

impl Measured {
    /// The types, as rules.
    pub(crate) fn rules(&self) -> TypeRules {
        let mut rules = TypeRules::default();
        for row in &self.tensors {
            rules.push(Tensors::Named(row.tensor.clone()), row.tensor_type, "the measured mix");
        }
        rules
    }

    /// Judges what was written.
    pub(crate) fn judge(
        &mut self,
        input: &Path,
        made: &Path,
        endian: Endian,
        output: &Output,
    ) -> anyhow::Result<()> {
        if endian == Endian::Big {
            output.note(&"what was written is big-endian, which llq does not evaluate");
            return Ok(());
        }
        let (model, base) = (perplexity::open(made)?, perplexity::open(input)?);
        let (llama, base) = (perplexity::load(&model)?, perplexity::load(&base)?);
        let progress = Evaluating::new(output, "judging");
        let report =
            evaluate(&llama, Against::Model(&base), &self.judged, &self.options, &progress)
                .with_context(|| format!("cannot measure {}", made.display()))?;
        self.measured = report.against.map(|comparison| comparison.kld);
        Ok(())
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            Column::left("tensor"),
            Column::left("type"),
            Column::right("error"),
            Column::right("KL per error"),
            Column::right("KL divergence"),
        ];
        let cells = |row: &Row| {
            vec![
                Escaped(&row.tensor).to_string(),
                row.tensor_type.name().to_owned(),
                format!("{:.6}", row.error),
                format!("{:.4}", row.sensitivity),
                format!("{:.6}", row.loss),
            ]
        };
        let rows: Vec<Vec<String>> = self.tensors.iter().map(cells).collect();
        let windows = Count(self.windows as u64);
        let mut lines = vec![("predicted", format!("{:.6}, on {windows} windows", self.predicted))];
        if let Some(kld) = &self.measured {
            let judged = Count(self.judged.windows(self.options.context) as u64);
            let whose = match self.rounding {
                Rounding::Plain => "",
                Rounding::Calibrated => " of the text that it was calibrated on",
            };
            let (mean, stderr) = (kld.mean, kld.stderr);
            let measured = format!("{mean:.6} ± {stderr:.6}, on {judged} other windows{whose}");
            lines.push(("measured", measured));
        }
        write!(f, "{}\n{}", Columns::new(columns).table(&rows), pairs(&lines))
    }
}

/// The mix that is named after the type that most weights have.
pub(super) fn common_mix(model: &Model, rows: &[Row]) -> Mix {
    let weights = |wanted: TensorType| -> u64 {
        let rows = rows.iter().filter(|row| row.tensor_type == wanted);
        rows.filter_map(|row| model.tensor(&row.tensor)).map(|tensor| tensor.weights()).sum()
    };
    let common = rows.iter().map(|row| row.tensor_type).max_by_key(|&found| weights(found));
    common.and_then(|common| Mix::from_name(common.name())).unwrap_or(Mix::Q8_0)
}
