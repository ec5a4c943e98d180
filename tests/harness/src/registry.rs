//! A real OCI registry, and the tool that copies images to and from it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::client::Request;
use crate::daemon::{Daemon, Program};

/// A running registry that starts empty, gone when dropped.
#[derive(Debug)]
pub struct Registry(Daemon);

impl Registry {
    /// Starts `docker-registry` from the PATH on a free port of 127.0.0.1; fails where there is none.
    #[track_caller]
    pub fn start() -> Result<Registry, String> {
        let config = |address: SocketAddr| {
            format!(
                "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: ./images}}}}\nhttp: {{addr: {address}}}\n"
            )
        };
        let program =
            Program { name: "docker-registry", package: "docker-registry", arguments: &["serve"] };
        Daemon::start(program, config, answers).map(Registry)
    }

    /// Where it listens, without TLS.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// What it answers to a GET that accepts any kind of manifest.
    #[track_caller]
    pub fn get(&self, path: &str) -> crate::client::Response {
        const KINDS: &str = "application/vnd.oci.image.manifest.v1+json";
        Request::get(self.address(), path).header("accept", KINDS).send()
    }
}

fn answers(registry: SocketAddr) -> io::Result<()> {
    let response = Request::get(registry, "/v2/").try_send(Duration::from_secs(1))?;
    if response.status == 200 { Ok(()) } else { Err(io::Error::other(format!("{response:?}"))) }
}

/// Copies an image with skopeo, as users do: `oci:DIRECTORY:TAG`, `docker://HOST/NAME:TAG`. Fails where there is no skopeo.
#[track_caller]
pub fn copy(from: &str, to: &str, dir: &Path) -> Result<(), String> {
    let output = Command::new("skopeo")
        .args(["copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"])
        .args([from, to])
        .current_dir(dir)
        .output()
        .map_err(|error| format!("skopeo does not run ({error}); install Debian's skopeo"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "skopeo copy {from} {to}:\n{errors}");
    Ok(())
}
