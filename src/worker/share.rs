//! What a worker tells the others of its process, and what it hears from them.
//!
//! Documents, which are the key sets and the revocation list, every worker wants: all are woken for them.
//! A user's record only those want that wait for it, and they say so.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use super::Worker;
use crate::board::{Claim, Exchange, Fault, News, Place, Posted, Receipt, Theirs, View};
use crate::callout::{Answer, CallId, CallKey, GRACE};
use crate::config::{KeySource, Location};
use crate::jwks::cache::{Keys, ProviderKeys};
use crate::request::Outcome;
use crate::revocation::Terms;
use crate::revocation::feed::{Known, Pulse};
use crate::time::{UnixTime, millis};
use crate::token::ProviderId;
use crate::user::UserKey;
use crate::user::stored::Stored;
use crate::user::table::stored;

/// Whose turn it is to ask.
pub(super) enum Turn {
    /// This worker's.
    Mine,
    /// Another's.
    Theirs(Theirs),
    /// Nobody's: this came of the last one.
    Over(Outcome),
}

/// How another worker's turn ended.
pub(super) enum TurnEnd {
    /// It told what came of it.
    Told(Outcome),
    /// It did not.
    Silent,
}

impl Worker {
    /// What every worker holds a copy of.
    pub(super) fn documents(&self) -> Vec<CallKey> {
        let remote = |provider: &ProviderId| {
            self.shared.keys(*provider).and_then(ProviderKeys::remote).is_some()
        };
        let keys = ProviderId::all(self.shared.keys.len()).filter(remote).map(CallKey::Jwks);
        let feed = self.shared.config.revocation.feed.as_ref().map(|_| CallKey::Feed);
        keys.chain(feed).collect()
    }

    /// Whose turn it is to ask for `key`. From now on it is this worker's, for as long as an answer may take
    /// (its `patience`, without which it asks for nothing), unless another one has it, or has just told what
    /// came of it.
    pub(super) fn take_turn(
        &mut self,
        key: &CallKey,
        patience: Option<Duration>,
        now: UnixTime,
    ) -> Turn {
        let ends = patience.map(|patience| now.after(patience).after(GRACE));
        let claim = if let CallKey::User(user) = key {
            let seats = self.shared.config.user.lookup().and_then(|lookup| {
                let (exchange, seats) = self.shared.seats(user, lookup)?;
                Some(seats.claim(exchange, lookup, self.shared.user_since(user), now, ends))
            });
            seats.unwrap_or(Claim::Mine)
        } else {
            let seen = self.seen.get(key).copied();
            self.place(key).map_or(Claim::Mine, |(exchange, place)| {
                exchange.claim(&place, now, ends, |posted| Some(posted.at) > seen)
            })
        };
        match claim {
            Claim::Mine => Turn::Mine,
            Claim::Theirs(turn) => Turn::Theirs(turn),
            Claim::Answered(posted) => match (key, Stored::from_bytes(&posted.body)) {
                (CallKey::User(user), Some(record)) => Turn::Over(self.take_record(user, record)),
                (CallKey::User(_), None) => Turn::Mine,
                (_, _) => {
                    let outcome = self.take_over(key, &News::Answer(posted), now);
                    // What was posted long ago may be of no use any more.
                    if self.has(key, now) {
                        Turn::Over(outcome)
                    } else {
                        self.take_turn(key, patience, now)
                    }
                }
            },
        }
    }

    /// Whether there is a document that requests can be decided by.
    fn has(&self, key: &CallKey, now: UnixTime) -> bool {
        match (key, &self.shared.config.revocation.feed) {
            (CallKey::Jwks(provider), _) => self
                .shared
                .keys(*provider)
                .is_some_and(|keys| matches!(keys.usable(now), Keys::Ready(..))),
            (CallKey::Feed, Some(feed)) => matches!(self.shared.feed.known(feed, now), Known::List),
            (_, _) => false,
        }
    }

    /// Posts what came of this worker's own call.
    pub(super) fn tell(
        &mut self,
        key: &CallKey,
        answer: &Answer,
        outcome: &Outcome,
        now: UnixTime,
    ) {
        let fault =
            if matches!(outcome, Outcome::Senseless) { Fault::Senseless } else { Fault::Outage };
        let receipt = match (key, outcome) {
            (CallKey::User(user), outcome) => {
                let Some(receipt) = self.tell_user(user, outcome, fault, now) else {
                    return;
                };
                self.wake_others |= receipt.watched;
                return;
            }
            (CallKey::Feed, Outcome::FeedArrived { changed }) => self.tell_list(*changed, now),
            (_, outcome) => self.place(key).map(|(exchange, place)| match (answer, outcome) {
                (Answer::Response { max_age, body, .. }, Outcome::KeysArrived) => {
                    exchange.post_news(&place, *max_age, body, now)
                }
                (_, _) => exchange.post_failure(&place, fault, now),
            }),
        };
        // Where another worker's turn has begun meanwhile, nothing is posted, and what it posts is news.
        if let Some(receipt) = receipt.filter(|receipt| receipt.written) {
            self.seen.insert(key.clone(), receipt.at);
            self.wake_others |= !matches!(outcome, Outcome::FeedArrived { changed: false });
        }
    }

    fn tell_user(
        &self,
        user: &UserKey,
        outcome: &Outcome,
        fault: Fault,
        now: UnixTime,
    ) -> Option<Receipt> {
        let lookup = self.shared.config.user.lookup()?;
        let (exchange, seats) = self.shared.seats(user, lookup)?;
        Some(match outcome {
            Outcome::User(record) => seats.post(exchange, record, now),
            _ => seats.post_failure(exchange, fault, now),
        })
    }

    /// Posts the revocation list where it is another one now, and that this is all.
    fn tell_list(&mut self, changed: bool, now: UnixTime) -> Option<Receipt> {
        let (exchange, pulse) = self.place(&CallKey::Feed)?;
        let list = list_place(exchange, &pulse);
        let standing = exchange.look(&list, None, now).and_then(|view| Some(view.posted?.at));
        // Another plugin may have written there.
        let version = match standing.filter(|at| !changed && Some(*at) == self.list_seen) {
            Some(at) => at,
            None => exchange.post_news(&list, None, &self.shared.feed.state()?, now).at,
        };
        let body = self.shared.feed.pulse(version)?;
        let receipt = exchange.post_news(&pulse, None, &body, now);
        self.list_seen = Some(version);
        Some(receipt)
    }

    /// Gives a turn back that nothing can come of.
    pub(super) fn pass_turn(&mut self, key: &CallKey, now: UnixTime) {
        let unasked = Answer::Failed(crate::callout::Failure::NotSent);
        self.tell(key, &unasked, &Outcome::Down, now);
    }

    /// The documents that other workers posted since, each taken over.
    pub(super) fn news(&mut self, now: UnixTime) -> Vec<(CallKey, Outcome)> {
        let mut all = Vec::new();
        for key in self.documents() {
            let Some((exchange, place)) = self.place(&key) else {
                continue;
            };
            if let Some(news) = exchange.news(&place, self.seen.get(&key).copied(), now) {
                let outcome = self.take_over(&key, &news, now);
                all.push((key, outcome));
            }
        }
        all
    }

    /// What another worker was told of a document that this one has asked for in vain. It may have been
    /// asleep, and its turn gone to that one: its failure must not hide the answer from it.
    pub(super) fn overtaken(&mut self, key: &CallKey, now: UnixTime) -> Option<Outcome> {
        let (exchange, place) = self.place(key)?;
        let news = exchange.news(&place, self.seen.get(key).copied(), now)?;
        matches!(news, News::Answer(_)).then(|| self.take_over(key, &news, now))
    }

    fn take_over(&mut self, key: &CallKey, news: &News, now: UnixTime) -> Outcome {
        let (News::Answer(Posted { at, .. }) | News::Failure(at)) = news;
        self.seen.insert(key.clone(), *at);
        match (key, news) {
            (CallKey::Jwks(provider), News::Answer(posted)) => {
                let at = posted.at.min(now);
                self.take_keys(*provider, &posted.body, posted.max_age, at, now)
            }
            (CallKey::Jwks(provider), News::Failure(_)) => {
                self.keys_failed(*provider, "another worker could not fetch them", now)
            }
            (CallKey::Feed, News::Answer(pulse)) => self.take_list(pulse, now),
            (_, _) => {
                if let Some(feed) = &self.shared.config.revocation.feed {
                    self.shared.feed.failed(feed, now);
                }
                Outcome::Down
            }
        }
    }

    /// Takes over that the feed was heard, and its list if that is another one.
    fn take_list(&mut self, posted: &Posted, now: UnixTime) -> Outcome {
        let config = Rc::clone(&self.shared.config);
        let Some(feed) = &config.revocation.feed else {
            return Outcome::Down;
        };
        let confirmed = posted.at.min(now);
        let Some(pulse) = Pulse::read(&posted.body) else {
            self.shared.feed.not_taken(now);
            return Outcome::Down;
        };
        if self.list_seen == Some(pulse.list()) {
            self.shared.feed.confirmed(feed, pulse, confirmed);
            return Outcome::FeedArrived { changed: false };
        }
        // What was posted before the list that was confirmed is another one: put back there, perhaps.
        let list = self.place(&CallKey::Feed).and_then(|(exchange, place)| {
            let list = exchange.look(&list_place(exchange, &place), None, now)?.posted?;
            (pulse.list() <= list.at).then_some(list)
        });
        let taken = list.as_ref().is_some_and(|list| {
            let terms = Terms::of(&config);
            self.shared.feed.take_over(feed, terms, &list.body, pulse, confirmed, now).is_ok()
        });
        if !taken {
            // It is to be had from the feed alone.
            self.shared.feed.not_taken(now);
            return Outcome::Down;
        }
        self.list_seen = list.map(|list| list.at);
        self.log_list();
        Outcome::FeedArrived { changed: true }
    }

    /// The calls of other workers that have ended, and how.
    pub(super) fn turns_over(&mut self, now: UnixTime) -> Vec<(CallId, TurnEnd)> {
        let followed = self.calls.followed();
        followed
            .into_iter()
            .filter_map(|(call, key, turn)| match &key {
                CallKey::User(user) => Some((call, self.turn_over(user, &turn, now)?)),
                _ => None,
            })
            .collect()
    }

    fn turn_over(&mut self, user: &UserKey, turn: &Theirs, now: UnixTime) -> Option<TurnEnd> {
        let config = Rc::clone(&self.shared.config);
        let lookup = config.user.lookup()?;
        let view = self.shared.exchange.as_ref()?.look(&turn.place, Some(turn.version), now)?;
        let View { theirs, failed, .. } = view;
        let since = self.shared.user_since(user);
        // Whoever waits for a call takes its answer, though that be used for nobody after. What was asked for
        // before that turn, and found in Redis perhaps, is none.
        let patience = self.patience(&CallKey::User(user.clone()));
        let began = turn.until.before(GRACE).before(patience);
        let answer = stored(view).filter(|record| {
            record.is_fresh(lookup, since, now) || record.is_from(since.max(began), now)
        });
        match (answer, failed) {
            (Some(record), _) => Some(TurnEnd::Told(self.take_record(user, record))),
            (None, _) if theirs => None,
            (None, Some((_, Fault::Outage))) => Some(TurnEnd::Told(Outcome::Down)),
            (None, Some((_, Fault::Senseless))) => Some(TurnEnd::Told(Outcome::Senseless)),
            (None, None) => Some(TurnEnd::Silent),
        }
    }

    /// Takes a record over that another worker was told just now.
    fn take_record(&mut self, user: &UserKey, record: Stored) -> Outcome {
        self.shared.users.remember(user, record.clone());
        Outcome::User(record)
    }

    /// Where the workers of the process tell each other of a document. Its subject says all that its
    /// content depends on, and whether it can be had: who gives up sooner, or can hold less, fails for
    /// itself alone.
    fn place(&self, key: &CallKey) -> Option<(&Exchange, Place)> {
        let exchange = self.shared.exchange.as_ref()?;
        let config = &self.shared.config;
        let (kind, subject) = match key {
            CallKey::Jwks(provider) => {
                let provider = provider.pick(&config.providers)?;
                let KeySource::Remote(jwks) = provider.trust.keys.as_ref()? else {
                    return None;
                };
                let (discovers, uri) = match &jwks.location {
                    Location::Jwks(uri) => (false, uri),
                    Location::Discovery(uri) => (true, uri),
                };
                let cluster = jwks.cluster.as_str();
                let terms = json!([millis(jwks.timeout), config.limits.max_jwks_bytes]);
                ("jwks", json!([provider.issuer, cluster, discovers, uri.to_string(), terms]))
            }
            CallKey::Feed => {
                let feed = config.revocation.feed.as_ref()?;
                let headers: Vec<_> = feed
                    .headers
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.reveal()))
                    .collect();
                let Terms { max_entries, clock_skew, record_life } = Terms::of(config);
                let terms = json!([
                    millis(feed.timeout),
                    config.limits.max_feed_bytes,
                    max_entries,
                    millis(clock_skew),
                    millis(record_life),
                ]);
                ("feed", json!([feed.cluster.as_str(), feed.uri.to_string(), headers, terms]))
            }
            CallKey::Introspection(_)
            | CallKey::Blacklist(_)
            | CallKey::User(_)
            | CallKey::Store(_)
            // A secret: the board is not encrypted.
            | CallKey::ServiceToken(_) => return None,
        };
        Some((exchange, exchange.place(kind, &subject.to_string())))
    }
}

/// Where the list itself stands. Apart from the pulse, which is written with every poll and read by every
/// worker.
fn list_place(exchange: &Exchange, pulse: &Place) -> Place {
    exchange.place("list", pulse.slot())
}
