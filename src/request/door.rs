//! A request at a service's door: who the hop is, and whether it may say who the user is.

use std::borrow::Cow;
use std::rc::Rc;

use super::{
    AwaitKeys, Facts, Goal, Permit, Step, is_of_kind, of_kind, present, vet, without_user,
};
use crate::boundary::peer::Hop;
use crate::boundary::{AssertedContext, Distrust, Peer, identify};
use crate::config::{Boundary, Config, Mode, Otherwise, TokenKind};
use crate::context::{UserContext, texts};
use crate::denial::Code;
use crate::headers::{Field, Stripped};
use crate::rules::{Lacking, Level};
use crate::time::UnixTime;
use crate::token::extract;
use crate::token::{ProviderId, TokenError, UnverifiedToken, VerifiedToken};
use crate::worker::Shared;

/// Envoy's record of the certificates on the way.
const FORWARDED_CLIENT_CERT: &str = "x-forwarded-client-cert";

/// What came with a request, for when it is known which service calls.
#[derive(Debug)]
pub(super) struct Door {
    peer: Peer,
    /// What the hop said, by headers that only a trusted one may send.
    asserted: Vec<Field>,
    user: Result<Option<UserToken>, TokenError>,
}

/// A user's token, and the providers in whose places it stands.
struct UserToken {
    text: Vec<u8>,
    places: Vec<ProviderId>,
}

/// Without the text.
impl std::fmt::Debug for UserToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UserToken({} bytes)", self.text.len())
    }
}

/// Takes a request up that came to a service.
pub(super) fn arrive(
    facts: Facts,
    head: &Stripped,
    hop: &Hop,
    boundary: &Boundary,
    shared: &mut Shared,
    now: UnixTime,
) -> Step {
    let config = Rc::clone(&shared.config);
    let tokens = boundary.service_tokens.as_ref();
    let issuer = tokens.and_then(|tokens| tokens.provider.pick(&config.providers));
    let mut service = extract::find(head, issuer.into_iter());
    let mut user = extract::find(head, of_kind(&config, TokenKind::User));
    // Where both kinds may stand in one place, the token says itself which it is.
    if let (Ok(Some(one)), Ok(Some(other))) = (&service, &user)
        && one == other
    {
        if is_service_token(one, &config) {
            user = Ok(None);
        } else {
            service = Ok(None);
        }
    }
    let places = |text: &[u8]| {
        let stands = |id: &ProviderId| {
            let provider = id.pick(&config.providers);
            provider.is_some_and(|provider| extract::stands_in(head, &provider.places, text))
        };
        ProviderId::all(config.providers.len()).filter(stands).collect()
    };
    let door = Door {
        peer: Peer::of(boundary, hop, forwarded_certificates(head).as_deref()),
        asserted: head.asserted().to_vec(),
        user: user.map(|found| {
            found.map(|text| UserToken { places: places(&text), text: text.into_owned() })
        }),
    };
    match (service, tokens) {
        (Err(error), _) => facts.refuse_token(error),
        (Ok(None), _) | (Ok(Some(_)), None) => door.enter(facts, None, shared, now),
        (Ok(Some(text)), Some(tokens)) => {
            verify(facts, &text, tokens.provider, Box::new(door), shared, now)
        }
    }
}

/// Envoy joins headers of one name. Where somebody on the way did not, they count as if it had: the last
/// one is the nearest hop's.
fn forwarded_certificates(head: &Stripped) -> Option<Vec<u8>> {
    let named = |field: &&Field| field.name == FORWARDED_CLIENT_CERT;
    let values: Vec<&[u8]> =
        head.fields().filter(named).map(|field| field.value.as_slice()).collect();
    (!values.is_empty()).then(|| values.join(&b','))
}

fn is_service_token(text: &[u8], config: &Config) -> bool {
    UnverifiedToken::parse(text, config.limits.max_token_bytes, &config.providers)
        .is_ok_and(|token| is_of_kind(config, token.provider, TokenKind::Service))
}

/// Has a service token verified.
fn verify(
    facts: Facts,
    text: &[u8],
    provider: ProviderId,
    door: Box<Door>,
    shared: &mut Shared,
    now: UnixTime,
) -> Step {
    let goal = Goal::Door(door);
    if let Some(remembered) = shared.remembered(text, now) {
        return match remembered {
            Ok(token) if token.provider() == provider => vet(facts, token, goal, shared, now),
            Ok(_) => facts.refuse_token(TokenError::IssuerUnknown),
            Err(error) => facts.refuse_token(error),
        };
    }
    let config = Rc::clone(&shared.config);
    match UnverifiedToken::parse(text, config.limits.max_token_bytes, &config.providers) {
        Ok(token) if token.provider == provider => {
            AwaitKeys { facts, token, goal }.first_try(shared, now)
        }
        Ok(_) => facts.refuse_token(TokenError::IssuerUnknown),
        Err(error) => facts.refuse_token(error),
    }
}

impl Door {
    /// Who calls is known, as far as it ever will be.
    pub(super) fn enter(
        self,
        mut facts: Facts,
        token: Option<&VerifiedToken>,
        shared: &mut Shared,
        now: UnixTime,
    ) -> Step {
        let config = Rc::clone(&shared.config);
        let Mode::Service(boundary) = &config.mode else {
            return facts.refuse(Code::InternalError);
        };
        let proof = boundary.service_tokens.as_ref().zip(token);
        let caller = match identify(&self.peer, proof, &self.asserted) {
            Ok(caller) => caller,
            Err(Distrust::Untrusted) => return facts.refuse(Code::UntrustedPeer),
            Err(Distrust::Permission) => return facts.refuse(Code::PermissionRequired),
            Err(Distrust::Nameless) => {
                let why = "it has no `sub` that could name a service";
                return facts.refuse_token(TokenError::Malformed(why));
            }
        };
        facts.service = caller.service;
        if facts.demand.service && facts.service.is_none() {
            return facts.refuse(Code::ServiceRequired);
        }
        let said = AssertedContext::read(&config.context, &self.asserted);
        if caller.may_assert_user {
            return match said {
                Ok(Some(context)) => asserted(facts, &context, shared),
                // It calls for itself, or leaves it to the user's own token.
                Ok(None) => self.authenticate(facts, shared, now),
                Err(_) => facts.refuse(Code::UntrustedPeer),
            };
        }
        match boundary.otherwise {
            Otherwise::Authenticate => self.authenticate(facts, shared, now),
            // A service may call for itself where services may.
            Otherwise::Reject if facts.demand.service && said == Ok(None) => nobody(facts, shared),
            Otherwise::Reject => facts.refuse(Code::UntrustedPeer),
            Otherwise::Strip => nobody(facts, shared),
        }
    }

    fn authenticate(self, facts: Facts, shared: &mut Shared, now: UnixTime) -> Step {
        match self.user {
            Ok(Some(UserToken { text, places })) => {
                let stands_in = |id: ProviderId, _: &[u8]| places.contains(&id);
                present(facts, Ok(Some(Cow::Borrowed(&text))), &stands_in, shared, now)
            }
            Ok(None) => nobody(facts, shared),
            Err(error) => facts.refuse_token(error),
        }
    }
}

fn nobody(facts: Facts, shared: &Shared) -> Step {
    match facts.demand.level {
        Level::Anonymous | Level::Optional => without_user(facts, shared),
        Level::User | Level::Nobody => facts.refuse(Code::TokenMissing),
    }
}

/// Lets a request go on for the user whom a hop named that may do so.
fn asserted(facts: Facts, asserted: &AssertedContext, shared: &Shared) -> Step {
    let config = &shared.config;
    let record = asserted.record(&config.context);
    let roles = texts(record.members(), "role");
    let permissions = texts(record.members(), "permissions");
    match config.rules.admit(&facts.demand, &roles, &permissions) {
        Ok(()) => {}
        Err(Lacking::Role) => return facts.refuse(Code::RoleRequired),
        Err(Lacking::Permission) => return facts.refuse(Code::PermissionRequired),
    }
    let context = UserContext::asserted(&config.context, asserted);
    // The user's token, if there is one, was not verified here.
    facts.forward(&Permit(()), &context, false, shared)
}
