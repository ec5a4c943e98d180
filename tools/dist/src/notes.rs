//! The release's notes: what changed, and how to name the module so that nobody can put another in its place.

use crate::oci::Images;
use crate::{Release, Result, sha256};

/// Writes them, in Markdown.
pub fn write(release: &Release, images: &Images, changelog: &str) -> Result<String> {
    let version = release.version;
    let changes =
        section(changelog, version).or_else(|| section(changelog, "Unreleased")).ok_or_else(
            || format!("CHANGELOG.md has neither `## [{version}]` nor `## [Unreleased]`"),
        )?;
    let module = sha256(&release.module);
    let Images { compat, artifact } = images;
    Ok(format!(
        "# meshgate {version}\n\n\
         | what | SHA-256 |\n|---|---|\n\
         | `meshgate.wasm`, {size} bytes; `sha256` of a `WasmPlugin` with an `https://` URL, and of Envoy's `remote` code | `{module}` |\n\
         | image `{version}`; `sha256` of a `WasmPlugin` with an `oci://` URL, less `sha256:` | `{compat}` |\n\
         | artifact `{version}-artifact`, likewise | `{artifact}` |\n\n\
         `SHA256SUMS` has the other files. `cargo dist --twice` at this tag makes the same bytes.\n\n\
         {changes}\n",
        size = release.module.len(),
    ))
}

/// What Keep a Changelog has of a version.
fn section<'a>(changelog: &'a str, version: &str) -> Option<&'a str> {
    let begin = changelog.find(&format!("\n## [{version}]"))?.checked_add(1)?;
    let text = changelog.get(begin..)?;
    let text = text.get(text.find('\n')?..)?;
    let end = text.find("\n## [").or_else(|| text.find("\n[")).unwrap_or(text.len());
    Some(text.get(..end)?.trim())
}

#[cfg(test)]
mod tests {
    use super::section;

    #[test]
    fn a_version_s_section_ends_where_the_next_one_or_the_links_begin() {
        let log = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- a\n\n## [0.1.0]\n\n- b\n\n[0.1.0]: x\n";
        assert_eq!(section(log, "0.2.0"), Some("### Added\n\n- a"));
        assert_eq!(section(log, "0.1.0"), Some("- b"));
        assert_eq!(section(log, "Unreleased"), Some(""));
        assert_eq!(section(log, "0.3.0"), None);
    }
}
