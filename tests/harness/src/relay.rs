//! A process of its own between Envoy and a server of the harness: what is stopped or killed is then a real one.
//!
//! It is the test's own program, started again for a test that does nothing but [`run`]:
//!
//! ```ignore
//! #[test]
//! #[ignore = "is what a test starts as a process of its own"]
//! fn relay() {
//!     harness::relay::run();
//! }
//! ```

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::sync::LazyLock;

use tokio::io::copy;
use tokio::net::TcpListener;

use crate::RUNTIME;
use crate::daemon::{Daemon, Program};

/// This very program.
static PROGRAM: LazyLock<String> = LazyLock::new(|| {
    let path = std::env::current_exe().expect("the path of this program");
    path.into_os_string().into_string().expect("a path in UTF-8")
});

/// A running relay, gone when dropped.
#[derive(Debug)]
pub struct Relay(Daemon);

impl Relay {
    /// Passes connections on to this address. `arguments` have the test program [`run`].
    #[track_caller]
    pub fn start(arguments: &'static [&'static str], to: SocketAddr) -> Relay {
        let program = Program { name: &PROGRAM, package: "nothing", arguments };
        let config = |at| format!("{at}\n{to}\n");
        Relay(Daemon::start(program, config, accepts).unwrap_or_else(|error| panic!("{error}")))
    }
}

impl Deref for Relay {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.0
    }
}

fn accepts(relay: SocketAddr) -> io::Result<()> {
    TcpStream::connect(relay).map(drop)
}

/// Is the relay: reads where from and where to in the file that the last argument names, and does not return.
pub fn run() {
    let config = std::env::args().next_back().expect("a program with arguments");
    let config = fs::read_to_string(&config).unwrap_or_else(|error| panic!("{config}: {error}"));
    let addresses: Vec<SocketAddr> =
        config.lines().map(|line| line.parse().expect("an address")).collect();
    let [at, to] = addresses[..] else { panic!("no two addresses in {config}") };
    RUNTIME.block_on(async {
        let listener = TcpListener::bind(at).await.unwrap_or_else(|error| panic!("{at}: {error}"));
        loop {
            if let Ok((client, _)) = listener.accept().await {
                RUNTIME.spawn(relay(client, to));
            }
        }
    })
}

/// Ends both ways when one has ended, the client's by a reset.
async fn relay(mut client: tokio::net::TcpStream, to: SocketAddr) {
    if let Ok(mut server) = tokio::net::TcpStream::connect(to).await {
        let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        tokio::select! {
            _ = copy(&mut from_client, &mut to_server) => {}
            _ = copy(&mut from_server, &mut to_client) => {}
        }
    }
    let _ = client.set_zero_linger();
}
