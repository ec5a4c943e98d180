//! What meshgate's tests and demo run against: a real Envoy with the built module, and around it an
//! issuer, a users service and an upstream that a test can switch, stop and inspect.
//!
//! ```no_run
//! use harness::testbed::Testbed;
//!
//! let bed = Testbed::gateway().start();
//! let token = bed.idp.token(harness::idp::seed_claims("user_2abc"));
//! let response = bed.get("/api/videos/1").bearer(&token).send();
//! assert_eq!(response.status, 200);
//! assert_eq!(bed.upstream.take()[0].header("x-user-id"), Some(&b"u-1001"[..]));
//! bed.no_traps();
//! ```
//!
//! The API is synchronous. Ports are chosen by the OS, waits are for events and not for time, and every
//! program started here ends with the test process, however that ends ([`process`]). Being test code,
//! it panics where it cannot go on, and says what failed and how to mend it.

pub mod client;
pub mod daemon;
pub mod envoy;
pub mod frames;
pub mod go;
pub mod idp;
mod install;
pub mod load;
pub mod mesh;
pub mod module;
pub mod nginx;
pub mod oidc;
pub mod pki;
pub mod process;
pub mod redis;
pub mod registry;
pub mod relay;
pub mod secrets;
pub mod server;
pub mod skip;
pub mod testbed;
pub mod upstream;
pub mod users;
pub mod wire;

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Runs the servers and the HTTP/2 client in the background.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("harness")
        .enable_all()
        .build()
        .expect("a tokio runtime")
});

/// Locks even after another thread panicked: then the test has failed already, and its first message matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Header names (lower case) and values in the order of arrival; repeated names stand together.
pub type Headers = Vec<(String, Vec<u8>)>;

fn headers_of(map: &hyper::HeaderMap) -> Headers {
    map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

/// The values of every header called `name`, in any case.
fn values<'a>(headers: &'a Headers, name: &str) -> Vec<&'a [u8]> {
    let named = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_slice()).collect()
}
