//! `cargo run --example axum`: a Rust service that needs no sidecar, with an issuer and a users service beside
//! it, each on a free port. `app.rs` is what a service of your own would copy; `docs/library.md` tells how.

mod app;

use std::collections::HashMap;
use std::error::Error;

use harness::idp::{Idp, seed_claims};
use harness::users::Users;
use meshgate::embed::Gate;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (idp, users) = (Idp::start(), Users::start());
    let clusters = HashMap::from([("auth", idp.address()), ("users", users.address())]);
    let gate =
        Gate::start(app::config().to_string().as_bytes(), app::fetch(clusters, Handle::current()))?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let token = idp.key("es-1").token(&seed_claims("user_2abc"));
    println!("curl -i http://{address}/me");
    println!(
        "curl -i http://{address}/me -H 'x-user-id: forged' -H 'authorization: Bearer {token}'"
    );
    axum::serve(listener, app::router(gate)).await?;
    Ok(())
}
