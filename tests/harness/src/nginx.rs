//! A real nginx with a config of ours that users copy.
//!
//! ```no_run
//! use harness::nginx::Nginx;
//! use harness::testbed::Testbed;
//!
//! let bed = Testbed::config("authz.yaml").start();
//! let servers = [("127.0.0.1:8082", bed.envoy.address()), ("127.0.0.1:9001", bed.upstream.address())];
//! let nginx = Nginx::start(&Nginx::shipped("auth_request.conf"), &servers);
//! if let Some(nginx) = harness::skip::require("a real nginx", nginx) {
//!     assert_eq!(nginx.get("/api/comments").send().status, 401);
//! }
//! ```

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::client::Request;
use crate::daemon::{Daemon, Program};
use crate::module;

/// Where the configs have nginx listen.
const LISTEN: &str = "listen 127.0.0.1:8080;";

/// A running nginx, gone when dropped.
#[derive(Debug)]
pub struct Nginx(Daemon);

impl Nginx {
    /// A file of `envoy/nginx/`.
    #[track_caller]
    pub fn shipped(file: &str) -> String {
        let path = module::workspace().join("envoy/nginx").join(file);
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
    }

    /// Starts `nginx` from the PATH with `http` in its `http` block, on a free port of 127.0.0.1 in place of 8080,
    /// and with other addresses for these servers. Fails where there is no nginx.
    #[track_caller]
    pub fn start(http: &str, servers: &[(&str, SocketAddr)]) -> Result<Nginx, String> {
        assert!(http.contains(LISTEN), "the config does not say `{LISTEN}`");
        let mut http = http.to_owned();
        for (name, address) in servers {
            let from = format!("server {name};");
            assert!(http.contains(&from), "the config does not say `{from}`");
            http = http.replace(&from, &format!("server {address};"));
        }
        let config = |address: SocketAddr| {
            let http = http.replace(LISTEN, &format!("listen {address};"));
            // In its own directory, and in the one process that we started.
            format!(
                "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
                 access_log /dev/stderr;\nclient_body_temp_path body;\nproxy_temp_path proxy;\n\
                 fastcgi_temp_path fastcgi;\nuwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n{http}\n}}\n"
            )
        };
        let program = Program {
            name: "nginx",
            package: "nginx-light",
            arguments: &["-p", ".", "-e", "stderr", "-c"],
        };
        Daemon::start(program, config, answers).map(Nginx)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// A GET to it.
    pub fn get(&self, target: impl AsRef<[u8]>) -> Request {
        Request::get(self.address(), target)
    }

    /// Everything it printed.
    pub fn log(&self) -> String {
        self.0.log()
    }
}

/// nginx answers this itself, whatever its config says.
fn answers(nginx: SocketAddr) -> io::Result<()> {
    let response = Request::get(nginx, "no-path").try_send(Duration::from_secs(1))?;
    if response.status == 400 { Ok(()) } else { Err(io::Error::other(format!("{response:?}"))) }
}
