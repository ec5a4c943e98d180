//! What the module is made of, as a CycloneDX bill of materials.
//!
//! It has no time and no serial number, so that the same sources make the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_lock::Lockfile;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId, TargetKind};
use cyclonedx_bom::external_models::normalized_string::NormalizedString;
use cyclonedx_bom::external_models::spdx::SpdxExpression;
use cyclonedx_bom::models::bom::Bom;
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::metadata::Metadata as About;
use cyclonedx_bom::prelude::{Purl, Validate};

use crate::{Release, Result, sha256};

/// Describes the module of the workspace at `root`.
pub fn describe(root: &Path, release: &Release) -> Result<Vec<u8>> {
    // The `cli` feature is for what is native, and nothing of it is in the module.
    let metadata = MetadataCommand::new()
        .current_dir(root)
        .other_options(["--locked", "--filter-platform", "wasm32-wasip1"].map(str::to_owned))
        .features(cargo_metadata::CargoOpt::NoDefaultFeatures)
        .exec()?;
    let lock = Lockfile::load(root.join("Cargo.lock"))?;
    let graph = Graph::of(&metadata)?;
    let mut module = component(graph.root, Classification::Library);
    module.hashes = Some(hashes(&sha256(&release.module)));
    let mut crates = Vec::new();
    for id in graph.uses.keys().filter(|id| **id != &graph.root.id) {
        let package = &metadata[*id];
        let mut crate_ = component(package, Classification::Library);
        crate_.hashes = checksum(&lock, package).map(|digest| hashes(&digest));
        crate_.purl = Some(Purl::new("cargo", &package.name, &package.version.to_string())?);
        crates.push(crate_);
    }
    let uses = graph.uses.iter().map(|(id, uses)| Dependency {
        dependency_ref: reference(&metadata[*id]),
        dependencies: uses.iter().map(|id| reference(&metadata[*id])).collect(),
    });
    let bom = Bom {
        serial_number: None,
        metadata: Some(About { component: Some(module), ..About::default() }),
        components: Some(Components(crates)),
        dependencies: Some(Dependencies(uses.collect())),
        ..Bom::default()
    };
    let validity = bom.validate();
    if !validity.passed() {
        return Err(format!("the SBOM is not valid: {validity:?}").into());
    }
    let mut text = Vec::new();
    bom.output_as_json_v1_5(&mut text)?;
    Ok(text)
}

/// The crates that end up in the module, each with those it uses.
struct Graph<'a> {
    root: &'a Package,
    uses: BTreeMap<&'a PackageId, BTreeSet<&'a PackageId>>,
}

impl<'a> Graph<'a> {
    fn of(metadata: &'a Metadata) -> Result<Self> {
        let root = metadata.root_package().ok_or("the workspace has no root package")?;
        let resolve = metadata.resolve.as_ref().ok_or("Cargo resolved nothing")?;
        let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
        let mut uses = BTreeMap::new();
        let mut next = vec![&root.id];
        while let Some(id) = next.pop() {
            if uses.contains_key(id) {
                continue;
            }
            let node = nodes.get(id).ok_or("Cargo resolved less than it says")?;
            let built_in = node.deps.iter().filter(|dependency| {
                let linked =
                    dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
                // What a macro is made of runs where the module is built, and is not in it.
                linked && !is_macro(&metadata[&dependency.pkg])
            });
            let used: BTreeSet<_> = built_in.map(|dependency| &dependency.pkg).collect();
            next.extend(&used);
            uses.insert(id, used);
        }
        Ok(Self { root, uses })
    }
}

fn is_macro(package: &Package) -> bool {
    package.targets.iter().any(|target| target.kind.contains(&TargetKind::ProcMacro))
}

fn component(package: &Package, kind: Classification) -> Component {
    let mut component =
        Component::new(kind, &package.name, &package.version.to_string(), Some(reference(package)));
    component.description = package.description.as_deref().map(NormalizedString::new);
    component.licenses = package
        .license
        .as_ref()
        // An older way to write OR.
        .and_then(|license| SpdxExpression::try_from(license.replace('/', " OR ")).ok())
        .map(|license| Licenses(vec![LicenseChoice::Expression(license)]));
    component
}

/// Without the place where it came from, which may be this machine's.
fn reference(package: &Package) -> String {
    format!("{}@{}", package.name, package.version)
}

fn checksum(lock: &Lockfile, package: &Package) -> Option<String> {
    let locked = lock.packages.iter().find(|locked| {
        locked.name.as_str() == package.name.as_str()
            && locked.version.to_string() == package.version.to_string()
    })?;
    Some(locked.checksum.as_ref()?.to_string())
}

fn hashes(digest: &str) -> Hashes {
    Hashes(vec![Hash { alg: HashAlgorithm::SHA_256, content: HashValue(digest.to_owned()) }])
}
