//! `cargo dist`: what a release consists of, in `dist/`.
//!
//! Whoever has the same sources and the toolchain of `rust-toolchain.toml` gets the same bytes, wherever the
//! sources, Cargo's home and the target directory lie; `--twice` shows it by building once more elsewhere.

mod module;
mod notes;
mod oci;
mod sbom;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use sha2::{Digest, Sha256};

/// Whatever goes wrong ends the release; its text is for whoever makes one.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Make what a release consists of: the module, its checksum, SBOM, schema, dashboards, alert rules, an OCI layout and notes
#[derive(Parser)]
struct Args {
    /// Where to write it; what is there is replaced
    #[arg(long, default_value = "dist")]
    out: PathBuf,
    /// Build the module a second time, from a copy of the sources at another path, and refuse to go on where one
    /// byte is different
    #[arg(long)]
    twice: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo dist: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let root = workspace();
    let module = if args.twice { module::build_twice(root)? } else { module::build(root)? };
    let release = Release { version: env!("CARGO_PKG_VERSION"), module };
    let out = root.join(&args.out);
    write(&release, root, &out)?;
    println!("{}", out.display());
    Ok(())
}

/// What is released.
struct Release {
    version: &'static str,
    module: Vec<u8>,
}

fn write(release: &Release, root: &Path, out: &Path) -> Result<()> {
    if out.exists() {
        replaceable(out)?;
        fs::remove_dir_all(out)?;
    }
    fs::create_dir_all(out)?;
    fs::write(out.join("meshgate.wasm"), &release.module)?;
    fs::write(out.join("meshgate.cdx.json"), sbom::describe(root, release)?)?;
    let envoy = root.join("envoy");
    for file in ["meshgate.schema.json", "dashboards/meshgate.json"] {
        copy_into(&envoy.join(file), out)?;
    }
    for file in fs::read_dir(envoy.join("prometheus"))? {
        copy_into(&file?.path(), out)?;
    }
    // Of all files so far; those of the OCI layout go by their digests anyway.
    fs::write(out.join("SHA256SUMS"), sums(out)?)?;
    let image = oci::write(release, &out.join("oci"))?;
    let changes = fs::read_to_string(root.join("CHANGELOG.md"))?;
    fs::write(out.join("NOTES.md"), notes::write(release, &image, &changes)?)?;
    Ok(())
}

/// A directory that a release was written to before, or an empty one: what else is there is nobody's to remove.
fn replaceable(out: &Path) -> Result<()> {
    let empty = fs::read_dir(out)?.next().is_none();
    if empty || out.join("SHA256SUMS").is_file() {
        return Ok(());
    }
    Err(format!("{} holds something else than a release, name another --out", out.display()).into())
}

fn copy_into(file: &Path, out: &Path) -> Result<()> {
    let name = file.file_name().ok_or("a file without a name")?;
    // The dashboard is named as the rules are: by what it is for.
    let name = match name.to_str() {
        Some("meshgate.json") => "meshgate.dashboard.json".as_ref(),
        _ => name,
    };
    fs::copy(file, out.join(name)).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(())
}

/// The files of a directory, as `sha256sum --check` reads them.
fn sums(out: &Path) -> Result<String> {
    let mut names = fs::read_dir(out)?
        .map(|entry| {
            Ok(entry?.file_name().into_string().map_err(|_| "a name that is not UTF-8")?)
        })
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    let mut lines = String::new();
    for name in names {
        let digest = sha256(&fs::read(out.join(&name))?);
        lines.push_str(&format!("{digest}  {name}\n"));
    }
    Ok(lines)
}

/// In hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where `envoy/` and `src/` are.
fn workspace() -> &'static Path {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR"));
    tool.ancestors().nth(2).unwrap_or(tool)
}

#[cfg(test)]
mod tests;
