//! A folder to run llq in, and what a run came to.

use std::{
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use llq_fixtures::fixture;
use llq_gguf::{Layout, Metadata, Model, StreamWriter, TensorSpec, TensorType, Value};
use tempfile::TempDir;

/// What differs between two runs or two machines, and what the snapshots have in its place.
pub(crate) const FILTERS: &[(&str, &str)] = &[
    (r"(?m)^.*: \d+ %, .* left\n", ""),
    (r"[^ \n]*/fixtures/", "FIXTURES/"),
    (r"[^ \n]*/tmp/tiny\.gguf", "SHARED/tiny.gguf"),
    (r"\d+(\.\d+)? [KMG]iB/s", "[rate]"),
    (r"\d+(\.\d+)? s\b", "[time]"),
    (r" +\[time\]", " [time]"),
];

/// Compares an [`Outcome`] with a snapshot.
macro_rules! assert_outcome {
    ($outcome:expr, @$snapshot:literal) => {
        insta::with_settings!({ filters => $crate::harness::FILTERS.to_vec() }, {
            insta::assert_snapshot!($outcome.to_string(), @$snapshot);
        })
    };
}
pub(crate) use assert_outcome;

/// An empty folder, removed at the end. Runs start in it, so messages name files as typed.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The names in the folder, sorted: what a run left behind.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Runs llq in the folder.
    pub(crate) fn llq<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        Outcome::of(self.command().args(args))
    }

    /// Runs llq with a line of arguments, none of which has a space.
    pub(crate) fn run(&self, line: &str) -> Outcome {
        self.llq(line.split_whitespace())
    }

    /// llq, to be started in the folder. The user's own settings are out of the way.
    pub(crate) fn command(&self) -> Command {
        llq_in(self.0.path())
    }
}

/// llq, to be started in a folder.
pub(crate) fn llq_in(folder: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llq"));
    command.current_dir(folder);
    for variable in ["LLQ_ISA", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS"] {
        command.env_remove(variable);
    }
    command
}

/// How a run ended and what it said.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(command: &mut Command) -> Outcome {
        let Output { status, stdout, stderr } = command.output().unwrap();
        Outcome {
            code: status.code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// The run must have worked.
    #[track_caller]
    pub(crate) fn ok(self) -> Outcome {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// The run must have been refused as bad input: exit code 2, nothing on standard output, one
    /// message that says all of `parts`.
    #[track_caller]
    pub(crate) fn refused(self, parts: &[&str]) -> Outcome {
        assert_eq!(self.code, Some(2), "{self}");
        assert_eq!(self.stdout, "", "{self}");
        assert_eq!(self.stderr.matches("error: ").count(), 1, "{self}");
        assert!(!self.stderr.contains("panicked"), "{self}");
        for part in parts {
            assert!(self.stderr.contains(part), "no '{part}' in:\n{self}");
        }
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or("none".to_owned(), |code| code.to_string());
        write!(f, "exit code {code}\n--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// The fixture model as GGUF, converted by the first test that asks.
pub(crate) fn tiny_gguf() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny.gguf");
        let checkpoint = fixture("tiny-llama-2/hf");
        Place::new()
            .llq([
                "convert".as_ref(),
                checkpoint.as_os_str(),
                "-o".as_ref(),
                path.as_os_str(),
                "--force".as_ref(),
            ])
            .ok();
        path
    })
}

/// Its first two blocks as a model, which a calibration is done with sooner.
pub(crate) fn two_blocks_gguf() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("two_blocks.gguf");
        let whole = Model::open(tiny_gguf()).unwrap();
        let mut metadata = whole.metadata().clone();
        metadata.set("llama.block_count", 2u32);
        let in_blocks = |name: &str| ["blk.0.", "blk.1."].iter().any(|of| name.starts_with(of));
        let kept = whole.tensors().iter();
        let kept = kept.filter(|t| !t.name.starts_with("blk.") || in_blocks(&t.name));
        let kept: Vec<_> = kept.collect();
        let specs = kept.iter().map(|tensor| TensorSpec {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            tensor_type: tensor.tensor_type,
        });
        let layout = Layout::plan(&metadata, specs.collect()).unwrap();
        let mut writer = StreamWriter::new(layout, Vec::new()).unwrap();
        kept.iter().for_each(|tensor| writer.write(whole.data(tensor)).unwrap());
        fs::write(&path, writer.finish().unwrap()).unwrap();
        path
    })
}

/// The text sampled from the fixture model.
pub(crate) fn corpus() -> PathBuf {
    fixture("sampled.txt")
}

/// A GGUF file with these keys and one F32 tensor of zeros.
pub(crate) fn gguf<'a>(
    metadata: impl IntoIterator<Item = (&'a str, Value)>,
    tensor: &str,
    shape: &[u64],
) -> Vec<u8> {
    let mut all = Metadata::default();
    for (key, value) in metadata {
        all.set(key, value);
    }
    let spec =
        TensorSpec { name: tensor.to_owned(), shape: shape.to_vec(), tensor_type: TensorType::F32 };
    let layout = Layout::plan(&all, vec![spec]).unwrap();
    let bytes = usize::try_from(layout.tensors()[0].bytes).unwrap();
    let mut writer = StreamWriter::new(layout, Vec::new()).unwrap();
    writer.write(&vec![0; bytes]).unwrap();
    writer.finish().unwrap()
}
