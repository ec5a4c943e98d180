//! The truth, kept apart from the core: who each token is, and what which worker was told when.
//!
//! It reads nothing of the core's. What a worker may know of the keys, the list and the users it tells from
//! the answers that were delivered, and which a worker must know from the rules in the documentation: its own
//! answers at once, and with `sharing` those of other workers with the next tick or wake.

use std::collections::HashMap;

use crate::scenario::{Millis, START, Scenario};
use crate::schedule::{Form, Revoked, Schedule, Service};
use crate::services::{Entry, Record, Said};

/// By how much a clock may go back unnoticed.
pub const NUDGE: Millis = 1_000;

/// How long an entry of the feed is kept after its end.
const KEPT: Millis = 3_600_000;

/// One VM among all that there ever were.
pub type VmId = usize;

/// Something that a worker was told, by an answer that was not too late.
#[derive(Debug)]
pub struct Fact<T> {
    pub what: T,
    pub vm: VmId,
    /// When it was asked, and when told, by the clock.
    pub asked: Millis,
    pub clock: Millis,
    /// When it was told, in the world's time.
    pub at: Millis,
}

#[derive(Debug)]
pub struct List {
    entries: Vec<Entry>,
    /// Since when records of a user are good, by the entries that name them.
    renewed: HashMap<usize, Millis>,
}

/// What one worker must know, by the places of facts.
#[derive(Debug, Default, Clone)]
pub struct Known {
    pub keys: Option<usize>,
    pub list: Option<usize>,
}

/// When and where something is judged.
#[derive(Debug, Clone)]
pub struct Moment<'a> {
    pub vm: VmId,
    pub known: &'a Known,
    pub at: Millis,
    pub clock: Millis,
    /// When the request came, what the clock said, and what the worker knew: what takes long it need not
    /// begin anew, so what was good enough then is.
    pub then: (Millis, Millis, &'a Known),
}

#[derive(Debug)]
pub struct Oracle {
    pub scenario: Scenario,
    pub schedule: Schedule,
    pub keys: Vec<Fact<Vec<usize>>>,
    pub lists: Vec<Fact<List>>,
    pub users: Vec<Fact<(usize, Option<Record>)>>,
    pub listed: Vec<Fact<(usize, bool)>>,
    /// When each service last failed somebody, in the world's time.
    trouble: HashMap<Service, Millis>,
    /// By how much the clock has gone back in all.
    pub set_back: Millis,
    /// Facts before these were overwritten on the board.
    overwritten: Known,
}

impl Oracle {
    pub fn new(scenario: Scenario, schedule: Schedule) -> Self {
        Self {
            scenario,
            schedule,
            keys: Vec::new(),
            lists: Vec::new(),
            users: Vec::new(),
            listed: Vec::new(),
            trouble: HashMap::new(),
            set_back: 0,
            overwritten: Known::default(),
        }
    }

    /// A worker was told something by its own call.
    pub fn told(&mut self, said: Said, known: &mut Known, moment: (VmId, Millis, Millis, Millis)) {
        let (vm, asked, clock, at) = moment;
        match said {
            Said::Place | Said::Kept => {}
            Said::Listed(token, is_listed) => {
                self.listed.push(Fact { what: (token, is_listed), vm, asked, clock, at });
            }
            Said::Keys(what) => {
                self.keys.push(Fact { what, vm, asked, clock, at });
                known.keys = Some(self.keys.len() - 1);
            }
            Said::User(user, record) => {
                self.users.push(Fact { what: (user, record), vm, asked, clock, at });
            }
            Said::List(entries) => {
                let is_kept = |entry: &Entry| self.is_live(entry, clock - KEPT);
                let entries: Vec<Entry> = entries.into_iter().filter(is_kept).collect();
                let before = known.list.map(|place| &self.lists[place].what);
                let mut renewed = before.map(|list| list.renewed.clone()).unwrap_or_default();
                for entry in &entries {
                    if let Revoked::User(user) | Revoked::UserBefore(user) = entry.what
                        && before.is_none_or(|list| !list.entries.contains(entry))
                    {
                        renewed.insert(user, clock);
                    }
                }
                self.lists.push(Fact { what: List { entries, renewed }, vm, asked, clock, at });
                known.list = Some(self.lists.len() - 1);
            }
        }
    }

    /// A worker has looked at the board.
    pub fn looked(&self, known: &mut Known) {
        if self.scenario.sharing {
            let news = |facts: usize, overwritten: Option<usize>| {
                facts.checked_sub(1).filter(|last| Some(*last) >= overwritten)
            };
            known.keys = known.keys.max(news(self.keys.len(), self.overwritten.keys));
            known.list = known.list.max(news(self.lists.len(), self.overwritten.list));
        }
    }

    /// All that stood on the board is gone.
    pub fn overwritten(&mut self) {
        self.overwritten = Known { keys: Some(self.keys.len()), list: Some(self.lists.len()) };
    }

    /// The clock may have been set back: nothing that was told before lives longer for it. A worker notices with
    /// the next thing that it does.
    pub fn bring_along(&mut self, vm: VmId, at: Millis, clock: Millis) {
        const NOTICED_WITHIN: Millis = 2_000;
        if self.set_back <= NUDGE {
            return;
        }
        let sharing = self.scenario.sharing;
        let is_its = |of: VmId, told: Millis| (sharing || of == vm) && told + NOTICED_WITHIN <= at;
        for fact in self.keys.iter_mut().filter(|fact| is_its(fact.vm, fact.at)) {
            fact.clock = fact.clock.min(clock);
        }
        for fact in self.lists.iter_mut().filter(|fact| is_its(fact.vm, fact.at)) {
            fact.clock = fact.clock.min(clock);
        }
    }

    pub fn failed(&mut self, service: Service, at: Millis) {
        self.trouble.insert(service, at);
    }

    /// Whether a service has failed somebody so lately that requests may still feel it.
    pub fn is_in_trouble(&self, service: Service, at: Millis) -> bool {
        const FELT: Millis = 70_000;
        self.trouble.get(&service).is_some_and(|last| at < last + FELT)
    }

    /// How much longer things may live since the clock went back, and since notes on the board carry times of their own.
    fn slack(&self) -> Millis {
        if self.scenario.sharing { self.set_back + 5 } else { 0 }
    }

    /// The facts that a worker may go by: from the one that it must know.
    fn range<'a, T>(
        &'a self,
        facts: &'a [Fact<T>],
        must: Option<usize>,
        vm: VmId,
    ) -> impl Iterator<Item = &'a Fact<T>> {
        let sharing = self.scenario.sharing;
        facts[must.unwrap_or(0)..].iter().filter(move |fact| sharing || fact.vm == vm)
    }

    pub fn is_genuine(&self, token: usize) -> bool {
        self.schedule.tokens[token].form == Form::Genuine
    }

    pub fn user_of(&self, token: usize) -> usize {
        self.schedule.tokens[token].user
    }

    pub fn is_expired(&self, token: usize, clock: Millis) -> bool {
        clock >= date(self.schedule.tokens[token].expires) + self.scenario.skew
    }

    pub fn is_early(&self, token: usize, clock: Millis) -> bool {
        clock + self.scenario.skew < date(self.schedule.tokens[token].issued)
    }

    /// Whether the token's key may be taken for one of the issuer's, and whether it may be taken for none.
    pub fn key_is(&self, token: usize, published: bool, moment: &Moment<'_>) -> bool {
        let key = self.schedule.tokens[token].key;
        let keys = &self.scenario.keys;
        let (_, clock, known) = moment.then;
        self.range(&self.keys, known.keys, moment.vm).any(|fact| {
            let usable =
                clock.min(moment.clock) < fact.clock + keys.cache + keys.stale + self.slack();
            usable && fact.what.contains(&key) == published
        })
    }

    /// Whether the token may be taken for one that is not revoked.
    pub fn may_pass_feed(&self, token: usize, moment: &Moment<'_>) -> bool {
        let Some(feed) = &self.scenario.feed else {
            return true;
        };
        let (_, clock, known) = moment.then;
        let mut then = self.range(&self.lists, known.list, moment.vm);
        let is_heard =
            then.any(|fact| clock.min(moment.clock) < fact.clock + feed.max_age + self.slack());
        // A list that comes while the request waits is looked at.
        let mut now = self.range(&self.lists, moment.known.list, moment.vm);
        let is_silent = now.any(|fact| !self.covers(&fact.what, token, moment.clock));
        if feed.allow { is_silent || moment.known.list.is_none() } else { is_silent && is_heard }
    }

    /// Whether the token may be taken for one that is revoked.
    pub fn may_be_revoked(&self, token: usize, moment: &Moment<'_>) -> bool {
        self.range(&self.lists, moment.known.list, moment.vm)
            .any(|fact| self.covers(&fact.what, token, moment.clock))
    }

    /// Whether the token may be taken for one that is on the blacklist, or may not.
    pub fn may_be_listed(&self, token: usize, listed: bool, moment: &Moment<'_>) -> bool {
        let Some(list) = &self.scenario.blacklist else {
            return !listed;
        };
        let (came, clock, _) = moment.then;
        let is_it = |fact: &&Fact<(usize, bool)>| fact.vm == moment.vm && fact.what.0 == token;
        let said = |fact: &Fact<(usize, bool)>| fact.what.1 == listed;
        let (mut since, before): (Vec<_>, Vec<_>) =
            self.listed.iter().filter(is_it).partition(|fact| fact.at >= came);
        // What was said before is remembered. What is from the future would never grow old.
        since.extend(
            before
                .last()
                .filter(|fact| clock < fact.asked + list.cache && fact.asked <= clock + NUDGE),
        );
        let unknown = self.scenario.allows() && self.is_in_trouble(Service::Blacklist, moment.at);
        since.into_iter().any(said) || (!listed && unknown)
    }

    fn covers(&self, list: &List, token: usize, clock: Millis) -> bool {
        let plan = &self.schedule.tokens[token];
        list.entries.iter().any(|entry| {
            self.is_live(entry, clock)
                && match entry.what {
                    Revoked::Token(other) => other == token,
                    Revoked::User(user) => user == plan.user,
                    Revoked::UserBefore(user) => {
                        user == plan.user && date(plan.issued) < entry.before * 1_000
                    }
                    Revoked::Key(key) => key == plan.key,
                }
        })
    }

    fn is_live(&self, entry: &Entry, clock: Millis) -> bool {
        entry.ends.is_none_or(|ends| clock < ends * 1_000 + self.scenario.skew)
    }

    /// Whether a worker may use this fact of a user: it is young enough, or has just come, and nothing
    /// younger was said to this worker.
    fn may_use(
        &self,
        fact: &Fact<(usize, Option<Record>)>,
        life: Millis,
        moment: &Moment<'_>,
    ) -> bool {
        let (user, _) = &fact.what;
        let own =
            |other: &&Fact<(usize, Option<Record>)>| other.vm == moment.vm && other.what.0 == *user;
        let just_came = fact.at >= moment.then.0;
        // What is from the future would never grow old.
        let young = moment.clock < fact.asked + life && fact.asked <= moment.clock + NUDGE;
        let since = moment
            .known
            .list
            .and_then(|place| self.lists[place].what.renewed.get(user).copied())
            .unwrap_or(0);
        (self.scenario.sharing || fact.vm == moment.vm)
            && (just_came || young)
            && fact.asked >= since.saturating_sub(self.set_back)
            && !self
                .users
                .iter()
                .filter(own)
                .any(|other| other.asked > fact.clock && other.at > fact.at + self.set_back)
    }

    /// Whether a record of which `holds` says yes may be used for the user now.
    pub fn any_record(
        &self,
        user: usize,
        moment: &Moment<'_>,
        holds: impl Fn(&Record) -> bool,
    ) -> bool {
        let Some(lookup) = &self.scenario.lookup else {
            return false;
        };
        let stale = if self.is_in_trouble(Service::Users, moment.at) { lookup.if_error } else { 0 };
        let life = lookup.ttl + lookup.revalidate.max(stale);
        self.users.iter().any(|fact| {
            matches!(&fact.what, (of, Some(record)) if *of == user && holds(record))
                && self.may_use(fact, life, moment)
        })
    }

    /// Whether the user may be held to be unknown now.
    pub fn may_be_unknown(&self, user: usize, moment: &Moment<'_>) -> bool {
        let Some(lookup) = &self.scenario.lookup else {
            return false;
        };
        self.users.iter().any(|fact| {
            fact.what == (user, None) && self.may_use(fact, lookup.negative_ttl, moment)
        })
    }

    /// Whether the feed has ever named this user: then a lookup may end in vain because of that.
    pub fn was_renewed(&self, user: usize) -> bool {
        self.lists.last().is_some_and(|fact| fact.what.renewed.contains_key(&user))
    }
}

fn date(seconds: i64) -> Millis {
    START.checked_add_signed(seconds * 1_000).unwrap()
}
