//! A request at a service's door: who the hop is, whether it may say who the user is, and what a gateway
//! signed.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use super::vetting::{revoked_meanwhile, vet};
use super::{AwaitKeys, Facts, Goal, Permit, Step, is_of_kind, of_kind, present, without_user};
use crate::account::USER_ID;
use crate::boundary::peer::Hop;
use crate::boundary::txn_token::{self, TxnToken};
use crate::boundary::{AssertedContext, Distrust, Peer, identify};
use crate::config::{Boundary, Config, Mode, Otherwise, TokenKind, UserSource};
use crate::context::UserContext;
use crate::denial::Code;
use crate::headers::{Field, Stripped};
use crate::rules::{Grants, Level};
use crate::time::UnixTime;
use crate::token::extract;
use crate::token::{ProviderId, TokenError, UnverifiedToken, VerifiedToken};
use crate::worker::Shared;

/// Envoy's record of the certificates on the way.
const FORWARDED_CLIENT_CERT: &str = "x-forwarded-client-cert";

/// What came with a request, for when it is known who calls and what a gateway signed.
#[derive(Debug)]
pub(super) struct Door {
    peer: Peer,
    /// What the hop said, by headers that only a trusted one may send.
    asserted: Vec<Field>,
    user: Result<Option<UserToken>, TokenError>,
    /// What is still to be verified, the last one first.
    shown: Vec<Shown>,
    /// What was.
    service: Option<VerifiedToken>,
    signed: Option<(VerifiedToken, TxnToken)>,
}

/// A user's token, and the providers in whose places it stands.
#[derive(Debug)]
struct UserToken {
    text: Text,
    places: Vec<ProviderId>,
}

/// A token that counts only if this provider issued it.
#[derive(Debug)]
struct Shown {
    text: Text,
    provider: ProviderId,
}

/// A token's text, which does not print.
struct Text(Vec<u8>);

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Text({} bytes)", self.0.len())
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
    let signed = match boundary.txn_token {
        Some(provider) => txn_token::sent(head.asserted()).map(|sent| sent.zip(Some(provider))),
        None => Ok(None),
    };
    let (service, signed) = match (service, signed) {
        (Ok(service), Ok(signed)) => (service, signed),
        (Err(error), _) | (_, Err(error)) => return facts.refuse_token(error),
    };
    let service = service.as_deref().zip(tokens.map(|tokens| tokens.provider));
    let shown = signed.into_iter().chain(service);
    let door = Door {
        peer: Peer::of(boundary, hop, forwarded_certificates(head).as_deref()),
        asserted: head.asserted().to_vec(),
        user: user.map(|found| {
            found.map(|text| UserToken { places: places(&text), text: Text(text.into_owned()) })
        }),
        shown: shown
            .map(|(text, provider)| Shown { text: Text(text.to_vec()), provider })
            .collect(),
        service: None,
        signed: None,
    };
    Box::new(door).go_on(facts, shared, now)
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

/// Has a token verified that the hop showed.
fn verify(
    facts: Facts,
    shown: &Shown,
    door: Box<Door>,
    shared: &mut Shared,
    now: UnixTime,
) -> Step {
    let Shown { text: Text(text), provider } = shown;
    let goal = Goal::Door(door);
    if let Some(remembered) = shared.remembered(text, now) {
        return match remembered {
            Ok(token) if token.provider() == *provider => vet(facts, token, goal, shared, now),
            Ok(_) => facts.refuse_token(TokenError::IssuerUnknown),
            Err(error) => facts.refuse_token(error),
        };
    }
    let config = Rc::clone(&shared.config);
    match UnverifiedToken::parse(text, config.limits.max_token_bytes, &config.providers) {
        Ok(token) if token.provider == *provider => {
            AwaitKeys { facts, token, goal }.first_try(shared, now)
        }
        Ok(_) => facts.refuse_token(TokenError::IssuerUnknown),
        Err(error) => facts.refuse_token(error),
    }
}

impl Door {
    /// Has the next token verified. Where there is none left, all is known that ever will be.
    fn go_on(mut self: Box<Self>, facts: Facts, shared: &mut Shared, now: UnixTime) -> Step {
        match self.shown.pop() {
            Some(shown) => verify(facts, &shown, self, shared, now),
            None => self.enter(facts, shared, now),
        }
    }

    /// A token that the hop showed is good.
    pub(super) fn proved(
        mut self: Box<Self>,
        facts: Facts,
        token: VerifiedToken,
        shared: &mut Shared,
        now: UnixTime,
    ) -> Step {
        let kind = token.provider().pick(&shared.config.providers).map(|provider| provider.kind);
        match (kind, txn_token::sent(&self.asserted)) {
            (Some(TokenKind::Service), _) => self.service = Some(token),
            // While the keys of this one were waited for, the other may have been revoked.
            (Some(TokenKind::Transaction), _)
                if self.service.as_ref().is_some_and(|one| revoked_meanwhile(one, shared, now)) =>
            {
                return facts.refuse(Code::TokenRevoked);
            }
            (Some(TokenKind::Transaction), Ok(Some(text))) => {
                let text = TxnToken::verified(&token, text);
                self.signed = Some((token, text));
            }
            (Some(TokenKind::User | TokenKind::Transaction) | None, _) => {
                return facts.refuse(Code::InternalError);
            }
        }
        self.go_on(facts, shared, now)
    }

    fn enter(self, mut facts: Facts, shared: &mut Shared, now: UnixTime) -> Step {
        let config = Rc::clone(&shared.config);
        let Mode::Service(boundary) = &config.mode else {
            return facts.refuse(Code::InternalError);
        };
        let proof = boundary.service_tokens.as_ref().zip(self.service.as_ref());
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
        facts.proof = self.service;
        if facts.demand.service && facts.service.is_none() {
            return facts.refuse(Code::ServiceRequired);
        }
        // What a gateway signed counts whoever brings it, and the plain headers beside it do not.
        if let Some((token, text)) = self.signed {
            return match txn_token::context(&config.context, &token) {
                Ok(context) => asserted(facts, &context, Some(text), shared, now),
                Err(error) => facts.refuse_token(error),
            };
        }
        let said = AssertedContext::read(&config.context, &self.asserted);
        if caller.may_assert_user {
            return match said {
                Ok(Some(context)) => asserted(facts, &context, None, shared, now),
                // It calls for itself, or leaves it to the user's own token: which says nothing where the
                // config does not say where users' roles come from.
                Ok(None) if matches!(config.user, UserSource::Unsaid) => nobody(facts, shared, now),
                Ok(None) => authenticate(self.user, facts, shared, now),
                Err(_) => facts.refuse(Code::UntrustedPeer),
            };
        }
        match boundary.otherwise {
            Otherwise::Authenticate => authenticate(self.user, facts, shared, now),
            // A service may call for itself where services may.
            Otherwise::Reject if facts.demand.service && said == Ok(None) => {
                nobody(facts, shared, now)
            }
            Otherwise::Reject => facts.refuse(Code::UntrustedPeer),
            Otherwise::Strip => nobody(facts, shared, now),
        }
    }
}

fn authenticate(
    user: Result<Option<UserToken>, TokenError>,
    facts: Facts,
    shared: &mut Shared,
    now: UnixTime,
) -> Step {
    match user {
        Ok(Some(UserToken { text: Text(text), places })) => {
            let stands_in = |id: ProviderId, _: &[u8]| places.contains(&id);
            present(facts, Ok(Some(Cow::Borrowed(&text))), &stands_in, shared, now)
        }
        Ok(None) => nobody(facts, shared, now),
        Err(error) => facts.refuse_token(error),
    }
}

fn nobody(facts: Facts, shared: &Shared, now: UnixTime) -> Step {
    match facts.demand.level {
        Level::Anonymous | Level::Optional => without_user(facts, shared, now),
        Level::User | Level::Nobody => facts.refuse(Code::TokenMissing),
    }
}

/// Lets a request go on for the user whom a hop named that may do so, or a gateway in what it signed.
fn asserted(
    mut facts: Facts,
    asserted: &AssertedContext,
    signed: Option<TxnToken>,
    shared: &Shared,
    now: UnixTime,
) -> Step {
    let config = &shared.config;
    let record = asserted.record(&config.context);
    let grants = Grants { record: record.members(), claims: None, clock_skew: Duration::ZERO };
    if let Err(lacking) = config.rules.admit(&facts.demand, &grants, now) {
        facts.reference.who.is_user(asserted.value(USER_ID));
        return facts.refuse_lacking(&lacking);
    }
    let context = UserContext::asserted(&config.context, asserted);
    let context = match signed {
        Some(token) => context.signed_as(token),
        None => context,
    };
    // The user's token, if there is one, was not verified here.
    facts.forward(&Permit(()), context, false, shared, now)
}
