//! A request that another proxy asks about: which one is meant, and the answer that lets it through.

use std::borrow::Cow;

use super::Permit;
use crate::boundary::peer::Hop;
use crate::config::names::HeaderName;
use crate::config::{Authz, AuthzPeer};
use crate::denial::{Code, Reply};
use crate::headers::{Edit, ManagedHeaders, Stripped, canonical};
use crate::rules::Target;

/// The request that is asked about. Where headers differ about it, it may be any of them: a proxy writes the
/// one that it is known for, and passes on what a client wrote into the others.
#[derive(Debug)]
pub struct Asked {
    /// Its head.
    pub head: Stripped,
    methods: Vec<Vec<u8>>,
    hosts: Vec<Vec<u8>>,
    paths: Vec<Vec<u8>>,
}

/// Most values in which the headers may differ: one for each kind of proxy, and one of a client.
const MAX_DIFFERENT: usize = 4;

/// Why it is not known what is asked.
#[derive(Debug, Clone, Copy)]
pub struct Unclear(pub Code, pub &'static str);

impl Asked {
    /// Reads which request is meant.
    ///
    /// # Errors
    /// Where that is not clear, or who asks may not say.
    pub fn of(head: &Stripped, hop: &Hop, authz: &Authz) -> Result<Self, Unclear> {
        // Envoy answers whoever sends gRPC with a status of 200 in any case, which asks for misreading.
        if head.value("content-type").is_some_and(|kind| kind.starts_with(b"application/grpc")) {
            let why =
                "it has a gRPC `content-type`, which is to be taken off before it is asked about";
            return Err(Unclear(Code::CheckRefused, why));
        }
        let uris = values(head, &authz.original_uri);
        let mut methods = values(head, &authz.original_method);
        let mut hosts = values(head, &authz.original_host);
        let is_told = [&uris, &methods, &hosts].into_iter().any(|values| !values.is_empty());
        if is_told && !authz.peers.iter().any(|peer| is(peer, hop)) {
            let why = "only `authz.peers` may say by headers which request they ask about";
            return Err(Unclear(Code::UntrustedPeer, why));
        }
        let mut paths = Vec::new();
        for uri in uris {
            let (host, path) = taken_apart(&uri);
            hosts.extend(host.map(<[u8]>::to_vec));
            paths.push(path.to_vec());
        }
        for (values, own) in
            [(&mut methods, ":method"), (&mut hosts, ":authority"), (&mut paths, ":path")]
        {
            if values.is_empty() {
                values.push(head.value(own).unwrap_or_default().to_vec());
            }
            let mut different: Vec<Vec<u8>> = Vec::new();
            for value in values.drain(..) {
                if !different.contains(&value) {
                    different.push(value);
                }
            }
            if different.len() > MAX_DIFFERENT {
                let why = "its headers name too many requests";
                return Err(Unclear(Code::CheckRefused, why));
            }
            *values = different;
        }
        let first = |values: &[Vec<u8>]| values.first().cloned().unwrap_or_default();
        let head = head.as_if(&first(&methods), &first(&hosts), &first(&paths));
        Ok(Self { head, methods, hosts, paths })
    }

    /// Each request that may be meant. Those of one path follow each other: the rules then read it once.
    #[must_use]
    pub fn targets(&self) -> Vec<Target<'_>> {
        let mut targets = Vec::new();
        for path in &self.paths {
            for host in &self.hosts {
                targets.extend(self.methods.iter().map(|method| Target { method, host, path }));
            }
        }
        targets
    }
}

fn values(head: &Stripped, names: &[HeaderName]) -> Vec<Vec<u8>> {
    let of = |name: &HeaderName| {
        let name = name.as_str().to_owned();
        head.fields().filter(move |field| field.name == name).map(|field| field.value.clone())
    };
    names.iter().flat_map(of).collect()
}

fn is(peer: &AuthzPeer, hop: &Hop) -> bool {
    match peer {
        AuthzPeer::Address(network) => {
            hop.address.as_deref().is_some_and(|address| network.holds(address))
        }
        AuthzPeer::Spiffe(pattern) => hop.id().is_some_and(|id| pattern.matches(&id).is_some()),
    }
}

/// The host and the path of a URI, or of a path alone.
fn taken_apart(uri: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let scheme = [&b"https://"[..], b"http://"].into_iter().find(|scheme| {
        uri.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let Some(rest) = scheme.and_then(|scheme| uri.get(scheme.len()..)) else {
        return (None, uri);
    };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    match end.and_then(|end| rest.split_at_checked(end)) {
        Some((host, path)) if path.starts_with(b"/") => (Some(host), path),
        // A query without a path is one of `/`, whatever it says.
        Some((host, _)) => (Some(host), b"/"),
        None => (Some(rest), b"/"),
    }
}

/// What takes the context headers off that were sent under another spelling: they are not set in the answer, and
/// who asks still has them.
pub(super) fn misspelt(head: &Stripped) -> impl Iterator<Item = Edit> + '_ {
    let names = head.asserted().iter().map(|field| &field.name);
    names.filter(|name| **name != canonical(name)).map(|name| Edit::Remove(name.clone()))
}

/// Envoy takes these headers off the request it asked about.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// The answer that lets the request through: what `edits` set stands in its headers, and the context of which
/// nothing is known is named for removal.
pub(super) fn allowed(
    _permit: &Permit,
    edits: Vec<Edit>,
    managed: &ManagedHeaders,
    request_id: &str,
) -> Reply {
    let mut headers = vec![("cache-control".into(), "no-store".to_owned())];
    let mut unset: Vec<String> = managed.names().map(str::to_owned).collect();
    unset.sort_unstable();
    for edit in edits {
        match edit {
            Edit::Set(name, value) if managed.covers(&name) => {
                unset.retain(|other| *other != name);
                headers.push((name.into(), String::from_utf8_lossy(&value).into_owned()));
            }
            // A token in a cookie or in the path: who asks has them, and sends them on as it likes.
            Edit::Set(..) => {}
            Edit::Remove(name) => {
                if !unset.contains(&name) {
                    unset.push(name);
                }
            }
        }
    }
    // A config may itself spell a header with `_`. Envoy sets first and removes then, so that a client who sends
    // that name would take off what is said of it.
    unset.retain(|name| !headers.iter().any(|(set, _)| set == name));
    headers.push(("x-request-id".into(), request_id.to_owned()));
    headers.push((Cow::Borrowed(TO_REMOVE), unset.join(",")));
    Reply { status: 200, grpc_status: None, headers, body: String::new() }
}
