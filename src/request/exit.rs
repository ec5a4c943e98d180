//! A request on its way out of a service: where it goes, and what may go there with it.

use std::rc::Rc;

use super::{Permit, Reference, Step, Waiting};
use crate::boundary::destination::{Destination, Passage};
use crate::boundary::peer::Hop;
use crate::boundary::propagation::Origin;
use crate::boundary::service_token::ServiceTokenId;
use crate::boundary::txn_token::{self, TXN_TOKEN};
use crate::boundary::{AssertedContext, Distrust, SERVICE_NAME};
use crate::callout::CallKey;
use crate::config::{Config, Egress, Propagation};
use crate::context::UserContext;
use crate::denial::{Code, Denial};
use crate::headers::{Edit, Stripped, context_edits};
use crate::time::UnixTime;
use crate::token::extract::Removals;
use crate::worker::Shared;

/// Takes a request up that a service makes. What it said of the user is gone, and comes back where it may.
pub(super) fn leave(
    head: &Stripped,
    hop: &Hop,
    egress: &Egress,
    shared: &mut Shared,
    now: UnixTime,
) -> Step {
    let config = Rc::clone(&shared.config);
    let reference = Reference::of(head, shared);
    let destination = Destination::of(&egress.destinations, hop.cluster.as_deref());
    let context = match destination.map(|destination| destination.context) {
        Some(Passage::Forward) => match carried(&config, head, &reference, shared, now) {
            Ok(context) => context,
            Err(code) => return Step::Deny(reference.denial(code, None)),
        },
        Some(Passage::Strip) | None => UserContext::nobody(&config.context),
    };
    let mut edits = context_edits(&Permit(()), &context);
    match signed(&config, head, destination) {
        Ok(signed) => edits.extend(signed),
        Err(code) => return Step::Deny(reference.denial(code, None)),
    }
    let Removals { read, alike } = Removals::of(head, &egress.places.iter());
    edits.extend(alike);
    match destination.map(|destination| destination.user_token) {
        Some(Passage::Forward) => {}
        Some(Passage::Strip) | None => edits.extend(read),
    }
    if destination.is_some_and(Destination::names_service) {
        edits.push(Edit::Set(SERVICE_NAME.to_owned(), egress.service.clone().into_bytes()));
    }
    let departure = Departure { reference, edits };
    match destination.and_then(|destination| destination.service_token) {
        None => departure.go(),
        Some(token) => AwaitToken { departure, token }.first_try(shared, now),
    }
}

/// The context that a request takes along: what the service says, held against what it was told.
fn carried(
    config: &Config,
    head: &Stripped,
    reference: &Reference,
    shared: &Shared,
    now: UnixTime,
) -> Result<UserContext, Code> {
    let said = match config.propagation {
        Propagation::ByService => AssertedContext::read(&config.context, head.asserted()),
        Propagation::ByRequestId => {
            let said = AssertedContext::part(&config.context, head.asserted());
            let restored = said.map(|said| match shared.origin_of(reference, now) {
                Origin::Known(told) => said.restored(told),
                Origin::Unknown | Origin::Ambiguous => said.is_empty().then_some(said),
            });
            match restored {
                Ok(None) => return Err(Code::ContextMismatch),
                Ok(context) => Ok(context),
                Err(distrust) => Err(distrust),
            }
        }
    };
    match said {
        Ok(Some(context)) => Ok(UserContext::asserted(&config.context, &context)),
        Ok(None) => Ok(UserContext::nobody(&config.context)),
        Err(Distrust::Untrusted | Distrust::Permission | Distrust::Nameless) => {
            Err(Code::UntrustedPeer)
        }
    }
}

/// The signed context that a request takes along: it proves itself where it arrives. Where what the service
/// says is held against what it was told, it stays behind, since it could be another request's.
fn signed(
    config: &Config,
    head: &Stripped,
    destination: Option<&Destination>,
) -> Result<Option<Edit>, Code> {
    let may_go = destination.is_some_and(|destination| destination.context == Passage::Forward)
        && config.propagation == Propagation::ByService;
    if !may_go {
        return Ok(None);
    }
    let sent = txn_token::sent(head.asserted()).map_err(|_| Code::UntrustedPeer)?;
    Ok(sent.map(|token| Edit::Set(TXN_TOKEN.to_owned(), token.to_vec())))
}

/// A request that may go, and how.
#[derive(Debug)]
struct Departure {
    reference: Reference,
    edits: Vec<Edit>,
}

impl Departure {
    fn go(self) -> Step {
        self.reference.forward(self.edits)
    }
}

/// A request in want of the service's own token.
#[derive(Debug)]
pub struct AwaitToken {
    departure: Departure,
    token: ServiceTokenId,
}

impl AwaitToken {
    fn first_try(self, shared: &mut Shared, now: UnixTime) -> Step {
        let call = CallKey::ServiceToken(self.token);
        match shared.service_token(self.token, now) {
            Some(edit) => self.shown(edit),
            None => Step::Wait(Waiting::ServiceToken(self), call),
        }
    }

    /// The token came that was waited for.
    pub(super) fn second_try(self, shared: &mut Shared, now: UnixTime) -> Step {
        match shared.service_token(self.token, now) {
            Some(edit) => self.shown(edit),
            None => Step::Deny(self.denial(Code::ServiceTokenUnavailable)),
        }
    }

    /// Where the user's token was in that header, it makes room.
    fn shown(mut self, edit: Edit) -> Step {
        self.departure.edits.push(edit);
        self.departure.go()
    }

    pub(super) fn denial(self, code: Code) -> Denial {
        self.departure.reference.denial(code, None)
    }
}
