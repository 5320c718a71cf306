//! The least Rust that the README names is enough for every dependency. That it is enough for llq's
//! own code is clippy's `incompatible_msrv`.

use std::process::Command;

use serde_json::Value;

const LEAST: &str = env!("CARGO_PKG_RUST_VERSION");

#[test]
fn no_dependency_needs_a_newer_rust() {
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    // Crates of other platforms need not be there.
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let found = cargo(&[
        "metadata",
        "--format-version=1",
        "--locked",
        "--offline",
        "--filter-platform",
        host,
        "--manifest-path",
        manifest,
    ]);
    let metadata: Value = serde_json::from_str(&found).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "{} packages", packages.len());
    for package in packages {
        let Some(needed) = package["rust_version"].as_str() else { continue };
        let [name, version] = ["name", "version"].map(|key| package[key].as_str().unwrap());
        assert!(numbers(needed) <= numbers(LEAST), "{name} {version} needs Rust {needed}");
    }
}

#[test]
fn the_readme_names_it() {
    let readme = include_str!("../../../README.md");
    assert!(readme.contains(&format!("Rust {LEAST} or newer")));
}

fn cargo(words: &[&str]) -> String {
    let found = Command::new(env!("CARGO")).args(words).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8(found.stdout).unwrap()
}

fn numbers(version: &str) -> [u32; 3] {
    let mut numbers = [0; 3];
    for (number, part) in numbers.iter_mut().zip(version.split('.')) {
        *number = part.parse().unwrap();
    }
    numbers
}
