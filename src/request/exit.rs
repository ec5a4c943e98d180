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
    let (context, signed) = match destination.map(|destination| destination.context) {
        Some(Passage::Forward) => match carried(&config, head, &reference, shared, now) {
            Ok(carried) => carried,
            Err(code) => return Step::Deny(reference.denial(code, None)),
        },
        Some(Passage::Strip) | None => (UserContext::nobody(&config.context), None),
    };
    let mut edits = context_edits(&Permit(()), context);
    edits.extend(signed.map(|token| Edit::Set(TXN_TOKEN.to_owned(), token.to_vec())));
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

/// The context that a request takes along, and the signed one: what the service says, held against what it
/// was told. Who signed is for where it arrives to verify.
fn carried<'a>(
    config: &Config,
    head: &'a Stripped,
    reference: &Reference,
    shared: &Shared,
    now: UnixTime,
) -> Result<(UserContext, Option<&'a [u8]>), Code> {
    let fields = head.asserted();
    let signed = txn_token::sent(fields).map_err(|_| Code::UntrustedPeer)?;
    let said = match config.propagation {
        Propagation::ByService => AssertedContext::read(&config.context, fields),
        Propagation::ByRequestId => AssertedContext::part(&config.context, fields).map(Some),
    };
    let said = match said {
        Ok(said) => said.unwrap_or_default(),
        Err(Distrust::Untrusted | Distrust::Permission | Distrust::Nameless) => {
            return Err(Code::UntrustedPeer);
        }
    };
    let context = match config.propagation {
        Propagation::ByService => Some(said),
        Propagation::ByRequestId => match shared.origin_of(reference, now) {
            Origin::Known(told) => {
                let limit = config.limits.max_token_bytes;
                let agrees = signed.is_none_or(|text| txn_token::says(text, limit, &told));
                said.restored(told).filter(|_| agrees)
            }
            Origin::Unknown | Origin::Ambiguous => {
                (said.is_empty() && signed.is_none()).then_some(said)
            }
        },
    };
    let context = context.ok_or(Code::ContextMismatch)?;
    Ok((UserContext::asserted(&config.context, &context), signed))
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
