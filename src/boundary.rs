//! Who may say who the user is: hop and service token in, what they are worth out.
//!
//! At a service's door the context that a hop sends is believed where the config lets that hop assert
//! it, and only there. The hop is known by the certificate that Envoy verified, or by a service token.
//! Context that a gateway signed is believed whoever brings it ([`txn_token`]).

pub mod destination;
pub mod peer;
pub mod propagation;
pub mod service_token;
pub mod txn_token;

use crate::config::names::is_header_value;
use crate::config::{Boundary, Context, ContextHeader, ServiceTokens, ValueSource};
use crate::context::texts;
use crate::headers::{Field, are_alike};
use crate::token::VerifiedToken;
use crate::user::UserRecord;
use peer::{Hop, SpiffeId};
use serde_json::{Map, Value};

/// The header that names the service behind a request.
pub const SERVICE_NAME: &str = "x-service-name";

/// What the certificate of a hop is worth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Whether there is a certificate, though it may say nothing that is understood.
    pub is_known: bool,
    /// The service that it names.
    pub service: Option<String>,
    /// Whether it may say who the user is.
    pub may_assert_user: bool,
}

impl Peer {
    /// The hop's identity, held against the config's peers; the first that fits holds.
    #[must_use]
    pub fn of(config: &Boundary, hop: &Hop, forwarded: Option<&[u8]>) -> Self {
        let unnamed = Self { is_known: hop.has_certificate, ..Self::default() };
        let Some(id) = hop.id() else {
            return unnamed;
        };
        // The hop may speak for another one, where the config says so.
        let speaks_for = config.forwarders.iter().any(|pattern| pattern.matches(&id).is_some());
        // Where it does not say for which, it may be for somebody whom nobody knows.
        let id = if speaks_for {
            match forwarded.and_then(|header| peer::forwarded_id(header, &id)) {
                Some(id) => id,
                None => return unnamed,
            }
        } else {
            id
        };
        Self::named(config, &id).unwrap_or(unnamed)
    }

    fn named(config: &Boundary, id: &SpiffeId) -> Option<Self> {
        let fitting = |peer: &'_ crate::config::PeerRule| {
            let wildcard = peer.pattern.matches(id)?;
            let service = peer.service_name.as_ref().and_then(|name| name.resolve(wildcard));
            Some(Self { is_known: true, service, may_assert_user: peer.may_assert_user })
        };
        config.peers.iter().find_map(fitting)
    }
}

/// A service that proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its name.
    pub service: Option<String>,
    /// Whether it may say who the user is.
    pub may_assert_user: bool,
}

/// Why a hop is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// It is not who it says it is, or may not say what it says.
    Untrusted,
    /// It lacks a permission.
    Permission,
    /// Its service token names no service.
    Nameless,
}

/// Who a hop is, by its certificate and its service token.
///
/// # Errors
/// Where the two do not fit each other, or it says that it is somebody else.
pub fn identify(
    peer: &Peer,
    token: Option<(&ServiceTokens, &VerifiedToken)>,
    asserted: &[Field],
) -> Result<Caller, Distrust> {
    let caller = match token {
        None => Caller { service: peer.service.clone(), may_assert_user: peer.may_assert_user },
        Some((config, token)) => {
            let claims = token.claims();
            let name = claims.text("sub").filter(|name| is_header_value(name));
            let name = name.ok_or(Distrust::Nameless)?;
            let held = texts(claims.members(), "permissions");
            let holds = |permission: &String| held.clone().any(|held| held == permission);
            if !config.permissions.iter().all(holds) {
                return Err(Distrust::Permission);
            }
            // A token that was stolen from another service is worth nothing here.
            if config.bind_to_peer && peer.is_known && peer.service.as_deref() != Some(name) {
                return Err(Distrust::Untrusted);
            }
            Caller {
                service: Some(name.to_owned()),
                may_assert_user: peer.may_assert_user || config.may_assert_user,
            }
        }
    };
    if let Some(name) = &caller.service
        && asserted.iter().any(|field| is_service_name(field) && field.value != name.as_bytes())
    {
        return Err(Distrust::Untrusted);
    }
    Ok(caller)
}

fn is_service_name(field: &Field) -> bool {
    are_alike(&field.name, SERVICE_NAME)
}

/// What a hop said of the user: the context headers that it sent, each with one legal value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssertedContext(Vec<(String, String)>);

impl AssertedContext {
    /// Reads the context headers among the `fields` that the hop sent. Nothing where it said nothing of a
    /// user.
    ///
    /// # Errors
    /// [`Distrust::Untrusted`] where a header is there twice, under another spelling, or with a value that
    /// is not legal, or one that is required is missing beside others.
    pub fn read(config: &Context, fields: &[Field]) -> Result<Option<Self>, Distrust> {
        let sent = Self::part(config, fields)?;
        let lacks =
            |header: &ContextHeader| header.required && sent.value(header.name.as_str()).is_none();
        match sent.0.is_empty() {
            true => Ok(None),
            false if config.headers.iter().any(lacks) => Err(Distrust::Untrusted),
            false => Ok(Some(sent)),
        }
    }

    /// The same, though some that are required be missing.
    ///
    /// # Errors
    /// As [`Self::read`], but for that.
    pub fn part(config: &Context, fields: &[Field]) -> Result<Self, Distrust> {
        let mut values = Vec::new();
        for header in &config.headers {
            let name = header.name.as_str();
            let alike = |field: &&Field| are_alike(&field.name, name);
            let mut found = fields.iter().filter(alike);
            match (found.next(), found.next()) {
                (None, _) => {}
                (Some(field), None) if field.name == name => {
                    let value = std::str::from_utf8(&field.value).ok();
                    let value = value.filter(|value| is_header_value(value));
                    values.push((name.to_owned(), value.ok_or(Distrust::Untrusted)?.to_owned()));
                }
                (Some(_), _) => return Err(Distrust::Untrusted),
            }
        }
        Ok(Self(values))
    }

    /// What the door was told of the request that this one is made for, where nothing here contradicts it.
    #[must_use]
    pub fn restored(self, told: Vec<(String, String)>) -> Option<Self> {
        let agrees = self.0.iter().all(|pair| told.contains(pair));
        agrees.then_some(Self(told))
    }

    /// Whether it says nothing of a user.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a header.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The user's record as far as the headers tell it: what the rules' roles and permissions are held
    /// against.
    #[must_use]
    pub fn record(&self, config: &Context) -> UserRecord {
        let mut members = Map::new();
        for header in &config.headers {
            if let (ValueSource::User(pointer), Some(text)) =
                (&header.source, self.value(header.name.as_str()))
                && let Some(member) = pointer.as_member()
            {
                let value = match &header.join {
                    Some(join) if !join.is_empty() => text.split(join.as_str()).collect(),
                    Some(_) | None => Value::from(text),
                };
                members.insert(member.to_owned(), value);
            }
        }
        UserRecord::new(members)
    }
}
