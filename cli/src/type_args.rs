//! Arguments that say which tensor gets which type, and what encoders are guided by.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use llq_convert::{Imatrix, Tensors, TypeRecipe, TypeRuleError, TypeRules, parse_tensor_type};
use llq_gguf::TensorType;

use crate::{escape::Escaped, output::Output};

/// Types of single tensors, and importance.
#[derive(Args)]
pub(crate) struct TypeArgs {
    /// Have errors where they matter least, by what llq imatrix or llama.cpp's tool collected
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,

    /// Type of the output matrix, also where the embedding serves as such
    #[arg(long, value_name = "TYPE", value_parser = parse_tensor_type)]
    output_tensor_type: Option<TensorType>,

    /// Type of the token embedding
    #[arg(long, value_name = "TYPE", value_parser = parse_tensor_type)]
    token_embedding_type: Option<TensorType>,

    /// Type of the tensors in whose names the regular expression is found, such as attn_v=q6_k; may
    /// be given again, the first that is found holds
    #[arg(long = "tensor-type", value_name = "REGEX=TYPE", value_parser = parse_rule)]
    tensor_types: Vec<Rule>,
}

/// A file of types.
#[derive(Args)]
pub(crate) struct RecipeArgs {
    /// A TOML file that says which tensor gets which type; the options above come first
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,

    /// Write the type of every tensor to this file, which --recipe reads; also with --dry-run
    #[arg(long, value_name = "FILE")]
    pub(crate) write_recipe: Option<PathBuf>,
}

#[derive(Clone)]
struct Rule {
    tensors: Tensors,
    tensor_type: TensorType,
    given: String,
}

fn parse_rule(given: &str) -> Result<Rule, TypeRuleError> {
    let (pattern, name) = given.rsplit_once('=').ok_or(TypeRuleError::Form)?;
    let tensor_type = parse_tensor_type(name)?;
    Ok(Rule { tensors: Tensors::matching(pattern)?, tensor_type, given: given.to_owned() })
}

impl TypeArgs {
    /// The file of importance.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.imatrix.as_deref()
    }

    /// The rules in the order in which they hold.
    pub(crate) fn rules(&self) -> TypeRules {
        let mut rules = TypeRules::default();
        let single = [
            (self.token_embedding_type, Tensors::TokenEmbedding, "--token-embedding-type"),
            (self.output_tensor_type, Tensors::Output, "--output-tensor-type"),
        ];
        for (tensor_type, tensors, option) in single {
            if let Some(tensor_type) = tensor_type {
                rules.push(tensors, tensor_type, option);
            }
        }
        for Rule { tensors, tensor_type, given } in &self.tensor_types {
            rules.push(tensors.clone(), *tensor_type, format!("--tensor-type {given}"));
        }
        rules
    }

    /// Reads the importance, where there is any.
    pub(crate) fn read_imatrix(&self, output: &Output) -> anyhow::Result<Option<Arc<Imatrix>>> {
        let Some(path) = &self.imatrix else { return Ok(None) };
        read_imatrix(path, output).map(Arc::new).map(Some)
    }
}

impl RecipeArgs {
    /// The file that is read.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.recipe.as_deref()
    }

    /// Reads the recipe; one of nothing where there is none.
    pub(crate) fn read(&self) -> Result<TypeRecipe, llq_convert::Error> {
        self.recipe.as_deref().map_or_else(|| Ok(TypeRecipe::default()), TypeRecipe::read)
    }
}

/// Reads a file of importance, and says what it leaves open.
pub(crate) fn read_imatrix(path: &Path, output: &Output) -> anyhow::Result<Imatrix> {
    let (imatrix, note) = Imatrix::read(path)?;
    if let Some(note) = note {
        output.note(&Escaped(&note.0));
    }
    Ok(imatrix)
}
