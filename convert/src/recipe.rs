//! Recipes: TOML files that say which tensor gets which type.
//!
//! ```toml
//! type = "q4_k_m"          # the mix of tensors that nothing below names
//!
//! [tensors]                # by name
//! "output.weight" = "q6_k"
//!
//! [[patterns]]             # by what is found in the name; the first that is found holds
//! find = 'attn_v\.weight$'
//! type = "q6_k"
//! ```

use std::{collections::BTreeMap, ops::Range, path::Path};

use llq_gguf::{Overwrite, TensorType};
use llq_quant::mix::{Mix, is_quantized};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use toml::Spanned;

use crate::{
    Error, Plan, Tensors, TypeRules, error::Result, parse_tensor_type, weights::InputFile,
};

/// Size limit of a file in bytes: a line per tensor of the largest models is far from it. Each rule
/// may be compared with each tensor.
const MAX_BYTES: u64 = 1 << 20;

/// The most patterns; a compiled one is much larger than its text.
const MAX_PATTERNS: usize = 1 << 10;

/// Which tensor gets which type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TypeRecipe {
    /// The mix of the tensors that no rule meets.
    pub mix: Option<Mix>,
    /// The types of the others.
    pub rules: TypeRules,
}

/// The file, before its names are understood.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    r#type: Option<Spanned<String>>,
    #[serde(default)]
    tensors: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    patterns: Vec<PatternTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternTable {
    find: Spanned<String>,
    r#type: Spanned<String>,
}

impl TypeRecipe {
    /// Reads a file.
    ///
    /// # Errors
    /// Where the file is no such TOML; names the line.
    pub fn read(path: &Path) -> Result<TypeRecipe> {
        let bytes = InputFile::read_small(path, MAX_BYTES)?;
        let text = match String::from_utf8(bytes) {
            Ok(text) => Text::new(path, text),
            Err(error) => {
                let end = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(&error.as_bytes()[..end]).into_owned();
                return Err(Text::new(path, text).error(end..end, "not UTF-8".to_owned()));
            }
        };
        let document: Document = toml::from_str(&text.text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            text.error(span, error.message().to_owned())
        })?;
        let mut recipe = TypeRecipe { mix: None, rules: TypeRules::default() };
        if let Some(name) = document.r#type {
            let unknown =
                || format!("llq has no type {:?}; llq formats lists them", name.get_ref());
            let mix = Mix::from_name(name.get_ref());
            recipe.mix = Some(mix.ok_or_else(|| text.error(name.span(), unknown()))?);
        }
        for (tensor, type_name) in document.tensors {
            let origin = text.place(&type_name.span());
            recipe.rules.push(Tensors::Named(tensor), text.tensor_type(&type_name)?, origin);
        }
        if let Some(first) = document.patterns.get(MAX_PATTERNS) {
            let problem = format!("more than {MAX_PATTERNS} patterns");
            return Err(text.error(first.find.span(), problem));
        }
        for PatternTable { find, r#type } in document.patterns {
            let tensors = Tensors::matching(find.get_ref());
            let tensors = tensors.map_err(|error| text.error(find.span(), error.to_string()))?;
            let origin = text.place(&find.span());
            recipe.rules.push(tensors, text.tensor_type(&r#type)?, origin);
        }
        Ok(recipe)
    }
}

/// The text of a file, and where that lies.
struct Text<'a> {
    path: &'a Path,
    text: String,
    /// Places of the line ends.
    line_ends: Vec<usize>,
}

impl<'a> Text<'a> {
    fn new(path: &'a Path, text: String) -> Text<'a> {
        let bytes = text.bytes().enumerate();
        let line_ends = bytes.filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at).collect();
        Text { path, text, line_ends }
    }

    fn tensor_type(&self, name: &Spanned<String>) -> Result<TensorType> {
        parse_tensor_type(name.get_ref())
            .map_err(|error| self.error(name.span(), error.to_string()))
    }

    fn error(&self, at: Range<usize>, problem: String) -> Error {
        Error::Recipe { path: self.path.to_path_buf(), line: self.line(&at), problem }
    }

    fn place(&self, at: &Range<usize>) -> String {
        format!("{}, line {}", self.path.display(), self.line(at))
    }

    /// The line's number, from 1.
    fn line(&self, at: &Range<usize>) -> usize {
        1 + self.line_ends.partition_point(|&end| end < at.start)
    }
}

/// A mix, and types by name in the order of a file: what programs write.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeTable {
    /// The mix that the whole goes by, whose `general.file_type` a model gets.
    pub mix: Mix,
    /// Each tensor with its type.
    pub tensors: Vec<(String, TensorType)>,
}

impl TypeTable {
    /// The types that a plan gives, of those tensors that a mix can have a say in. `None` where the
    /// plan follows no mix.
    pub fn of(plan: &Plan) -> Option<TypeTable> {
        let tensors = plan.tensors().iter().filter(|tensor| is_quantized(&tensor.spec()));
        let tensors = tensors.map(|tensor| (tensor.name.clone(), tensor.to)).collect();
        Some(TypeTable { mix: plan.recipe()?.mix, tensors })
    }

    /// The text that [`TypeRecipe::read`] takes.
    pub fn to_toml(&self) -> String {
        let form =
            Written { r#type: self.mix.name().to_lowercase(), tensors: Types(&self.tensors) };
        // Texts and a table of texts can always be written.
        toml::to_string(&form).unwrap_or_default()
    }

    /// Writes a file, which appears when it is complete.
    pub fn write(&self, path: &Path, overwrite: Overwrite) -> Result<()> {
        Ok(llq_gguf::write_whole(path, self.to_toml().as_bytes(), overwrite)?)
    }
}

#[derive(Serialize)]
struct Written<'a> {
    r#type: String,
    tensors: Types<'a>,
}

struct Types<'a>(&'a [(String, TensorType)]);

impl Serialize for Types<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, tensor_type) in self.0 {
            map.serialize_entry(name, &tensor_type.name().to_lowercase())?;
        }
        map.end()
    }
}
