//! A verified token may have been revoked since it was issued: the feed and the blacklist say so.

use std::rc::Rc;

use super::{Facts, Goal, Step, Waiting, arrived};
use crate::callout::CallKey;
use crate::config::OnUnavailable;
use crate::denial::Code;
use crate::metrics::Counter;
use crate::revocation::blacklist::Names;
use crate::time::UnixTime;
use crate::token::VerifiedToken;
use crate::worker::{Shared, Verdict};

/// A verified token in want of the first word of what is revoked.
#[derive(Debug)]
pub struct AwaitFeed {
    pub(super) facts: Facts,
    pub(super) token: VerifiedToken,
    pub(super) goal: Goal,
}

impl AwaitFeed {
    /// A list that came meanwhile, from another worker, may be too old to clear a token. It still names those that
    /// are revoked.
    pub(super) fn without_answer(self, shared: &mut Shared, now: UnixTime) -> Step {
        if revoked_meanwhile(&self.token, shared, now) {
            return self.facts.refuse(Code::TokenRevoked);
        }
        shared.metrics.count(Counter::RevocationUnknown);
        match shared.config.revocation.on_unavailable {
            OnUnavailable::Deny => self.facts.refuse(Code::RevocationUnavailable),
            OnUnavailable::Allow => {
                look_up_blacklist(self.facts, self.token, self.goal, shared, now)
            }
        }
    }
}

/// A verified token in want of what the blacklist says of it.
#[derive(Debug)]
pub struct AwaitListed {
    pub(super) facts: Facts,
    pub(super) token: VerifiedToken,
    pub(super) goal: Goal,
}

impl AwaitListed {
    pub(super) fn answered(self, listed: bool, shared: &mut Shared, now: UnixTime) -> Step {
        if listed {
            shared.metrics.count(Counter::Revoked);
        }
        if listed || revoked_meanwhile(&self.token, shared, now) {
            return self.facts.refuse(Code::TokenRevoked);
        }
        arrived(self.facts, self.token, self.goal, shared, now)
    }

    pub(super) fn without_answer(self, shared: &mut Shared, now: UnixTime) -> Step {
        shared.metrics.count(Counter::RevocationUnknown);
        match shared.config.revocation.on_unavailable {
            OnUnavailable::Deny => self.facts.refuse(Code::RevocationUnavailable),
            OnUnavailable::Allow => self.answered(false, shared, now),
        }
    }
}

/// Whether the feed brought the end of a token that it was silent of when the request began to wait.
pub(super) fn revoked_meanwhile(token: &VerifiedToken, shared: &Shared, now: UnixTime) -> bool {
    shared.feed_on(token, now) == Verdict::Revoked
}

/// A verified token may have been revoked since it was issued: first by the feed, which is at hand.
pub(super) fn vet(
    mut facts: Facts,
    token: VerifiedToken,
    goal: Goal,
    shared: &mut Shared,
    now: UnixTime,
) -> Step {
    facts.reference.who.is(&token);
    match shared.feed_on(&token, now) {
        Verdict::Good => look_up_blacklist(facts, token, goal, shared, now),
        Verdict::Revoked => facts.refuse(Code::TokenRevoked),
        Verdict::Await => {
            Step::Wait(Waiting::Feed(AwaitFeed { facts, token, goal }), CallKey::Feed)
        }
        Verdict::Unavailable => AwaitFeed { facts, token, goal }.without_answer(shared, now),
    }
}

/// Then by the blacklist, which must be asked.
fn look_up_blacklist(
    facts: Facts,
    token: VerifiedToken,
    goal: Goal,
    shared: &mut Shared,
    now: UnixTime,
) -> Step {
    let config = Rc::clone(&shared.config);
    let Some(blacklist) = &config.revocation.blacklist else {
        return arrived(facts, token, goal, shared, now);
    };
    let Some(names) = Names::of(blacklist, token.claims()) else {
        let why = "it has none of the claims by which the blacklist knows tokens";
        return Step::Deny(facts.denial(Code::TokenMalformed, Some(why)));
    };
    let state = AwaitListed { facts, token, goal };
    match shared.is_listed(&names, now) {
        Some(listed) => state.answered(listed, shared, now),
        None => Step::Wait(Waiting::Listed(state), CallKey::Blacklist(names)),
    }
}
