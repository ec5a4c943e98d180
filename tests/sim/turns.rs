//! With `sharing`, one worker asks and the others wait for its answer: whose turn it is.

use meshgate::callout::CallId;

use crate::invariants::Violation;
use crate::oracle::VmId;
use crate::scenario::{METADATA, Millis, Scenario, grace};
use crate::schedule::Service;
use crate::services;

/// Turns are kept for so long, though by the clock they are over: it may have jumped.
const REMEMBERED: Millis = 10_000;

/// All that were taken lately.
#[derive(Default)]
pub struct Turns {
    turns: Vec<Turn>,
    /// When the clock last stepped, or the board was overwritten: turns from before say nothing.
    disturbed: Millis,
}

/// A worker's right to ask.
struct Turn {
    service: Service,
    path: String,
    vm: VmId,
    call: CallId,
    /// Whether another call of its holder belongs to it, which follows on this one.
    goes_on: bool,
    /// When this call ended, in the world's time.
    ended: Option<Millis>,
    /// In the world's time: when it was taken at the earliest, and at the latest.
    wanted: Millis,
    taken: Millis,
    /// By the clock.
    until: Millis,
    over: bool,
    /// Whether it stands on the board for certain: two users may have one place there.
    noted: bool,
}

/// A worker that makes a call.
pub struct Asker {
    pub vm: VmId,
    pub call: CallId,
    /// When it first wanted to, in the world's time and by the clock.
    pub wanted: (Millis, Millis),
    pub lasts: Millis,
    /// Whether any worker has calls that it has not made yet: they may stand in the place of others.
    pub unsent: bool,
}

/// What a turn is about that a call needs. What is asked of the blacklist or stored needs none.
fn subject(service: Service, path: &str) -> Option<(Service, String)> {
    match service {
        Service::Issuer | Service::Users | Service::Feed => Some((service, path.to_owned())),
        // Redis is asked for a record before the users service is, in the same turn.
        Service::Records => path.starts_with("/GET/").then(|| {
            let subject = services::subject(services::user_in(path));
            (Service::Users, format!("/users/{subject}"))
        }),
        Service::Blacklist => None,
    }
}

impl Turns {
    /// From now on, what was noted before says nothing.
    pub fn disturb(&mut self, at: Millis) {
        self.disturbed = at;
    }

    /// Whether that has not happened since.
    pub fn is_calm_since(&self, at: Millis) -> bool {
        self.disturbed < at
    }

    /// A worker makes a call. It may not, while it is another one's turn.
    pub fn take(
        &mut self,
        scenario: &Scenario,
        service: Service,
        path: &str,
        asker: &Asker,
        (at, clock): (Millis, Millis),
    ) -> Result<(), Violation> {
        let goes_on = path == METADATA || service == Service::Records;
        let Some((service, path)) = subject(service, path) else {
            return Ok(());
        };
        // The turn for the metadata is that for the keys, too, and that for Redis for the users service.
        let first = self.turns.iter().rev().find(|turn| {
            turn.goes_on
                && turn.vm == asker.vm
                && turn.ended == Some(at)
                && turn.service == service
                && (turn.path == path || service != Service::Users)
        });
        let mut noted = first.is_none_or(|first| first.noted);
        let (wanted_at, wanted) = asker.wanted;
        let (wanted_at, until) = match (first, &scenario.lookup) {
            (Some(first), _) => (first.wanted, first.until),
            (None, Some(lookup)) if goes_on && service == Service::Users => {
                (wanted_at, wanted + asker.lasts + lookup.timeout + grace())
            }
            (None, _) if goes_on => (wanted_at, wanted + 2 * asker.lasts),
            (None, _) => (wanted_at, wanted + asker.lasts),
        };
        let stands = |turn: &Turn| {
            turn.noted
                && !(asker.unsent && service == Service::Users)
                && !turn.over
                && turn.service == service
                && (turn.path == path || service != Service::Users)
                && turn.vm != asker.vm
                && clock < turn.until
                && turn.taken < wanted_at
                && turn.wanted > self.disturbed
        };
        // What was begun before the clock stepped goes on, though its turn may be over by the new one.
        let is_held_to_it = scenario.sharing && wanted_at > self.disturbed;
        let theirs = is_held_to_it && self.turns.iter().any(stands);
        Violation::unless(!theirs, "calls are not multiplied", || {
            format!("{path} is asked for while it is another worker's turn")
        })?;
        self.turns.retain(|turn| turn.until > clock || turn.wanted + REMEMBERED > at);
        for other in self.turns.iter_mut().filter(|turn| turn.until > clock) {
            if service == Service::Users && other.service == service && other.path != path {
                noted &= other.over;
                other.noted = false;
            }
        }
        self.turns.push(Turn {
            service,
            path,
            vm: asker.vm,
            call: asker.call,
            goes_on,
            ended: None,
            wanted: wanted_at,
            taken: at,
            until,
            over: false,
            noted,
        });
        Ok(())
    }

    /// A call has ended.
    pub fn end(&mut self, vm: VmId, call: CallId, service: Service, path: &str, at: Millis) {
        let Some((_, path)) = subject(service, path) else {
            return;
        };
        for turn in &mut self.turns {
            // A document that is posted is everybody's.
            let is_same = turn.path == path && turn.service != Service::Users;
            let ends = turn.vm == vm && turn.call == call;
            turn.over |= is_same || ends;
            turn.ended = if ends { Some(at) } else { turn.ended };
            // What is posted now may stand in another turn's place.
            turn.noted &= turn.path == path || turn.service != Service::Users;
        }
    }
}
