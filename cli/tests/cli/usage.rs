//! The command line itself.

use crate::harness::{Place, assert_outcome};

#[test]
fn without_a_command_it_shows_what_there_is() {
    assert_outcome!(Place::new().run(""), @r#"
    exit code 2
    --- stdout
    --- stderr
    Convert LLaMA checkpoints to GGUF, quantize them, and measure what that cost

    Usage: llq [OPTIONS] <COMMAND>

    Examples:
      llq convert Llama-2-7b-hf -o llama-2-7b.gguf
      llq quantize llama-2-7b.gguf -o llama-2-7b-q4_k_m.gguf --type q4_k
      llq perplexity llama-2-7b-q4_k_m.gguf --corpus wiki.test.txt --against llama-2-7b.gguf
      llq sweep Llama-2-7b-hf --corpus wiki.test.txt --types q8_0,q4_k_m,q3_k_m

    Make a model:
      convert      Convert a checkpoint to GGUF, quantized in the same pass where a type is given
      quantize     Quantize a GGUF model
      imatrix      Collect how much each input channel of a model's matrices carries on a text
      transform    Move or scale the channels of a model without changing what it computes
      sample       Let a model write text, to calibrate with where there is no text of one's own

    Judge it:
      perplexity   Measure how well a model predicts a text
      sweep        Quantize a model to each type, measure each, and print one table
      compare      Compare the weights of two models, tensor by tensor
      verify       Check a model: its structure, every block of every tensor, and what loaders ask of
                   its metadata

    Look into it, change it, pass it on:
      inspect      Show what a GGUF file holds
      diff         Show what differs between two models: metadata, and tensors by name, type, shape and
                   bytes
      edit         Change the metadata of a GGUF file: set, delete and rename keys
      split        Split a GGUF file into parts that loaders open as one model
      merge        Merge the parts of a split GGUF model into one file
      hash         Print the SHA-256 sum of every tensor, and one of all together
      tokenize     Show the tokens of a text, or the text of tokens

    llq itself:
      formats      List the types and the formats llq knows
      cpu          Show the instruction sets found and the code that was chosen
      bench        Measure the kernels on this machine, beside what the machine can do at most
      completions  Print a script with which a shell completes llq's commands and options
      man          Print the manual page of llq or of one of its commands, or write all of them to a
                   folder
      help         Print this message or the help of the given subcommand(s)

    Everywhere:
          --threads <N>   Threads to compute on [default: one per core]. Results do not depend on it
          --json          Print results as JSON
      -q, --quiet         Show no progress, only results, notes and errors
          --color <WHEN>  Colour: auto looks for a terminal and for NO_COLOR [default: auto] [possible
                          values: auto, always, never]
      -h, --help          Print help
      -V, --version       Print version
    "#);
}

#[test]
fn help_has_examples_before_options() {
    assert_outcome!(Place::new().run("convert --help"), @r#"
    exit code 0
    --- stdout
    Convert a checkpoint to GGUF, quantized in the same pass where a type is given.

    CHECKPOINT is a folder with config.json and safetensors or pytorch_model.bin (Hugging Face), or with
    params.json and consolidated.NN.pth (Meta) or consolidated.safetensors (Mistral). Nothing in a .bin
    or .pth file is executed. It may also be a GGUF file, by itself or in a llamafile, or a GGML file of
    2023 (ggml, ggmf, ggjt), whose tensors keep their types unless others are asked for.

    A LoRA adapter is merged into the checkpoint with --lora. Given as CHECKPOINT, its folder becomes a
    GGUF adapter, in F32 unless --outtype says otherwise.

    Usage: llq convert [OPTIONS] --output <GGUF> <CHECKPOINT>

    Examples:
      llq convert Llama-2-7b-hf -o llama-2-7b.gguf
      llq convert Llama-2-7b-hf -o llama-2-7b-q4_k_m.gguf --type q4_k_m
      llq convert llama-2-7b -o llama-2-7b.gguf --outtype f16 --ctx 4096
      llq convert llama-2-7b.gguf -o parts.gguf --split-max-size 2G
      llq convert ggml-model-q4_0.bin -o model.gguf
      llq convert Llama-2-7b-hf --lora alpaca-lora -o alpaca-q4_k_m.gguf --type q4_k_m
      llq convert alpaca-lora --base Llama-2-7b-hf -o alpaca-lora.gguf

    Arguments:
      <CHECKPOINT>
              The folder of the checkpoint, a GGUF file, a llamafile, or a legacy GGML file

    Options:
      -o, --output <GGUF>
              The file to write, or a folder, in which its name follows from the metadata

          --force
              Replace the output where it exists

          --dry-run
              Only say what would be written

          --no-check
              Do not evaluate the quantized file on a short text. By default a file that predicts
              otherwise than its source is told of, with exit code 1

          --resume
              Go on where an interrupted run with this option stopped, with the same output and
              settings. Unfinished files lie in the folder .llq-NAME.resume beside the output until it
              is complete

          --outtype <TYPE>
              Plain type of the matrices; auto keeps the checkpoint's
              
              [default: auto]
              [possible values: auto, f32, f16, bf16]

          --type <TYPE>
              Quantize to this type

          --pure
              Give every matrix the base type, without the mix's exceptions

          --effort <EFFORT>
              How long to search for the scales with the least error; best takes several times as long

              Possible values:
              - fast:    Legacy types as the reference encodes them
              - default: Scales of all types are searched
              - best:    More starts, and more steps from each
              
              [default: default]

          --imatrix <FILE>
              Have errors where they matter least, by what llq imatrix or llama.cpp's tool collected

          --output-tensor-type <TYPE>
              Type of the output matrix, also where the embedding serves as such

          --token-embedding-type <TYPE>
              Type of the token embedding

          --tensor-type <REGEX=TYPE>
              Type of the tensors in whose names the regular expression is found, such as attn_v=q6_k;
              may be given again, the first that is found holds

          --recipe <FILE>
              A TOML file that says which tensor gets which type; the options above come first

          --write-recipe <FILE>
              Write the type of every tensor to this file, which --recipe reads; also with --dry-run

          --lora <FOLDER[=SCALE]>
              Merge this LoRA adapter (a folder that PEFT saved) into the checkpoint, its change
              multiplied by SCALE [default: 1]; may be given again

          --base <FOLDER>
              For an adapter: the folder of its model, of which only config.json is read

          --on-overflow <POLICY>
              What to do with weights that are too large for their new type; keep-bf16 makes BF16 of a
              tensor that does not fit F16
              
              [default: error]
              [possible values: error, clamp, keep-bf16]

          --endian <ORDER>
              Byte order of the output
              
              [default: little]
              [possible values: little, big]

          --split-max-size <SIZE>
              Split the output into files of at most this size, such as 2G or 500M, powers of 1000

          --split-max-tensors <N>
              Split the output into files of at most this many tensors

          --allow-requantize
              Decode and encode again what is quantized already, though each encoding loses something

          --ctx <N>
              Context length to write in place of the checkpoint's

          --pre <NAME>
              Pre-tokenizer of a byte-level BPE, by llama.cpp's name, in place of the recognised one

          --eps <EPSILON>
              Epsilon of the RMS norms, which a legacy GGML file does not say

          --verify-checksums
              First compare the files with the MD5 sums in Meta's checklist.chk

          --metadata <FILE>
              A JSON file, an object of metadata to set: GGUF keys, or those of general.* without that;
              null removes a key

          --name <NAME>
              The model's name (general.name)

      -h, --help
              Print help (see a summary with '-h')

    Everywhere:
          --threads <N>
              Threads to compute on [default: one per core]. Results do not depend on it

          --json
              Print results as JSON

      -q, --quiet
              Show no progress, only results, notes and errors

          --color <WHEN>
              Colour: auto looks for a terminal and for NO_COLOR
              
              [default: auto]
              [possible values: auto, always, never]

    Types: f32, bf16, f16, q8_0, q6_k, q5_1, q5_k_m, q5_k_s, q5_0, q4_1, q4_k_m, q4_k_s, q4_0, q3_k_l,
    q3_k_m, q3_k_s, q2_k, q2_k_s.
    q3_k means q3_k_m, q4_k means q4_k_m, q5_k means q5_k_m. Case does not matter, nor - for _. See llq
    formats.
    --- stderr
    "#);
}

#[test]
fn every_command_has_examples() {
    let measuring = ["perplexity", "sweep", "bench"];
    for command in ["convert", "quantize", "inspect", "formats", "cpu"].into_iter().chain(measuring)
    {
        let help = Place::new().llq([command, "--help"]).ok().stdout;
        let (examples, options) = (help.find("Examples:"), help.find("Options:"));
        assert!(examples.is_some() && examples < options, "{help}");
    }
}

#[test]
fn a_mistyped_command_is_guessed() {
    assert_outcome!(Place::new().run("quantise"), @r#"
    exit code 2
    --- stdout
    --- stderr
    error: unrecognized subcommand 'quantise'

      tip: a similar subcommand exists: 'quantize'

    Usage: llq [OPTIONS] <COMMAND>

    For more information, try '--help'.
    "#);
}

#[test]
fn an_unknown_type_lists_the_known_ones() {
    assert_outcome!(Place::new().run("quantize model.gguf -o out.gguf --type q4_z"), @r#"
    exit code 2
    --- stdout
    --- stderr
    error: invalid value 'q4_z' for '--type <TYPE>': llq has no such type; it has f32, bf16, f16, q8_0, q6_k, q5_1, q5_k_m, q5_k_s, q5_0, q4_1, q4_k_m, q4_k_s, q4_0, q3_k_l, q3_k_m, q3_k_s, q2_k, q2_k_s

    For more information, try '--help'.
    "#);
}

#[test]
fn types_are_found_in_any_spelling() {
    for name in ["q4_k", "Q4_K_M", "q4-k-m", "Q8-0"] {
        Place::new()
            .llq(["quantize", "none.gguf", "-o", "out.gguf", "--type", name])
            .refused(&["none.gguf: No such file"]);
    }
}

#[test]
fn absurd_numbers_are_refused() {
    for line in [
        "cpu --threads 0",
        "cpu --threads 4097",
        "perplexity m.gguf --corpus t.txt --ctx 0",
        "perplexity m.gguf --corpus t.txt --ctx 9999999999",
        "perplexity m.gguf --corpus t.txt --chunks 0",
    ] {
        Place::new().run(line).refused(&["invalid value", "is not in"]);
    }
}

#[test]
fn outtype_and_type_exclude_each_other() {
    Place::new()
        .run("convert folder -o out.gguf --outtype f16 --type q8_0")
        .refused(&["--outtype", "cannot be used with"]);
}

#[test]
fn options_without_effect_are_refused() {
    let place = Place::new();
    place.run("convert folder -o out.gguf --pure").refused(&["--type <TYPE>"]);
    place.run("perplexity model.gguf --corpus text.txt --ctx 2").refused(&["3..=1048576"]);
}

#[test]
fn colour_is_asked_for_or_absent() {
    let place = Place::new();
    let coloured = place.run("--color always inspect none.gguf");
    assert!(coloured.stderr.starts_with("\u{1b}["), "{coloured}");
    for line in ["inspect none.gguf", "inspect none.gguf --color never"] {
        let plain = place.run(line);
        assert!(!plain.stderr.contains('\u{1b}'), "{plain}");
    }
    let plain = place.run("--color=never quantise");
    assert!(!plain.stderr.contains('\u{1b}'), "{plain}");
    let coloured = place.run("--color=always quantise");
    assert!(coloured.stderr.contains('\u{1b}'), "{coloured}");
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_failure() {
    use std::process::Stdio;

    let place = Place::new();
    let mut command = place.command();
    command.arg("formats").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The reading end is closed before llq has started to write.
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(ended.stderr, b"");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = Place::new().command().arg("formats").stdout(full).output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.starts_with("error: cannot write to standard output\n  caused by: "), "{said}");
}
