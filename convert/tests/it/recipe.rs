//! Types of single tensors: rules and recipes.

use std::{fs, path::PathBuf};

use llq_convert::{
    Error, Plan, Request, Tensors, TypeRecipe, TypeRules, TypeTable, open, parse_tensor_type,
};
use llq_gguf::TensorType;
use llq_quant::mix::Mix;

use crate::support::{assert_says, failure, request, tiny::Tiny};

fn read(text: &str) -> Result<TypeRecipe, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recipe.toml");
    fs::write(&path, text).unwrap();
    TypeRecipe::read(&path)
}

fn model() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let path = folder.path().to_owned();
    (folder, path)
}

fn plan(rules: TypeRules) -> Plan {
    let (_folder, path) = model();
    Plan::new(&*open(&path).unwrap(), &Request { rules, ..request(Mix::Q4_0) }).unwrap()
}

fn types<'p>(plan: &'p Plan, part: &str) -> Vec<(&'p str, TensorType)> {
    let tensors = plan.tensors().iter().filter(|tensor| tensor.name.contains(part));
    tensors.map(|tensor| (&tensor.name[..], tensor.to)).collect()
}

#[test]
fn the_first_rule_holds() {
    let recipe = read(
        r#"
        type = "q8_0"
        [[patterns]]
        find = 'ATTN_[qv]\.'
        type = "q5_1"
        [[patterns]]
        find = "attn"
        type = "Q5_0"
        [tensors]
        "blk.1.attn_v.weight" = "f16"
        "#,
    );
    let recipe = recipe.unwrap();
    assert_eq!(recipe.mix, Some(Mix::Q8_0));
    let plan = plan(recipe.rules);
    let expected = [
        ("blk.0.attn_q.weight", TensorType::Q5_1),
        ("blk.0.attn_k.weight", TensorType::Q5_0),
        ("blk.0.attn_v.weight", TensorType::Q5_1),
        ("blk.0.attn_output.weight", TensorType::Q5_0),
        ("blk.1.attn_v.weight", TensorType::F16),
        // No mix touches norms, and no pattern.
        ("blk.0.attn_norm.weight", TensorType::F32),
        ("blk.0.ffn_up.weight", TensorType::Q4_0),
    ];
    for (name, tensor_type) in expected {
        assert_eq!(types(&plan, name), [(name, tensor_type)]);
    }
    assert_eq!(plan.notes(), []);
}

#[test]
fn the_output_is_the_embedding_where_that_serves() {
    let outer = |tensors: Tensors, tensor_type| {
        let mut rules = TypeRules::default();
        rules.push(tensors, tensor_type, "--option");
        rules
    };
    let separate = plan(outer(Tensors::Output, TensorType::Q8_0));
    assert_eq!(types(&separate, "output.weight")[0], ("output.weight", TensorType::Q8_0));
    assert_eq!(types(&separate, "token_embd"), [("token_embd.weight", TensorType::Q4_0)]);

    let (folder, path) = model();
    let mut tiny = Tiny::new();
    tiny.tensors.remove("lm_head.weight");
    tiny.config["tie_word_embeddings"] = true.into();
    tiny.write(folder.path());
    let rules = outer(Tensors::Output, TensorType::F16);
    let tied = Plan::new(&*open(&path).unwrap(), &Request { rules, ..request(Mix::Q4_0) }).unwrap();
    assert_eq!(types(&tied, "token_embd"), [("token_embd.weight", TensorType::F16)]);
    assert_eq!(types(&tied, "output.weight").len(), 2, "those of the attention");
}

#[test]
fn what_does_not_fit_is_refused_or_told() {
    let (_folder, path) = model();
    let refusal = |text: &str| {
        let rules = read(text).unwrap().rules;
        failure(&path, &Request { rules, ..request(Mix::Q4_0) })
    };
    let error = refusal("[tensors]\n\n\"blk.9.attn_q.weight\" = \"q8_0\"");
    assert_says(&error, &["recipe.toml, line 3", "blk.9.attn_q.weight"]);
    let error = refusal("[tensors]\n\"blk.0.attn_q.weight\" = \"q4_k\"");
    assert_says(&error, &["recipe.toml, line 2", "256 weights do not fill rows of 32"]);
    let error = refusal("[tensors]\n\"blk.0.attn_norm.weight\" = \"q8_0\"");
    assert_says(&error, &["line 2", "blk.0.attn_norm.weight", "stay F32"]);

    let mut rules = TypeRules::default();
    rules.push(Tensors::matching("attn_q").unwrap(), TensorType::Q4_K, "--tensor-type a");
    rules.push(Tensors::matching("_exps").unwrap(), TensorType::Q8_0, "--tensor-type _exps=q8_0");
    rules.push(Tensors::matching("blk.0.attn_q").unwrap(), TensorType::Q8_0, "covered");
    let plan = plan(rules);
    assert_eq!(types(&plan, "blk.0.attn_q"), [("blk.0.attn_q.weight", TensorType::Q5_0)]);
    let wanted = plan.fallbacks().filter(|(_, fallback)| fallback.wanted == TensorType::Q4_K);
    assert_eq!(wanted.count(), 2);
    let notes: Vec<&str> = plan.notes().iter().map(|note| note.0.as_str()).collect();
    assert_eq!(notes, ["--tensor-type _exps=q8_0: no tensor is met by it"]);
}

#[test]
fn mistakes_in_a_recipe_name_their_line() {
    let cases = [
        ("type = \"q4_k_m\"\n[tensors]\n\"a\" = \"q9\"", "line 3", "\"q9\""),
        ("type = \"q4\"", "line 1", "\"q4\""),
        ("\n\ntensor = 1", "line 3", "tensor"),
        ("[tensors]\n\"a\" = \"q8_0\"\n\"a\" = \"q8_0\"", "line 3", "duplicate"),
        ("[[patterns]]\nfind = \"(\"\ntype = \"q8_0\"", "line 2", "regular expression"),
        ("[[patterns]]\nfind = \"a\"\ntype = \"iq2_xs\"", "line 3", "iq2_xs"),
        ("[[patterns]]\nfind = \"a\"", "line 1", "type"),
        ("[tensors]\na = 1", "line 2", "string"),
        ("type = \u{1b}", "line 1", ""),
    ];
    for (text, line, said) in cases {
        assert_says(&read(text).unwrap_err(), &["recipe.toml", line, said]);
    }
    assert!(parse_tensor_type("Q4-K").is_ok() && parse_tensor_type("q8_k").is_err());
}

#[test]
fn a_recipe_does_not_grow_beyond_measure() {
    let patterns = |count: usize| "[[patterns]]\nfind = 'a'\ntype = \"q8_0\"\n".repeat(count);
    assert!(read(&patterns(1024)).is_ok());
    assert_says(&read(&patterns(1025)).unwrap_err(), &["line 3074", "more than 1024 patterns"]);
    for sound in [r"blk\.\d+\.(attn|ffn)_\w+\.weight$", r"^(?!blk\.([0-3]|\d\d)\.).*_\w+$"] {
        let recipe = format!("[[patterns]]\nfind = '{sound}'\ntype = \"q8_0\"");
        assert!(read(&recipe).is_ok(), "{sound}");
    }
    // Small texts that would be megabytes of states.
    for large in [r"\w{100}", r"(?:a{100}){100}"] {
        let recipe = format!("[[patterns]]\nfind = '{large}'\ntype = \"q8_0\"");
        assert_says(&read(&recipe).unwrap_err(), &["line 2", "no regular expression"]);
    }
    let long = format!("# {}", "x".repeat(1 << 20));
    assert_says(&read(&long).unwrap_err(), &["recipe.toml", "more than"]);
}

#[test]
fn what_a_plan_writes_makes_the_same_plan() {
    let (_folder, path) = model();
    let source = open(&path).unwrap();
    let mut rules = TypeRules::default();
    rules.push(Tensors::matching("ffn").unwrap(), TensorType::Q5_1, "test");
    let first = Plan::new(&*source, &Request { rules, ..request(Mix::Q4_K_M) }).unwrap();
    let table = TypeTable::of(&first).unwrap();
    let recipe = read(&table.to_toml()).unwrap();
    assert_eq!(recipe.mix, Some(Mix::Q4_K_M));
    let request = Request { rules: recipe.rules, ..request(Mix::Q4_K_M) };
    let second = Plan::new(&*source, &request).unwrap();
    assert_eq!(types(&first, ""), types(&second, ""));
    // Whatever tensors are called.
    let odd = "a\"b\\c\n\u{7f}é = [x]";
    let table = TypeTable { mix: Mix::Q8_0, tensors: vec![(odd.to_owned(), TensorType::F16)] };
    let rules = read(&table.to_toml()).unwrap().rules;
    let error = failure(&path, &Request { rules, ..request });
    assert!(matches!(error, Error::RuleWithoutTensor { tensor, .. } if tensor == odd));
}
