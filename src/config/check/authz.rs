//! How other proxies ask about their requests.

use super::super::names::HeaderName;
use super::super::read::At;
use super::super::{Authz, AuthzPeer, raw};

/// Checks `authz`.
pub(super) fn check_authz(raw: raw::Authz, at: &At<'_>) -> Option<Authz> {
    let raw::Authz { peers, original_uri, original_method, original_host } = raw;
    let peers = at.field("peers").each(peers.unwrap_or_default(), check_peer);
    let names = |field: &str, names: Option<Vec<String>>, default: &[&str]| {
        let names =
            names.unwrap_or_else(|| default.iter().map(|name| (*name).to_owned()).collect());
        at.field(field).parsed_list::<HeaderName>(&names)
    };
    let original_uri = names(
        "original_uri",
        original_uri,
        &["x-original-uri", "x-original-url", "x-forwarded-uri"],
    );
    let original_method =
        names("original_method", original_method, &["x-original-method", "x-forwarded-method"]);
    let original_host =
        names("original_host", original_host, &["x-original-host", "x-forwarded-host"]);
    Some(Authz {
        peers: peers?,
        original_uri: original_uri?,
        original_method: original_method?,
        original_host: original_host?,
    })
}

fn check_peer(raw: raw::AuthzPeer, at: &At<'_>) -> Option<AuthzPeer> {
    match raw {
        raw::AuthzPeer { address: Some(address), spiffe_id: None } => {
            at.field("address").parsed(Some(address)).map(AuthzPeer::Address)
        }
        raw::AuthzPeer { address: None, spiffe_id: Some(id) } => {
            at.field("spiffe_id").parsed(Some(id)).map(AuthzPeer::Spiffe)
        }
        raw::AuthzPeer { address: None, spiffe_id: None } => {
            at.problem("names nobody, write `address: 10.0.0.0/8` or `spiffe_id: spiffe://...`")
        }
        raw::AuthzPeer { address: Some(_), spiffe_id: Some(_) } => {
            at.problem("has `address` and `spiffe_id`, keep one of them")
        }
    }
}
