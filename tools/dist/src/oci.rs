//! An OCI image layout of the module, for `oci://` in Istio's `WasmPlugin`.
//!
//! Istio's fetcher accepts two forms: an image whose layer is a tar with `plugin.wasm` in it (the *compat* variant
//! of the Wasm image specification, which every registry takes), and an artifact with the module itself as a layer.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::GzBuilder;
use serde_json::{Value, json};

use crate::{Release, Result, sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The images' digests, by which a `WasmPlugin` can name them.
pub struct Images {
    /// Of the image.
    pub compat: String,
    /// Of the artifact.
    pub artifact: String,
}

/// Writes the layout.
pub fn write(release: &Release, out: &Path) -> Result<Images> {
    fs::create_dir_all(out.join("blobs/sha256"))?;
    let layout = Layout { blobs: &out.join("blobs/sha256") };
    let compat = compat(release, &layout)?;
    let artifact = artifact(release, &layout)?;
    let named = |manifest: &Value, tag: &str| {
        let mut manifest = manifest.clone();
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        manifest
    };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            named(&compat, release.version),
            named(&artifact, &format!("{}-artifact", release.version)),
        ],
    });
    fs::write(out.join("index.json"), index.to_string())?;
    fs::write(out.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    let digest = |manifest: &Value| manifest["digest"].as_str().unwrap_or_default().to_owned();
    Ok(Images { compat: digest(&compat), artifact: digest(&artifact) })
}

/// The image.
fn compat(release: &Release, layout: &Layout<'_>) -> Result<Value> {
    let tar = tar(&release.module)?;
    let layer = layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&tar)?)?;
    let config = json!({
        "architecture": "wasm",
        "os": "wasip1",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&tar))]},
    });
    let config =
        layout.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
    layout.manifest(release, &config, &[layer])
}

/// The artifact. Of its two layers, one is for hosts that read how the module wants to be run; this one does not care.
fn artifact(release: &Release, layout: &Layout<'_>) -> Result<Value> {
    const CONFIG: &str = "application/vnd.module.wasm.config.v1+json";
    let settings = layout.blob(CONFIG, b"{}")?;
    let module =
        layout.blob("application/vnd.module.wasm.content.layer.v1+wasm", &release.module)?;
    layout.manifest(release, &settings, &[settings.clone(), module])
}

struct Layout<'a> {
    blobs: &'a Path,
}

impl Layout<'_> {
    /// Writes a blob, and returns its descriptor.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let digest = sha256(bytes);
        fs::write(self.blobs.join(&digest), bytes)?;
        Ok(json!({
            "mediaType": media_type,
            "digest": format!("sha256:{digest}"),
            "size": bytes.len(),
        }))
    }

    fn manifest(&self, release: &Release, config: &Value, layers: &[Value]) -> Result<Value> {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": layers,
            "annotations": {
                "org.opencontainers.image.title": "meshgate",
                "org.opencontainers.image.version": release.version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        });
        self.blob(MANIFEST, manifest.to_string().as_bytes())
    }
}

/// An archive with nothing but the module in it; no owner and no time, which would be of this machine.
fn tar(module: &[u8]) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_size(u64::try_from(module.len())?);
    header.set_mode(0o644);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "plugin.wasm", module)?;
    Ok(archive.into_inner()?)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    // Neither time nor operating system.
    let mut encoder =
        GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}
