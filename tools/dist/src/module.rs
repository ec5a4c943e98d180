//! The module, built so that its bytes say nothing of where that was.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::Result;

const MODULE: &str = "wasm32-wasip1/release/meshgate.wasm";

/// Builds the module of the workspace at `root`.
pub fn build(root: &Path) -> Result<Vec<u8>> {
    build_in(root, &root.join("target/dist"))
}

/// Builds it there and, at the same time, from a copy of the sources under another path, and compares.
pub fn build_twice(root: &Path) -> Result<Vec<u8>> {
    thread::scope(|scope| {
        // An error of any kind cannot leave a thread; its text can.
        let elsewhere = scope.spawn(|| build_elsewhere(root).map_err(|error| error.to_string()));
        let module = build(root)?;
        let again = elsewhere.join().map_err(|_| "the second build panicked")??;
        if again != module {
            return Err(format!(
                "two builds of the same sources differ ({} and {} bytes), so nobody could check what is released",
                module.len(),
                again.len()
            )
            .into());
        }
        Ok(module)
    })
}

fn build_in(root: &Path, target_dir: &Path) -> Result<Vec<u8>> {
    let mut cargo = cargo(root);
    cargo.args(["wasm", "--locked", "--target-dir"]).arg(target_dir);
    // The paths in the messages of panics, which a stranger's crates are full of. Arrays of a config are joined, so
    // that the flags of .cargo/config.toml stay.
    let flags: Vec<String> = remapped()?
        .into_iter()
        .map(|(from, to)| format!("{:?}", format!("--remap-path-prefix={}={to}", from.display())))
        .collect();
    cargo.arg("--config");
    cargo.arg(format!("target.wasm32-wasip1.rustflags=[{}]", flags.join(",")));
    // They would replace those flags.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"] {
        cargo.env_remove(variable);
    }
    let status = cargo.stderr(Stdio::inherit()).status()?;
    if !status.success() {
        return Err(format!("the module does not build: {status}").into());
    }
    let module = fs::read(target_dir.join(MODULE))?;
    without_paths(&module, root)?;
    Ok(module)
}

fn build_elsewhere(root: &Path) -> Result<Vec<u8>> {
    let elsewhere = tempfile::tempdir()?;
    let copy = elsewhere.path().join("a path of another length");
    for file in sources(root)? {
        let to = copy.join(&file);
        fs::create_dir_all(to.parent().unwrap_or(&copy))?;
        // What was deleted and not committed is listed, too.
        if root.join(&file).is_file() {
            fs::copy(root.join(&file), to)?;
        }
    }
    build_in(&copy, &elsewhere.path().join("target"))
}

/// All files that Git knows.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output()?;
    if !output.status.success() {
        return Err("`git ls-files` failed: --twice copies what Git knows of the sources".into());
    }
    let names = String::from_utf8(output.stdout)?;
    Ok(names.split_terminator('\0').map(PathBuf::from).collect())
}

/// Where Cargo unpacks crates, and what to say in its place.
fn remapped() -> Result<Vec<(PathBuf, &'static str)>> {
    let home = cargo_home()?;
    let mut all = vec![(home.clone(), "/cargo")];
    // The name of a registry's directory depends on how it is reached. The last prefix that fits counts.
    let registries = home.join("registry/src");
    if registries.is_dir() {
        for registry in fs::read_dir(registries)? {
            all.push((registry?.path(), "/crates"));
        }
    }
    Ok(all)
}

fn cargo_home() -> Result<PathBuf> {
    let home = match (env::var_os("CARGO_HOME"), env::home_dir()) {
        (Some(home), _) => PathBuf::from(home),
        (None, Some(home)) => home.join(".cargo"),
        (None, None) => return Err("where is Cargo's home? Set CARGO_HOME".into()),
    };
    Ok(std::path::absolute(home)?)
}

/// A path of the machine in the module would be one that the remapping does not know.
fn without_paths(module: &[u8], root: &Path) -> Result<()> {
    let home = cargo_home()?;
    for path in [root, &home] {
        let Some(path) = path.to_str() else { continue };
        if module.windows(path.len()).any(|window| window == path.as_bytes()) {
            return Err(format!("the module holds the path {path} of this machine").into());
        }
    }
    Ok(())
}

fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or(OsString::from("cargo")));
    cargo.current_dir(root);
    cargo
}
