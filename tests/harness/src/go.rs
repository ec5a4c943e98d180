//! What comes from Go's modules: func-e, istiod, and Istio's own schemas. Installed once, under the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Of the resources that `envoy/istio` has.
const ISTIO_API: &str = "istio.io/api@v1.30.8";

/// The func-e that is known to take `ENVOY_PATH`.
const FUNC_E: &str = "github.com/tetratelabs/func-e@v1.6.0";

/// Istio 1.31; its releases are no versions of this module.
const ISTIO: &str = "istio.io/istio@v0.0.0-20260827124520-eed52ebb66ad";

/// The `CustomResourceDefinition`s that Istio installs, as YAML.
pub fn istio_crds() -> Result<PathBuf, String> {
    const FILE: &str = "kubernetes/customresourcedefinitions.gen.yaml";
    let complete = |installed: &Path| installed.join("crds.yaml").is_file();
    let installed = crate::install::once(&directory(ISTIO_API), ISTIO_API, complete, |partial| {
        let printed = go(partial, &["mod", "download", "-json", ISTIO_API])?;
        let module: Value = serde_json::from_str(&printed).map_err(|error| error.to_string())?;
        let dir = module["Dir"].as_str().ok_or_else(|| format!("go mod download: {printed}"))?;
        let copied = fs::copy(Path::new(dir).join(FILE), partial.join("crds.yaml"));
        copied.map(drop).map_err(|error| format!("{dir}/{FILE}: {error}"))
    })?;
    Ok(installed.join("crds.yaml"))
}

/// func-e: the one on the PATH, else one that is built.
pub fn func_e() -> Result<PathBuf, String> {
    if Command::new("func-e").arg("--version").output().is_ok() {
        return Ok("func-e".into());
    }
    build("func-e", FUNC_E, "github.com/tetratelabs/func-e/cmd/func-e")
}

/// istiod. Building it takes minutes, and several GB of Go's caches.
pub fn istiod() -> Result<PathBuf, String> {
    build("pilot-discovery", ISTIO, "istio.io/istio/pilot/cmd/pilot-discovery")
}

/// What Istio's agent fetches `oci://` with, as a program: it takes `HOST/NAME:TAG`,
/// writes the module that it finds to a file, and prints the image's digest.
pub fn istio_fetch() -> Result<PathBuf, String> {
    const SOURCE: &str = r#"package main

import (
	"context"
	"fmt"
	"os"

	"istio.io/istio/pkg/wasm"
)

func main() {
	fetcher := wasm.NewImageFetcher(context.Background(), wasm.ImageFetcherOption{})
	fetch, digest, err := fetcher.PrepareFetch(os.Args[1])
	if err == nil {
		var module []byte
		if module, err = fetch(); err == nil {
			err = os.WriteFile(os.Args[2], module, 0o600)
		}
	}
	if err == nil {
		fmt.Fprintln(os.Stderr, "digest", digest)
		return
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
"#;
    make("istio-fetch", "istio-fetch", ISTIO, ".", SOURCE)
}

/// A program of a module, which need not be its own: some cannot be had by `go install`, for what they replace.
fn build(program: &str, module: &str, package: &str) -> Result<PathBuf, String> {
    make(&directory(module), program, module, package, "package main\n")
}

/// Builds `package` beside this `main.go`, which may use `module`.
fn make(
    name: &str,
    program: &str,
    module: &str,
    package: &str,
    main: &str,
) -> Result<PathBuf, String> {
    let complete = |installed: &Path| installed.join(program).is_file();
    let installed = crate::install::once(name, module, complete, |partial| {
        let source = partial.join("source");
        let write = |file: &str, text: &str| {
            fs::write(source.join(file), text).map_err(|error| format!("{file}: {error}"))
        };
        fs::create_dir(&source).map_err(|error| error.to_string())?;
        write("go.mod", "module harness\n")?;
        write("main.go", main)?;
        go(&source, &["get", module])?;
        let out = partial.join(program);
        go(&source, &["build", "-mod=mod", "-o", &out.to_string_lossy(), package])?;
        fs::remove_dir_all(&source).map_err(|error| error.to_string())
    })?;
    Ok(installed.join(program))
}

/// A module's name as one of a directory.
fn directory(module: &str) -> String {
    module.replace(['/', '@'], "-")
}

fn go(dir: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("go").args(arguments).current_dir(dir).output();
    let output = output.map_err(|error| format!("go does not run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("`go {}` failed:\n{errors}", arguments.join(" ")))
}
