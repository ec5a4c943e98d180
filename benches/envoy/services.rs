//! What the Envoys talk to. All of them share it, so that it is as slow for each.

use harness::idp::Idp;
use harness::server::{Answer, Seen, Server};
use serde_json::json;

/// Where the users service is asked by the user's `clerkId`.
const BY_CLERK_ID: &str = "/internal/users/by-clerk-id/";
/// Where it is asked by `ext_authz`, which passes the header [`CLERK_ID`] on.
pub const AUTHZ: &str = "/authz";
/// What `jwt_authn` makes of the claim `clerkId`.
pub const CLERK_ID: &str = "x-clerk-id";

/// One of each.
pub struct Services {
    /// The cluster `clerk`.
    pub idp: Idp,
    /// The cluster `users`. Everybody is a user of it.
    pub users: Server,
    /// The cluster `videos`.
    pub upstream: Server,
}

impl Services {
    pub fn start() -> Self {
        Self {
            idp: Idp::start(),
            users: Server::start(user),
            upstream: Server::start(|_| Answer::new(200, "text/plain", "ok")),
        }
    }
}

fn user(seen: &Seen) -> Answer {
    let clerk_id = match seen.path.strip_prefix(BY_CLERK_ID) {
        Some(clerk_id) => clerk_id.to_owned(),
        None if seen.path.starts_with(AUTHZ) => {
            let said = seen.header(CLERK_ID).unwrap_or_default();
            String::from_utf8_lossy(said).into_owned()
        }
        None => return Answer::problem(404, "no such resource"),
    };
    let (id, channel) = (format!("u-{clerk_id}"), format!("ch-{clerk_id}"));
    if seen.path.starts_with(AUTHZ) {
        return Answer::new(200, "text/plain", "")
            .header("x-user-id", &id)
            .header("x-user-clerk-id", &clerk_id)
            .header("x-user-role", "USER")
            .header("x-user-channel-id", &channel);
    }
    Answer::json(
        200,
        &json!({
            "id": id, "clerkId": clerk_id, "role": "USER", "channelId": channel, "status": "ACTIVE",
        }),
    )
}
