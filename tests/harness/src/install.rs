//! Programs that the harness installs for itself, once, under the target directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::module::target_dir;

/// Returns `<target>/harness/<name>`, filling it first unless it is `complete`. `what` is shown meanwhile.
/// Several test processes may come here at once.
pub(crate) fn once(
    name: &str,
    what: &str,
    complete: impl Fn(&Path) -> bool,
    fill: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let parent = target_dir().join("harness");
    let installed = parent.join(name);
    let fail = |error: io::Error| format!("cannot install {what} in {}: {error}", parent.display());
    let prepare = || {
        fs::create_dir_all(&parent)?;
        let lock = File::create(parent.join(format!("{name}.lock")))?;
        lock.lock()?;
        Ok(lock)
    };
    let _lock = prepare().map_err(fail)?;
    if complete(&installed) {
        return Ok(installed);
    }
    // Written directly: libtest captures `eprintln!`, and this takes a while.
    let _ = writeln!(io::stderr(), "installing {what} in {} ...", installed.display());
    let partial = TempDir::new_in(&parent).map_err(fail)?;
    fill(partial.path())?;
    // Only a complete one ever stands under the final name, unless somebody broke it.
    let _ = fs::remove_dir_all(&installed);
    fs::rename(partial.keep(), &installed).map_err(fail)?;
    Ok(installed)
}
