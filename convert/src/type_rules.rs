//! Types of single tensors, in place of those of a mix.

use fancy_regex::{Regex, RegexBuilder};
use llq_gguf::{TensorSpec, TensorType};
use llq_quant::{
    FORMATS, format,
    mix::{Assignment, Head, fit, is_quantized},
};

use crate::{Error, Note, error::Result};

/// Of one compiled pattern, in bytes.
const MAX_PATTERN: usize = 1 << 16;

/// Of the search for one pattern in one name.
const MAX_STEPS: usize = 10_000;

/// Which tensors get a type of their own. The first rule that meets a tensor holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TypeRules(Vec<TypeRule>);

/// A type for some tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeRule {
    tensors: Tensors,
    tensor_type: TensorType,
    origin: String,
}

/// Which tensors a [`TypeRule`] is for.
#[derive(Clone, Debug)]
pub enum Tensors {
    /// The matrix that makes logits, `output.weight` or the embedding that serves as such. The type
    /// has to fit.
    Output,
    /// `token_embd.weight`. The type has to fit.
    TokenEmbedding,
    /// The tensor of this name. It has to be there, and the type to fit.
    Named(String),
    /// Those in whose name the pattern is found, in any letter case. Where blocks do not fill the
    /// rows, they get the nearest type.
    Matching(Regex),
}

/// Why a rule can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TypeRuleError {
    /// There is no such type, or llq does not write it.
    #[error("llq has no tensor type {found:?}; it has {}", type_names())]
    Type {
        /// What was given.
        found: String,
    },
    /// The pattern is no regular expression.
    #[error("{pattern:?} is no regular expression: {problem}")]
    Pattern {
        /// What was given.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A rule was not of the form `REGEX=TYPE`.
    #[error("expected REGEX=TYPE, such as attn_v=q6_k")]
    Form,
}

impl TypeRules {
    /// Appends a rule; `origin` tells in errors where it comes from.
    pub fn push(&mut self, tensors: Tensors, tensor_type: TensorType, origin: impl Into<String>) {
        self.0.push(TypeRule { tensors, tensor_type, origin: origin.into() });
    }

    /// Appends rules that hold where no rule before them does.
    pub fn extend(&mut self, rules: TypeRules) {
        self.0.extend(rules.0);
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts the rules' types in place of those that a mix has assigned; what a pattern did not meet
    /// is told.
    pub(crate) fn apply(
        &self,
        head: Head,
        specs: &[TensorSpec],
        assigned: &mut [Assignment],
        notes: &mut Vec<Note>,
    ) -> Result<()> {
        let mut met = vec![false; self.0.len()];
        for (spec, assignment) in specs.iter().zip(assigned) {
            for (rule, met) in self.0.iter().zip(&mut met) {
                if rule.meets(&spec.name, head)? {
                    *met = true;
                    if let Some(own) = rule.assignment(spec)? {
                        *assignment = own;
                    }
                    break;
                }
            }
        }
        for (rule, _) in self.0.iter().zip(met).filter(|(_, met)| !met) {
            // An earlier rule may have taken all that this one is for.
            let mut is_there = false;
            for spec in specs {
                is_there |= rule.meets(&spec.name, head)?;
            }
            match &rule.tensors {
                _ if is_there => {}
                Tensors::Named(name) => {
                    let (origin, tensor) = (rule.origin.clone(), name.clone());
                    return Err(Error::RuleWithoutTensor { origin, tensor });
                }
                _ => notes.push(Note(format!("{}: no tensor is met by it", rule.origin))),
            }
        }
        Ok(())
    }
}

impl TypeRule {
    fn meets(&self, name: &str, head: Head) -> Result<bool> {
        Ok(match &self.tensors {
            Tensors::Output if head == Head::Tied => name == "token_embd.weight",
            Tensors::Output => name == "output.weight",
            Tensors::TokenEmbedding => name == "token_embd.weight",
            Tensors::Named(wanted) => name == wanted,
            Tensors::Matching(pattern) => pattern.is_match(name).map_err(|error| {
                let (origin, problem) = (self.origin.clone(), error.to_string());
                Error::RulePattern { origin, tensor: name.to_owned(), problem }
            })?,
        })
    }

    /// What the tensor becomes; `None` where no mix touches it, nor a pattern.
    fn assignment(&self, spec: &TensorSpec) -> Result<Option<Assignment>> {
        let cols = spec.shape.first().copied().unwrap_or(1);
        let own = Assignment { tensor_type: self.tensor_type, fallback: None };
        let refused = |problem: String| {
            let (origin, tensor) = (self.origin.clone(), spec.name.clone());
            let tensor_type = self.tensor_type;
            Err(Error::Rule { origin, tensor, tensor_type, problem })
        };
        match &self.tensors {
            Tensors::Matching(_) if !is_quantized(spec) => Ok(None),
            Tensors::Matching(_) => Ok(Some(fit(self.tensor_type, cols))),
            _ if !is_quantized(spec) && self.tensor_type != TensorType::F32 => {
                refused("it is one of the tensors that stay F32".to_owned())
            }
            _ if self.tensor_type.row_bytes(cols).is_none() => {
                let block = self.tensor_type.block_weights();
                refused(format!("blocks of {block} weights do not fill rows of {cols}"))
            }
            _ => Ok(Some(own)),
        }
    }
}

impl Tensors {
    /// Those in whose name `pattern` is found.
    pub fn matching(pattern: &str) -> std::result::Result<Tensors, TypeRuleError> {
        let built = RegexBuilder::new(pattern)
            .case_insensitive(true)
            .delegate_size_limit(MAX_PATTERN)
            .delegate_dfa_size_limit(MAX_PATTERN)
            .backtrack_limit(MAX_STEPS)
            .build();
        match built {
            Ok(pattern) => Ok(Tensors::Matching(pattern)),
            Err(error) => Err(TypeRuleError::Pattern {
                pattern: pattern.to_owned(),
                problem: error.to_string(),
            }),
        }
    }
}

impl PartialEq for Tensors {
    fn eq(&self, other: &Tensors) -> bool {
        match (self, other) {
            (Tensors::Output, Tensors::Output) => true,
            (Tensors::TokenEmbedding, Tensors::TokenEmbedding) => true,
            (Tensors::Named(a), Tensors::Named(b)) => a == b,
            (Tensors::Matching(a), Tensors::Matching(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// The tensor type of this name, of those that llq writes.
pub fn parse_tensor_type(name: &str) -> std::result::Result<TensorType, TypeRuleError> {
    let known = TensorType::from_name(name).filter(|&known| format(known).is_some());
    known.ok_or_else(|| TypeRuleError::Type { found: name.to_owned() })
}

fn type_names() -> String {
    FORMATS.iter().map(|format| format.name().to_lowercase()).collect::<Vec<_>>().join(", ")
}
