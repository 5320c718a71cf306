//! Importance and recipes: collected, merged, shown, and used.

use std::fs;

use crate::harness::{Outcome, Place, corpus, tiny_gguf};

/// Runs llq; `MODEL` and `TEXT` stand for the fixture's.
fn run(place: &Place, line: &str) -> Outcome {
    let (model, text) = (tiny_gguf(), corpus());
    place.llq(line.split_whitespace().map(|word| match word {
        "MODEL" => model.as_os_str().to_owned(),
        "TEXT" => text.as_os_str().to_owned(),
        word => word.into(),
    }))
}

const COLLECT: &str = "imatrix MODEL --corpus TEXT --ctx 64";

#[test]
fn importance_is_collected_merged_and_shown() {
    let place = Place::new();
    let made = run(&place, &format!("{COLLECT} --chunks 2 -o two.gguf --json")).ok().json();
    assert_eq!(
        (&made["tensors"], &made["chunks"], &made["mode"]),
        (&42.into(), &2.into(), &"exact".into())
    );
    run(&place, &format!("{COLLECT} --chunks 1 --process-output -o one.dat --format dat")).ok();
    let merged = place.run("imatrix --merge two.gguf one.dat two.gguf -o all.gguf").ok();
    // The older form does not tell the length of windows.
    assert!(merged.stderr.contains("note: ") && merged.stderr.contains("512 tokens"), "{merged}");
    assert!(merged.stderr.contains("all.gguf: 43 tensors"), "{merged}");

    let two = place.run("imatrix --show two.gguf --json").ok().json();
    assert_eq!(two["datasets"][0], "sampled.txt");
    let tensor = &two["tensors"][0];
    assert_eq!(
        (&tensor["name"], &tensor["tokens"]),
        (&"blk.0.attn_k.weight".into(), &128.0.into())
    );
    let twice = place.run("imatrix --show all.gguf").ok();
    assert!(
        twice.stdout.contains("blk.5.ffn_down.weight") && twice.stdout.contains("output.weight")
    );
    assert_eq!(place.files(), ["all.gguf", "one.dat", "two.gguf"]);
}

#[test]
fn any_number_of_threads_collects_the_same_file() {
    let place = Place::new();
    for threads in [1, 3] {
        let line = format!("{COLLECT} --chunks 3 -o {threads}.gguf --threads {threads}");
        run(&place, &line).ok();
    }
    assert!(fs::read(place.path("1.gguf")).unwrap() == fs::read(place.path("3.gguf")).unwrap());
}

#[test]
fn what_cannot_be_collected_is_refused() {
    let place = Place::new();
    place.write("text.txt", "too short");
    place.write("none.gguf", "GGUF but not");
    place.write("none.dat", [1, 0, 0, 0, 255, 255, 255, 127]);
    let cases = [
        ("imatrix MODEL -o out.gguf", "--corpus"),
        ("imatrix MODEL --corpus TEXT", "--output"),
        ("imatrix --merge -o out.gguf", "--merge"),
        ("imatrix --merge none.dat MODEL -o out.gguf", "none.dat"),
        ("imatrix --show none.gguf", "none.gguf"),
        ("imatrix --show none.gguf --ctx 64", "--corpus"),
        ("imatrix --show MODEL", "\"imatrix\""),
        ("imatrix --show none.dat -o out.gguf", "--output"),
        ("imatrix MODEL --corpus text.txt -o out.gguf", "text.txt"),
        ("imatrix MODEL --corpus TEXT --chunks 1 -o none.dat", "none.dat exists"),
        ("imatrix --merge none.dat -o none.dat --force", "the same file"),
    ];
    for (line, said) in cases {
        run(&place, line).refused(&[said]);
    }
    assert_eq!(place.files(), ["none.dat", "none.gguf", "text.txt"]);
}

#[test]
fn importance_guides_convert_quantize_and_sweep() {
    let place = Place::new();
    run(&place, &format!("{COLLECT} --chunks 4 -o importance.gguf")).ok();
    run(&place, "quantize MODEL -o plain.gguf --type q3_k").ok();
    run(&place, "quantize MODEL -o guided.gguf --type q3_k --imatrix importance.gguf").ok();
    run(&place, "convert MODEL -o again.gguf --type q3_k --imatrix importance.gguf").ok();
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    assert!(read("guided.gguf") == read("again.gguf") && read("guided.gguf") != read("plain.gguf"));
    let shown = place.run("inspect guided.gguf").ok().stdout;
    assert!(shown.contains("quantize.imatrix.entries_count"), "{shown}");
    let line = "sweep MODEL --corpus TEXT --chunks 1 --ctx 32 --types q2_k --json";
    let plain = run(&place, line).ok().json();
    let guided = run(&place, &format!("{line} --imatrix importance.gguf")).ok().json();
    assert_ne!(plain["rows"][1]["perplexity"], guided["rows"][1]["perplexity"]);
    run(&place, "quantize MODEL -o out.gguf --type q3_k --imatrix plain.gguf")
        .refused(&["\"model\""]);
    // An input is no output.
    run(&place, "quantize MODEL -o importance.gguf --type q3_k --imatrix importance.gguf --force")
        .refused(&["the same file"]);
}

#[test]
fn single_tensors_get_types_of_their_own() {
    let place = Place::new();
    let line = "quantize MODEL -o out.gguf --type q4_k_s --pure --output-tensor-type q8_0 \
                --token-embedding-type q8_0 --tensor-type ffn_down=q6_k --tensor-type blk\\.0\\.=q5_k";
    let planned = run(&place, &format!("{line} --dry-run --json")).ok().json();
    let type_of = |name: &str| {
        let tensors = planned["tensors"].as_array().unwrap().iter();
        tensors.clone().find(|tensor| tensor["name"] == name).unwrap()["to"].clone()
    };
    assert_eq!(type_of("output.weight"), "Q8_0");
    assert_eq!(type_of("token_embd.weight"), "Q8_0");
    assert_eq!(type_of("blk.0.ffn_down.weight"), "Q6_K");
    assert_eq!(type_of("blk.0.attn_q.weight"), "Q5_K");
    assert_eq!(type_of("blk.1.attn_q.weight"), "Q4_K");
    for (rule, said) in [("attn_v", "REGEX=TYPE"), ("(=q4_k", "regular"), ("a=q4", "\"q4\"")] {
        run(&place, &format!("quantize MODEL -o out.gguf --type q4_k --tensor-type {rule}"))
            .refused(&[said]);
    }
}

#[test]
fn a_recipe_makes_the_same_model_again() {
    let place = Place::new();
    let line = "quantize MODEL --type q4_k_m --tensor-type attn_v=q8_0";
    run(&place, &format!("{line} -o first.gguf --write-recipe recipe.toml")).ok();
    run(&place, "quantize MODEL --recipe recipe.toml -o second.gguf").ok();
    run(&place, "convert MODEL --recipe recipe.toml -o third.gguf").ok();
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    assert!(read("first.gguf") == read("second.gguf") && read("first.gguf") == read("third.gguf"));

    // It can be had without a model, and is not overwritten.
    run(&place, &format!("{line} -o dry.gguf --write-recipe dry.toml --dry-run")).ok();
    assert_eq!(read("dry.toml"), read("recipe.toml"));
    run(&place, &format!("{line} -o dry.gguf --write-recipe dry.toml --dry-run"))
        .refused(&["dry.toml exists"]);
    run(&place, &format!("{line} -o x.gguf --write-recipe x.gguf")).refused(&["x.gguf"]);
    place.write("bad.toml", "type = \"q4_k\"\n[tensors]\n\"blk.6.attn_q.weight\" = \"q4_k\"\n");
    run(&place, "quantize MODEL --recipe bad.toml -o x.gguf")
        .refused(&["bad.toml, line 3", "blk.6.attn_q.weight"]);
    place.write("none.toml", "[tensors]\n\"output.weight\" = \"q8_0\"\n");
    run(&place, "quantize MODEL --recipe none.toml -o x.gguf").refused(&["--type"]);
    run(&place, "quantize MODEL -o x.gguf").refused(&["--type"]);
    assert!(!place.path("x.gguf").exists() && !place.path("dry.gguf").exists());
}
