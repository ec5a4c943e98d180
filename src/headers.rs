//! Header fields in, edits out: where a client's context ends and the verified one begins.
//!
//! A context header is *set or removed* here and nowhere else, so that a client's value cannot
//! survive on any path.

use std::fmt;

use crate::boundary::txn_token::TXN_TOKEN;
use crate::config::names::HeaderName;
use crate::context::UserContext;
use crate::request::Permit;

/// One field of a request, as the host has it. The value may be any bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name in lower case.
    pub name: String,
    /// Its value.
    pub value: Vec<u8>,
}

/// Without the value, which may be a token.
impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ({} bytes)", self.name, self.value.len())
    }
}

/// A change to the request that goes upstream.
#[derive(Clone, PartialEq, Eq)]
pub enum Edit {
    /// Make this the one value of the header.
    Set(String, Vec<u8>),
    /// Take every value of the header away.
    Remove(String),
}

/// Without the value: what is left of a cookie, say.
impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(name, value) => write!(f, "Set({name}, {} bytes)", value.len()),
            Self::Remove(name) => write!(f, "Remove({name})"),
        }
    }
}

/// The names that only meshgate may set.
///
/// Compared by `canonical`, since what reads the headers behind us may not tell `-` from `_`.
#[derive(Debug)]
pub struct ManagedHeaders(Vec<String>);

impl ManagedHeaders {
    /// Managed in every config, whatever it names: the seeds of trust of a mesh that runs meshgate.
    /// A config that sets only some of them must not let a client set the others.
    const ALWAYS: [&'static str; 6] = [
        "x-user-id",
        "x-user-clerk-id",
        "x-user-role",
        "x-user-channel-id",
        "x-service-name",
        TXN_TOKEN,
    ];

    /// The names of `configured` and those that are always managed.
    pub fn new<'a>(configured: impl Iterator<Item = &'a HeaderName>) -> Self {
        Self::of(configured.map(HeaderName::as_str).chain(Self::ALWAYS).map(canonical).collect())
    }

    /// These names and those of `more`: what may not stand in a trailer, which no check ever sees.
    #[must_use]
    pub fn and<'a>(&self, more: impl Iterator<Item = &'a str>) -> Self {
        Self::of(self.0.iter().cloned().chain(more.map(canonical)).collect())
    }

    fn of(mut names: Vec<String>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self(names)
    }

    /// Whether a client may not send `name`.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        // A few names, most of which differ at once: quicker than a text made to be looked up by.
        self.0.iter().any(|managed| are_alike(managed, name))
    }

    /// The names, as [`canonical`] writes them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Takes every managed field out of `fields`, each with the edit that does so, by the name it was sent
    /// with. This holds for trailers as it does for headers.
    pub fn take_out(&self, fields: &mut Vec<Field>) -> (Vec<Edit>, Vec<Field>) {
        let taken: Vec<Field> = fields.extract_if(.., |field| self.covers(&field.name)).collect();
        let edits = taken.iter().map(|field| Edit::Remove(field.name.clone())).collect();
        (edits, taken)
    }
}

/// The name as the least careful reader sees it: CGI and its heirs turn `-` into `_`, PHP does so
/// with every other sign too.
#[must_use]
pub fn canonical(name: &str) -> String {
    name.bytes().map(|byte| char::from(least_careful(byte))).collect()
}

/// Whether the least careful reader takes two names for one. Of most that are compared, the lengths differ.
#[must_use]
#[inline]
pub fn are_alike(one: &str, other: &str) -> bool {
    let mut pairs = one.bytes().zip(other.bytes());
    one.len() == other.len() && pairs.all(|(one, other)| least_careful(one) == least_careful(other))
}

fn least_careful(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// The head of a request from which everything a client may not say is gone.
/// [`Stripped::strip`] is its only origin, and all that is decided is decided on it.
#[derive(Debug)]
pub struct Stripped {
    rest: Vec<Field>,
    asserted: Vec<Field>,
}

impl Stripped {
    /// Takes the managed fields out of `head`. The edits do the same to the request itself and are
    /// to be applied before anything else happens.
    #[must_use]
    pub fn strip(head: Vec<Field>, managed: &ManagedHeaders) -> (Vec<Edit>, Self) {
        let mut rest = head;
        let (edits, asserted) = managed.take_out(&mut rest);
        (edits, Self { rest, asserted })
    }

    /// The same head of a request with another target.
    #[must_use]
    pub fn as_if(&self, method: &[u8], host: &[u8], path: &[u8]) -> Self {
        let field =
            |name: &str, value: &[u8]| Field { name: name.to_owned(), value: value.to_vec() };
        let target = [field(":method", method), field(":authority", host), field(":path", path)];
        let others = self.rest.iter().filter(|field| !target.iter().any(|t| t.name == field.name));
        let rest = target.iter().chain(others).cloned().collect();
        Self { rest, asserted: self.asserted.clone() }
    }

    /// What was taken out: the words of whoever sent it, for [`crate::boundary`] to weigh. Nobody else
    /// looks at them.
    #[must_use]
    pub fn asserted(&self) -> &[Field] {
        &self.asserted
    }

    /// What is left, in order.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.rest.iter()
    }

    /// The value of the first field called `name`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|field| field.name == name).map(|field| field.value.as_slice())
    }
}

/// The edits that tell the upstream who the user is: each context header is set or removed.
#[must_use]
pub fn context_edits(_permit: &Permit, context: UserContext) -> Vec<Edit> {
    let (headers, signed) = context.into_parts();
    let headers = headers.into_iter().map(|(name, value)| match value {
        Some(value) => Edit::Set(name.into(), value.into_bytes()),
        None => Edit::Remove(name.into()),
    });
    let signed = signed.map(|token| Edit::Set(TXN_TOKEN.to_owned(), token.as_bytes().to_vec()));
    headers.chain(signed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str) -> Field {
        Field { name: name.to_ascii_lowercase(), value: b"forged".to_vec() }
    }

    #[test]
    fn every_spelling_of_a_managed_name_is_stripped() {
        let mine: HeaderName = "x-tenant".parse().unwrap();
        let managed = ManagedHeaders::new([&mine].into_iter());
        let forged = [
            "x-user-id",
            "X-USER-ID",
            "x_user_id",
            "x-user_id",
            "X.User.Id",
            "x-user-role",
            "x_user_clerk_id",
            "x-user-channel-id",
            "x-service-name",
            "txn-token",
            "txn_token",
            "X-Tenant",
            "x_tenant",
        ];
        let honest = ["authorization", "x-user", "x-user-ids", "xuserid", ":path", ""];
        let head = forged.iter().chain(&honest).map(|name| field(name)).collect();
        let (edits, rest) = Stripped::strip(head, &managed);
        let removed: Vec<Edit> =
            forged.iter().map(|name| Edit::Remove(name.to_ascii_lowercase())).collect();
        assert_eq!(edits, removed);
        let left: Vec<&str> = rest.fields().map(|field| field.name.as_str()).collect();
        assert_eq!(left, honest);
    }
}
