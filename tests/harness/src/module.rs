//! The filter's module: built from this workspace, once a process.

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, OnceLock};

use serde_json::Value;

const TARGET: &str = "wasm32-wasip1";

/// A module that traps on every request. Assembled from:
///
/// ```text
/// (module
///   (memory (export "memory") 1)
///   (func (export "proxy_abi_version_0_2_1"))
///   (func (export "proxy_on_memory_allocate") (param i32) (result i32) i32.const 0)
///   (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) unreachable))
/// ```
pub const TRAPPING: &[u8] = b"\x00asm\x01\x00\x00\x00\
    \x01\x10\x03`\x00\x00`\x01\x7f\x01\x7f`\x03\x7f\x7f\x7f\x01\x7f\
    \x03\x04\x03\x00\x01\x02\
    \x05\x03\x01\x00\x01\
    \x07Z\x04\x06memory\x02\x00\x17proxy_abi_version_0_2_1\x00\x00\
    \x18proxy_on_memory_allocate\x00\x01\x18proxy_on_request_headers\x00\x02\
    \n\r\x03\x02\x00\x0b\x04\x00A\x00\x0b\x03\x00\x00\x0b";

/// Builds the module if sources changed, and returns where it is. `$MESHGATE_WASM` names a ready one instead.
/// Cargo's progress shows on a terminal; [`build_visibly`] always shows it.
#[track_caller]
pub fn build() -> PathBuf {
    built(stderr().is_terminal())
}

/// [`build`], with cargo's progress on stderr.
#[track_caller]
pub fn build_visibly() -> PathBuf {
    built(true)
}

/// The workspace's root: where `envoy/` and `rust-toolchain.toml` are.
pub fn workspace() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        manifest.ancestors().nth(2).expect("the harness lies in tests/harness").into()
    });
    &ROOT
}

/// Cargo's target directory for this workspace.
pub fn target_dir() -> &'static Path {
    static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
        let output = cargo()
            .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
            .output()
            .unwrap_or_else(|error| {
                panic!("cannot run cargo: {error}; it must be on the PATH, or named by $CARGO")
            });
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let Some(dir) = metadata["target_directory"].as_str() else {
            panic!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
        };
        dir.into()
    });
    &DIR
}

#[track_caller]
fn built(visibly: bool) -> PathBuf {
    static MODULE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match MODULE.get_or_init(|| try_build(visibly)) {
        Ok(path) => path.clone(),
        Err(error) => panic!("{error}"),
    }
}

fn try_build(visibly: bool) -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("MESHGATE_WASM") {
        let path = std::path::absolute(&path).unwrap_or(path.into());
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!(
                "$MESHGATE_WASM names no file: {}; unset it to build the module",
                path.display()
            ))
        };
    }
    ensure_target()?;
    let mut build = cargo();
    build.arg("wasm");
    // They are meant for the tests' build, and would replace the flags of .cargo/config.toml.
    for variable in
        ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "LLVM_PROFILE_FILE"]
    {
        build.env_remove(variable);
    }
    if visibly {
        build.stderr(Stdio::inherit());
    }
    let command = "cargo wasm";
    let output = build.output().map_err(|error| format!("cannot run `{command}`: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the module does not build (`{command}`):\n{errors}"));
    }
    let module = target_dir().join(TARGET).join("release/meshgate.wasm");
    if !module.is_file() {
        let path = module.display();
        return Err(format!(
            "`{command}` made no {path}; is the alias in .cargo/config.toml as it was?"
        ));
    }
    Ok(module)
}

/// Where there is no rustup, the build itself tells whether the target is missing.
fn ensure_target() -> Result<(), String> {
    let rustup = |arguments: &[&str]| {
        Command::new("rustup").args(arguments).current_dir(workspace()).output()
    };
    let Ok(installed) = rustup(&["target", "list", "--installed"]) else {
        return Ok(());
    };
    if String::from_utf8_lossy(&installed.stdout).lines().any(|line| line.trim() == TARGET) {
        return Ok(());
    }
    match rustup(&["target", "add", TARGET]) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "the Rust target {TARGET} is missing, and `rustup target add {TARGET}` failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => Err(format!("cannot run rustup: {error}")),
    }
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(workspace());
    command
}
