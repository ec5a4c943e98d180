//! A release is what it says, and its images are what a registry and Istio take.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::go::istio_fetch;
use harness::registry::{Registry, copy};
use harness::skip::require;
use serde_json::Value;
use tempfile::TempDir;

use super::{Release, sha256, workspace, write};

/// Not a module, but all the same to whoever packs it.
const MODULE: &[u8] = b"\0asm\x01\0\0\0 of a test";

fn release() -> TempDir {
    let out = tempfile::tempdir().unwrap();
    write(&Release { version: "0.1.0", module: MODULE.to_vec() }, workspace(), out.path()).unwrap();
    out
}

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap()
}

/// Every file below `dir` with its bytes, by its path.
fn files(dir: &Path, all: &mut Vec<(String, Vec<u8>)>, root: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, all, root);
        } else {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            all.push((name, fs::read(&path).unwrap()));
        }
    }
    all.sort();
}

#[test]
fn the_checksums_are_those_of_the_files_and_two_releases_of_one_module_are_the_same() {
    let (one, two) = (release(), release());
    let check = Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(one.path())
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    let said = String::from_utf8(check.stdout).unwrap();
    for name in [
        "meshgate.wasm",
        "meshgate.cdx.json",
        "meshgate.schema.json",
        "meshgate.dashboard.json",
        "meshgate.rules.yaml",
    ] {
        assert!(said.contains(&format!("{name}: OK")), "{name}: {said}");
    }
    let of = |dir: &TempDir| {
        let mut all = Vec::new();
        files(dir.path(), &mut all, dir.path());
        all
    };
    assert_eq!(of(&one), of(&two));
}

#[test]
fn the_bill_of_materials_has_what_is_in_the_module_and_nothing_else() {
    let out = release();
    let bom = json(&fs::read(out.path().join("meshgate.cdx.json")).unwrap());
    assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let module = &bom["metadata"]["component"];
    assert_eq!(
        (&module["name"], &module["hashes"][0]["content"]),
        (&"meshgate".into(), &sha256(MODULE).into())
    );
    let components = bom["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|one| one["name"] == name);
    for name in ["proxy-wasm", "jwt-simple", "serde_json", "base64"] {
        let one = named(name).unwrap_or_else(|| panic!("no {name}"));
        assert!(one["purl"].as_str().unwrap().starts_with(&format!("pkg:cargo/{name}@")), "{one}");
        assert_eq!(one["hashes"][0]["content"].as_str().unwrap().len(), 64, "{one}");
        assert!(one["licenses"][0]["expression"].is_string(), "{one}");
    }
    // What the command has, what tests have, and what runs while it is built.
    for name in ["clap", "tokio", "harness", "meshgate-harness", "serde_derive", "syn"] {
        assert!(named(name).is_none(), "{name}");
    }
    let text = bom.to_string();
    let root = workspace().to_str().unwrap();
    assert!(!text.contains(root), "the SBOM names {root}");
}

#[test]
fn a_registry_takes_both_images_and_gives_them_back_as_istio_reads_them() {
    let out = release();
    let Some(registry) = require("a real registry", Registry::start()) else { return };
    let address = registry.address();
    for tag in ["0.1.0", "0.1.0-artifact"] {
        let to = format!("docker://{address}/meshgate:{tag}");
        let pushed = copy(&format!("oci:oci:{tag}"), &to, out.path());
        if require("skopeo", pushed).is_none() {
            return;
        }
    }
    let notes = fs::read_to_string(out.path().join("NOTES.md")).unwrap();
    let manifest = |tag: &str| {
        let response = registry.get(&format!("/v2/meshgate/manifests/{tag}"));
        assert_eq!(response.status, 200, "{}", response.text());
        let digest = sha256(&response.body);
        assert!(notes.contains(&digest), "the notes do not tell the digest of {tag}");
        json(&response.body)
    };
    let blob = |layer: &Value| {
        let digest = layer["digest"].as_str().unwrap();
        let response = registry.get(&format!("/v2/meshgate/blobs/{digest}"));
        assert_eq!(response.status, 200, "{}", response.text());
        response.body
    };

    // Istio's fetcher takes the last layer, of this type, and in it the file of this name.
    let image = manifest("0.1.0");
    let layer = image["layers"].as_array().unwrap().last().unwrap();
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    let packed = blob(layer);
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        found.push((name, bytes));
    }
    assert_eq!(found, [("plugin.wasm".to_owned(), MODULE.to_vec())]);

    // Or two layers, one of which has this type.
    let artifact = manifest("0.1.0-artifact");
    let layers = artifact["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    let layer = layers
        .iter()
        .find(|layer| layer["mediaType"] == "application/vnd.module.wasm.content.layer.v1+wasm")
        .unwrap();
    assert_eq!(blob(layer), MODULE);
}

/// What a `WasmPlugin` with `oci://` does.
#[test]
#[ignore = "builds a part of Istio: cargo test --package meshgate-dist -- --ignored"]
fn istios_own_fetcher_finds_the_module_in_both_images() {
    let out = release();
    let Some(registry) = require("a real registry", Registry::start()) else { return };
    let Some(fetch) = require("Istio's fetcher", istio_fetch()) else { return };
    let notes = fs::read_to_string(out.path().join("NOTES.md")).unwrap();
    for tag in ["0.1.0", "0.1.0-artifact"] {
        let image = format!("{}/meshgate:{tag}", registry.address());
        let pushed = copy(&format!("oci:oci:{tag}"), &format!("docker://{image}"), out.path());
        if require("skopeo", pushed).is_none() {
            return;
        }
        let module = out.path().join("fetched.wasm");
        let fetched = Command::new(&fetch).arg(&image).arg(&module).output().unwrap();
        let said = String::from_utf8_lossy(&fetched.stderr);
        assert!(fetched.status.success(), "{tag}: {said}");
        assert_eq!(fs::read(&module).unwrap(), MODULE, "{tag}");
        // What it holds `sha256` of the plugin against.
        let digest = said.lines().find_map(|line| line.strip_prefix("digest ")).unwrap();
        assert!(notes.contains(&format!("sha256:{digest}")), "{tag}: {digest}");
    }
}

#[test]
fn what_is_no_release_is_not_removed_for_one() {
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("thesis.txt"), "years").unwrap();
    let release = Release { version: "0.1.0", module: MODULE.to_vec() };
    let refused = write(&release, workspace(), out.path()).unwrap_err().to_string();
    assert!(
        refused.ends_with("holds something else than a release, name another --out"),
        "{refused}"
    );
    assert!(out.path().join("thesis.txt").is_file());
}
