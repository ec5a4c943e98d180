//! The context of requests that came in, by their ids: a table on the board.
//!
//! The filter at a service's door posts what it tells the service; the filter at its exit looks there who the
//! user is for whose sake a request is made. Whoever sends requests may choose their ids: so an id under which
//! two different contexts were posted names nobody any more.
//!
//! Each id has two places, given by its MAC, and is put into the one that was written longer ago. So what was
//! posted just now is hardly ever pushed out, though the table is always full of what is over.
//!
//! Requests without a user, of which anybody can send any number, push nothing out: that could be what says
//! that an id is nobody's. They are posted where there is room, since a user's request with the same id may
//! come later, and the one without a user must not be served as that user's.

use std::time::Duration;

use serde_json::{Value, json};

use crate::board::{Exchange, Place, Posted, View};
use crate::context::UserContext;
use crate::json;
use crate::time::{NUDGE, UnixTime};

/// How long a context is remembered: the requests that one causes are made by then.
pub const LIFE: Duration = Duration::from_secs(60);
/// Places in each half of the table. Among 1,000 requests a second that take 100 ms each, about one in
/// 50,000 loses its context; at half a KiB each, all places take 16 MiB.
const HALF: usize = 16_384;
/// Longest context that is remembered, in bytes.
const MAX_CONTEXT_BYTES: usize = 4 * 1024;

const ONE: &str = "context.one";
const OTHER: &str = "context.other";

/// Makes the table's slots, once a process.
pub fn lay(exchange: &Exchange) {
    exchange.lay(ONE, HALF);
    exchange.lay(OTHER, HALF);
}

/// What is known of the request behind an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nothing.
    Unknown,
    /// Its context: the headers that have a value. None for a request without a user.
    Known(Vec<(String, String)>),
    /// That there were several, with different contexts.
    Ambiguous,
}

/// One id's two places.
#[derive(Debug)]
pub struct Seats([Place; 2]);

impl Seats {
    /// The places of a request to `service`.
    #[must_use]
    pub fn of(exchange: &Exchange, service: &str, request_id: &str) -> Self {
        let subject = json!([service, without_trace_mark(request_id)]).to_string();
        Self([ONE, OTHER].map(|table| exchange.seat(table, HALF, &subject)))
    }

    /// Posts what a request was told that came in now. `false` where others were quicker each time: then
    /// what stands there may be another request's alone, and this one may not be served.
    #[must_use]
    pub fn post(&self, exchange: &Exchange, context: &UserContext, now: UnixTime) -> bool {
        let [one, other] = &self.0;
        let body = to_bytes(context);
        let (at_one, at_other) = (exchange.standing(one), exchange.standing(other));
        let is_its = |standing: Option<(UnixTime, bool)>| {
            standing.is_some_and(|(at, its)| its && is_fresh(at, now))
        };
        // Where something of this id stands, there the new stands or falls with it.
        let (place, taken) = match (is_its(at_one), is_its(at_other)) {
            (false, true) => (other, None),
            (false, false) if at_other < at_one => (other, at_other),
            (false, false) => (one, at_one),
            (true, _) => (one, None),
        };
        let has_user = context.headers().any(|(_, value)| value.is_some());
        if !has_user && taken.is_some_and(|(at, _)| is_fresh(at, now)) {
            return true;
        }
        let receipt = exchange.post_merged(place, now, |standing| match standing {
            Some(standing) if is_fresh(standing.at, now) && standing.body != body => {
                Posted { at: now.max(standing.at), max_age: None, body: Vec::new() }
            }
            Some(_) | None => Posted { at: now, max_age: None, body: body.clone() },
        });
        receipt.written
    }

    /// What was posted of it.
    #[must_use]
    pub fn look(&self, exchange: &Exchange, now: UnixTime) -> Origin {
        let [one, other] = &self.0;
        let found = (found(exchange, one, now), found(exchange, other, now));
        let body = match found {
            (None, None) => return Origin::Unknown,
            (Some(one), Some(other)) if one != other => return Origin::Ambiguous,
            (Some(body), _) | (None, Some(body)) => body,
        };
        from_bytes(&body).map_or(Origin::Ambiguous, Origin::Known)
    }
}

/// The id but for the place where Envoy writes whether it traces: in ids of 36 characters the 15th, where a
/// UUID has its version. Each listener with `tracing` decides that anew.
fn without_trace_mark(request_id: &str) -> String {
    const LENGTH: usize = 36;
    const MARK: usize = 14;
    let is_marked = request_id.len() == LENGTH;
    let chars = request_id.char_indices();
    chars.map(|(place, c)| if is_marked && place == MARK { '4' } else { c }).collect()
}

fn found(exchange: &Exchange, place: &Place, now: UnixTime) -> Option<Vec<u8>> {
    let View { posted, .. } = exchange.look(place, None, now)?;
    Some(posted.filter(|posted| is_fresh(posted.at, now))?.body)
}

fn is_fresh(at: UnixTime, now: UnixTime) -> bool {
    at <= now.after(NUDGE) && now < at.after(LIFE)
}

/// Nothing at all for a context that is too long: it is nobody's, and so is one that differs from it.
fn to_bytes(context: &UserContext) -> Vec<u8> {
    let set = context.headers().filter_map(|(name, value)| Some((name.as_str(), value?)));
    let bytes = json!(set.collect::<Vec<_>>()).to_string().into_bytes();
    if bytes.len() > MAX_CONTEXT_BYTES { Vec::new() } else { bytes }
}

fn from_bytes(bytes: &[u8]) -> Option<Vec<(String, String)>> {
    let headers = json::parse(bytes).ok()?;
    let pair = |pair: &Value| {
        let text = |place: usize| pair.get(place)?.as_str().map(str::to_owned);
        Some((text(0)?, text(1)?))
    };
    headers.as_array()?.iter().map(pair).collect()
}
