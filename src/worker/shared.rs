//! What the requests of one VM read: what is known of tokens, users and revocations.

use std::fmt;
use std::rc::Rc;

use crate::board::Exchange;
use crate::boundary::propagation::{self, Origin};
use crate::boundary::service_token::{self, Held, ServiceTokenId};
use crate::boundary::txn_token::Recent;
use crate::callout::CallKey;
use crate::config::{Config, Lookup, Propagation, TokenSource};
use crate::context::UserContext;
use crate::headers::Edit;
use crate::jwks::cache::{Keys, ProviderKeys};
use crate::metrics::{Counter, Metrics};
use crate::request::{Permit, Reference};
use crate::revocation::blacklist::{Listed, Names};
use crate::revocation::feed::{Feed, Known as KnownFeed};
use crate::signature::Crypto;
use crate::time::UnixTime;
use crate::token::cache::{Remembered, TokenCache};
use crate::token::{ProviderId, TokenError, VerifiedToken};
use crate::user::cache::{Cached, UserCache};
use crate::user::table::Seats;
use crate::user::{UserKey, UserRecord};

/// What requests read and learn: the config, the keys, the users.
pub struct Shared {
    /// The config.
    pub config: Rc<Config>,
    /// What is known of tokens.
    pub tokens: TokenCache,
    /// Who checks signatures.
    pub crypto: Crypto,
    /// What is counted.
    pub metrics: Metrics,
    /// What is known of the blacklist.
    pub listed: Listed,
    /// The contexts that were signed a moment ago.
    pub(super) recent: Recent,
    pub(super) users: UserCache,
    pub(super) keys: Vec<ProviderKeys>,
    pub(super) feed: Feed,
    /// The service's own tokens, one for each that the config names.
    pub(super) service_tokens: Vec<Option<Held>>,
    /// By this the workers of the process share what they fetch.
    pub(super) exchange: Option<Exchange>,
    /// What is to be asked for though nobody waits for it.
    pub(super) wanted: Vec<CallKey>,
    pub(super) random: fastrand::Rng,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} tokens, {} users)", self.tokens.len(), self.users.len())
    }
}

/// What the revocation feed says of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Good,
    /// It is revoked.
    Revoked,
    /// That is not known yet, but the first poll can be waited for.
    Await,
    /// The feed has not been heard for too long.
    Unavailable,
}

fn no_tokens(config: &Config) -> Vec<Option<Held>> {
    let tokens = config.mode.egress().into_iter().flat_map(|egress| &egress.service_tokens);
    tokens.map(|_| None).collect()
}

impl Shared {
    /// Nothing known yet.
    pub(super) fn new(
        config: Config,
        crypto: Crypto,
        exchange: Option<Exchange>,
        seed: u64,
    ) -> Self {
        Self {
            metrics: Metrics::new(&config),
            tokens: TokenCache::new(config.limits.max_cached_tokens),
            listed: Listed::new(config.limits.max_cached_tokens),
            recent: Recent::new(config.limits.max_cached_tokens),
            users: UserCache::new(config.max_users()),
            keys: config
                .providers
                .iter()
                .map(|provider| ProviderKeys::new(provider.trust.keys.as_ref()))
                .collect(),
            feed: Feed::default(),
            service_tokens: no_tokens(&config),
            crypto,
            exchange,
            wanted: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
            config: Rc::new(config),
        }
    }

    /// The clock was set back to `now`: what rests on the old one is forgotten, or brought along.
    pub(super) fn clock_set_back(&mut self, now: UnixTime) {
        let limits = &self.config.limits;
        self.tokens = TokenCache::new(limits.max_cached_tokens);
        self.listed = Listed::new(limits.max_cached_tokens);
        self.recent = Recent::new(limits.max_cached_tokens);
        self.users = UserCache::new(self.config.max_users());
        for keys in self.keys.iter_mut().filter_map(ProviderKeys::remote_mut) {
            keys.clock_set_back(now);
        }
        self.feed.clock_set_back(now);
        self.service_tokens = no_tokens(&self.config);
    }

    /// A provider's keys.
    #[must_use]
    pub fn keys(&self, provider: ProviderId) -> Option<&ProviderKeys> {
        provider.pick(&self.keys)
    }

    /// Has `key` asked for in the background.
    pub fn want(&mut self, key: CallKey) {
        self.wanted.push(key);
    }

    /// What is known of a token's text: the token, if it is as good as when it was verified, or why it
    /// is not. `None` where it must be looked at.
    pub fn remembered(
        &mut self,
        text: &[u8],
        now: UnixTime,
    ) -> Option<Result<VerifiedToken, TokenError>> {
        let known = self.recall_token(text, now);
        self.metrics.count(if known.is_some() { Counter::TokenHit } else { Counter::TokenMiss });
        known
    }

    fn recall_token(
        &mut self,
        text: &[u8],
        now: UnixTime,
    ) -> Option<Result<VerifiedToken, TokenError>> {
        let (token, has_expiry) = match self.tokens.get(text, now)? {
            Remembered::Refused { error, .. } => return Some(Err(error)),
            Remembered::Active { token, .. } => (token, false),
            Remembered::Signed { token, generation } => {
                // The set that its key was in is gone, and the key perhaps with it.
                match self.keys(token.provider())?.usable(now) {
                    Keys::Ready(_, held) if held == generation => (token, true),
                    Keys::Ready(..) | Keys::Await | Keys::Unavailable => return None,
                }
            }
        };
        let provider = token.provider().pick(&self.config.providers)?;
        let require_expiration = has_expiry && provider.require_expiration;
        Some(token.claims().check_time(provider, require_expiration, now).map(|()| token))
    }

    /// A user's context, signed where this gateway signs.
    pub fn signed(
        &mut self,
        permit: &Permit,
        user: &VerifiedToken,
        context: UserContext,
        request_id: &str,
        now: UnixTime,
    ) -> UserContext {
        let Some(tokens) = &self.config.txn_token else {
            return context;
        };
        let token = self.recent.token(permit, &tokens.issuer, user, &context, request_id, now);
        context.signed_as(token)
    }

    /// What the feed says of a token, where there is a feed.
    #[must_use]
    pub fn feed_on(&self, token: &VerifiedToken, now: UnixTime) -> Verdict {
        let Some(config) = &self.config.revocation.feed else {
            return Verdict::Good;
        };
        // What was revoked by a list that is too old now is not good for that.
        if self.feed.list().is_some_and(|list| list.cover(token, now)) {
            self.metrics.count(Counter::Revoked);
            return Verdict::Revoked;
        }
        match self.feed.known(config, now) {
            KnownFeed::List => Verdict::Good,
            KnownFeed::Await => Verdict::Await,
            KnownFeed::Unavailable => Verdict::Unavailable,
        }
    }

    /// What is known of a user: by this worker, else by any of the process.
    pub fn user(&mut self, key: &UserKey, config: &Lookup, now: UnixTime) -> Option<Cached> {
        let known = self.recall_user(key, config, now);
        self.metrics.count(match known {
            Some(Cached::Fresh(_)) => Counter::UserHit,
            Some(Cached::Revalidate(_)) => Counter::UserStale,
            None => Counter::UserMiss,
        });
        known
    }

    fn recall_user(&mut self, key: &UserKey, config: &Lookup, now: UnixTime) -> Option<Cached> {
        let since = self.user_since(key);
        match self.users.get(key, config, since, now) {
            Some(Cached::Fresh(known)) => Some(Cached::Fresh(known)),
            Some(Cached::Revalidate(_)) | None => {
                if let Some((exchange, seats)) = self.seats(key, config)
                    && let Some(stored) = seats.find(exchange, since, now)
                {
                    self.users.remember(key, stored);
                }
                self.users.get(key, config, since, now)
            }
        }
    }

    /// The record of a user that may stand in while the users service is down.
    pub fn stand_in(
        &mut self,
        key: &UserKey,
        config: &Lookup,
        now: UnixTime,
    ) -> Option<Rc<UserRecord>> {
        let since = self.user_since(key);
        let record = self.users.stand_in(key, config, since, now)?;
        self.metrics.count(Counter::UserStale);
        Some(record)
    }

    /// What was asked for before this is not used of a user any more: something of theirs was revoked.
    #[must_use]
    pub fn user_since(&self, key: &UserKey) -> UnixTime {
        self.feed.user_since(key.subject().unwrap_or_default())
    }

    /// A user's identity in what workers and proxies share.
    pub(super) fn identity(&self, key: &UserKey, config: &Lookup) -> String {
        let issuer = key.provider().pick(&self.config.providers).map_or("", |p| p.issuer.as_str());
        key.identity(config, issuer)
    }

    /// A user's places among what the workers of the process share, where they do.
    pub(super) fn seats(&self, key: &UserKey, config: &Lookup) -> Option<(&Exchange, Seats)> {
        let exchange = self.exchange.as_ref()?;
        Some((exchange, Seats::of(exchange, config, &self.identity(key, config))))
    }

    /// What shows that the service is who it is: a token that is held, or signed now. `None` where it must be
    /// asked for.
    pub fn service_token(&mut self, id: ServiceTokenId, now: UnixTime) -> Option<Edit> {
        let egress = self.config.mode.egress()?;
        let config = id.pick(&egress.service_tokens)?;
        let held = id.pick_mut(&mut self.service_tokens)?;
        if let TokenSource::Sign(signing) = &config.source
            && held.as_ref().is_none_or(|held| held.is_due(now))
        {
            *held = Some(service_token::sign(signing, &egress.service, now));
        }
        held.as_ref().filter(|held| held.is_usable(now)).map(|held| held.edit(config))
    }

    /// The tokens that are to be asked for by now, whoever waits for them.
    pub(super) fn service_tokens_due(&self, now: UnixTime) -> impl Iterator<Item = CallKey> {
        let configs = self.config.mode.egress().map_or(&[][..], |egress| &egress.service_tokens);
        let is_due = move |id: &ServiceTokenId| {
            let is_asked_for = id
                .pick(configs)
                .is_some_and(|config| matches!(config.source, TokenSource::ClientCredentials(_)));
            let held = id.pick(&self.service_tokens).and_then(Option::as_ref);
            is_asked_for && held.is_none_or(|held| held.is_due(now))
        };
        ServiceTokenId::all(configs.len()).filter(is_due).map(CallKey::ServiceToken)
    }

    /// Tells the filter at the service's exit what the service is told of this request. Whether it knows
    /// all that it has to.
    #[must_use]
    pub(crate) fn tell_exit(
        &self,
        reference: &Reference,
        context: &UserContext,
        now: UnixTime,
    ) -> bool {
        let seats = self.origin_seats(reference);
        seats.is_none_or(|(exchange, seats)| seats.post(exchange, context, now))
    }

    /// What the filter at the service's door told of the request that this one is made for.
    pub(crate) fn origin_of(&self, reference: &Reference, now: UnixTime) -> Origin {
        let seats = self.origin_seats(reference);
        seats.map_or(Origin::Unknown, |(exchange, seats)| seats.look(exchange, now))
    }

    fn origin_seats(&self, reference: &Reference) -> Option<(&Exchange, propagation::Seats)> {
        let exchange = match self.config.propagation {
            Propagation::ByService => None,
            Propagation::ByRequestId => self.exchange.as_ref(),
        }?;
        let service = self.config.mode.service()?;
        Some((exchange, propagation::Seats::of(exchange, service, reference.request_id())))
    }

    /// Whether these names are on the blacklist, where that is known.
    pub fn is_listed(&mut self, names: &Names, now: UnixTime) -> Option<bool> {
        let known = self.listed.get(names, now);
        self.metrics.count(if known.is_some() { Counter::ListedHit } else { Counter::ListedMiss });
        known
    }

    /// An id for a request that came without one: a random UUID (RFC 9562 section 5.4).
    pub fn new_request_id(&mut self) -> String {
        let bits = self.random.u128(..);
        let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        let mut id = String::with_capacity(36);
        for (place, digit) in hex.chars().enumerate() {
            if matches!(place, 8 | 12 | 16 | 20) {
                id.push('-');
            }
            id.push(digit);
        }
        id
    }
}
