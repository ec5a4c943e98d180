//! The way of one request, as a machine: each state is a type, and leaving it consumes it.
//!
//! ```text
//! begin -> token -> (AwaitKeys or AwaitWord) -> verified -> (AwaitFeed, AwaitListed) -> not revoked
//!       -> (AwaitUser) -> known user -> rule -> Forward
//! ```
//!
//! At a service's door (`door`) comes before that who the hop is, by its certificate and its service token,
//! and what a gateway signed: these tokens go the same way up to `not revoked`, one after the other. Where
//! they say who the user is, or the hop may, the way ends there.
//!
//! Where another proxy asks about a request (`authz`), the way is the same, and ends in [`Step::Allow`].
//!
//! At a service's exit (`exit`) the way is another one, and short: where the request goes, what may go there.
//!
//! What each step finds wanting ends in [`Step::Deny`], and nothing else does not end in
//! [`Step::Forward`], whose edits need a [`Permit`].

pub mod authz;
mod door;
mod exit;
mod reference;
mod vetting;

use std::borrow::Cow;
use std::rc::Rc;

use crate::account::{USER_ID, Who};
use crate::answers::cors::{Cors, Preflight, bare_preflight};
use crate::boundary::SERVICE_NAME;
use crate::boundary::peer::Hop;
use crate::boundary::txn_token::Published;
use crate::callout::CallKey;
use crate::config::{Config, Mode, Places, Provider, TokenKind, UserSource};
use crate::context::{ContextError, UserContext};
use crate::denial::{Code, Denial, Reply, Wanted};
use crate::headers::{Edit, Stripped, context_edits};
use crate::jwks::cache::Keys;
use crate::metrics::Counter;
use crate::rules::{Demand, Grants, Lacking, Level, Target};
use crate::time::UnixTime;
use crate::token::cache::Remembered;
use crate::token::extract::{self, Removals};
use crate::token::introspection::{OpaqueToken, Question};
use crate::token::{ProviderId, TokenError, UnverifiedToken, VerifiedToken};
use crate::user::cache::Cached;
use crate::user::stored::Stored;
use crate::user::{Known, UserKey, UserRecord};
use crate::worker::Shared;
use authz::{Asked, Unclear};
use door::Door;
use exit::AwaitToken;
pub(crate) use reference::{REQUEST_ID, Reference};
use vetting::{AwaitFeed, AwaitListed, revoked_meanwhile, vet};

/// What is to be done with a request.
#[must_use]
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "moved once or twice a request, and boxing would cost each of them an allocation"
)]
pub enum Step {
    /// It needs the outcome of this call; feed it to [`Waiting::resume`].
    Wait(Waiting, CallKey),
    /// Refuse it.
    Deny(Denial),
    /// Answer the client: what it asked for is here.
    Answer(Reply),
    /// Answer the proxy that asks: its request may go on.
    Allow(Reply, Who),
    /// Apply the edits and let it go on. This is whom it is about.
    Forward(Vec<Edit>, Who),
}

/// A request that waits.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "as for `Step`")]
pub enum Waiting {
    /// For its issuer's keys.
    Keys(AwaitKeys),
    /// For its issuer's word on its token.
    Word(AwaitWord),
    /// For the first word of what is revoked.
    Feed(AwaitFeed),
    /// For what the blacklist says of its token.
    Listed(AwaitListed),
    /// For its user's record.
    User(AwaitUser),
    /// For the service's own token.
    ServiceToken(AwaitToken),
}

/// How the call ended that a request waited for.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The worker holds a new key set.
    KeysArrived,
    /// The issuer answered about the token.
    Introspected(Result<VerifiedToken, TokenError>),
    /// The revocation feed was heard.
    FeedArrived {
        /// Whether its list is another one.
        changed: bool,
    },
    /// Whether the token is on the blacklist.
    Listed(bool),
    /// The users service answered, or did so earlier.
    User(Stored),
    /// The worker holds a new token of the service's own.
    TokenArrived,
    /// None of these: the service is down.
    Down,
    /// None of these: the service makes no sense.
    Senseless,
}

/// Leave to cross the boundary, for a user or for nobody. `admitted`, `without_user`, at a service's door
/// `asserted` and at its exit `leave` are its only origins, and no context is signed and no edit made of it
/// without it.
#[derive(Debug)]
pub struct Permit(());

/// What later steps need to know of the head.
#[derive(Debug)]
struct Facts {
    demand: Demand,
    /// What takes every token off the request.
    removals: Removals,
    /// What takes those off that stay behind where the user's is forwarded: services'.
    others: Vec<Edit>,
    reference: Reference,
    /// The service that proved to be the caller.
    service: Option<String>,
    /// The token by which it did.
    proof: Option<VerifiedToken>,
}

/// What a verified token is good for.
#[derive(Debug)]
enum Goal {
    /// It says who the user is.
    User,
    /// It says which service calls, or whom a gateway let in.
    Door(Box<Door>),
}

/// Takes a request up whose client-sent context is gone. `hop` is where it came from.
pub fn begin(head: &Stripped, hop: &Hop, shared: &mut Shared, now: UnixTime) -> Step {
    let config = Rc::clone(&shared.config);
    match &config.mode {
        Mode::Egress(egress) => exit::leave(head, hop, egress, shared, now),
        Mode::Gateway | Mode::Service(_) => {
            let target = Target {
                method: head.value(":method").unwrap_or_default(),
                host: head.value(":authority").unwrap_or_default(),
                path: head.value(":path").unwrap_or_default(),
            };
            enter(head, &[target], hop, shared, now)
        }
        Mode::Authz(authz) => match Asked::of(head, hop, authz) {
            Ok(asked) => enter(&asked.head, &asked.targets(), hop, shared, now),
            Err(Unclear(code, why)) => {
                Step::Deny(Reference::of(head, shared).denial(code, Some(why)))
            }
        },
    }
}

/// Takes a request up that comes in, as any of `targets`.
fn enter(
    head: &Stripped,
    targets: &[Target<'_>],
    hop: &Hop,
    shared: &mut Shared,
    now: UnixTime,
) -> Step {
    let config = Rc::clone(&shared.config);
    let facts = Facts::of(head, targets, shared);
    if let Some(published) = published_at(head, &config) {
        return match head.value(":method") {
            Some(b"GET" | b"HEAD") => Step::Answer(published.reply()),
            Some(_) | None => facts.refuse(Code::MethodNotAllowed),
        };
    }
    if let Some(cors) = &config.answers.cors
        && cors.is_preflight(head)
    {
        return preflight(facts, cors, head, shared, now);
    }
    match facts.demand.level {
        Level::Anonymous => return without_user(facts, shared, now),
        Level::Nobody => return facts.refuse(Code::PathRefused),
        Level::Optional | Level::User => {}
    }
    match &config.mode {
        Mode::Egress(_) => facts.refuse(Code::InternalError),
        Mode::Gateway | Mode::Authz(_) => {
            let stands_in = |id: ProviderId, text: &[u8]| {
                let provider = id.pick(&config.providers);
                provider.is_some_and(|p| extract::stands_in(head, &p.places, text))
            };
            let found = extract::find(head, of_kind(&config, TokenKind::User));
            present(facts, found, &stands_in, shared, now)
        }
        Mode::Service(boundary) => door::arrive(facts, head, hop, boundary, shared, now),
    }
}

/// Takes up a browser's question whether a script may make a request. It comes without credentials, before
/// the request itself, and so it can meet no rule.
fn preflight(
    mut facts: Facts,
    cors: &Cors,
    head: &Stripped,
    shared: &Shared,
    now: UnixTime,
) -> Step {
    match &cors.preflight {
        Preflight::Answer(permission) => Step::Answer(cors.answer(permission, head)),
        Preflight::Pass if facts.demand.level == Level::Nobody => facts.refuse(Code::PathRefused),
        Preflight::Pass => {
            // Anybody can send what looks like one: it goes on as nobody's, and bare.
            // The last word on a header holds: what is left of a cookie goes with it.
            facts.removals.read.extend(bare_preflight(head));
            without_user(facts, shared, now)
        }
    }
}

/// What this filter itself serves at the request's path.
fn published_at<'a>(head: &Stripped, config: &'a Config) -> Option<&'a Published> {
    let published = config.txn_token.as_ref()?.published.as_ref()?;
    published.is_at(head.value(":path")?).then_some(published)
}

fn of_kind(config: &Config, kind: TokenKind) -> impl Iterator<Item = &Provider> {
    config.providers.iter().filter(move |provider| provider.kind == kind)
}

/// What takes services' tokens off, and leaves those of users.
fn of_services(head: &Stripped, config: &Config) -> Vec<Edit> {
    let users: Vec<&Places> =
        of_kind(config, TokenKind::User).map(|provider| &provider.places).collect();
    let services: Vec<Places> =
        of_kind(config, TokenKind::Service).map(|provider| provider.places.but(&users)).collect();
    Removals::of(head, &services.iter()).read
}

fn is_of_kind(config: &Config, id: ProviderId, kind: TokenKind) -> bool {
    id.pick(&config.providers).is_some_and(|provider| provider.kind == kind)
}

/// Takes the user's token up, if there is one. `stands_in` says whether a text stands in a place of a
/// provider's: its tokens count nowhere else.
fn present(
    facts: Facts,
    found: Result<Option<Cow<'_, [u8]>>, TokenError>,
    stands_in: &dyn Fn(ProviderId, &[u8]) -> bool,
    shared: &mut Shared,
    now: UnixTime,
) -> Step {
    let config = Rc::clone(&shared.config);
    let text = match (found, facts.demand.level) {
        (Ok(Some(text)), _) => text,
        (Ok(None), Level::Optional | Level::Anonymous) => return without_user(facts, shared, now),
        (Ok(None), Level::User | Level::Nobody) => return facts.refuse(Code::TokenMissing),
        (Err(error), _) => return facts.refuse_token(error),
    };
    let own_place =
        |id: ProviderId| is_of_kind(&config, id, TokenKind::User) && stands_in(id, &text);
    if let Some(remembered) = shared.remembered(&text, now) {
        return match remembered {
            Ok(token) if own_place(token.provider()) => vet(facts, token, Goal::User, shared, now),
            Ok(_) => facts.refuse_token(TokenError::IssuerUnknown),
            Err(error) => facts.refuse_token(error),
        };
    }
    let introspects = |id: &ProviderId| {
        id.pick(&config.providers).is_some_and(|p| p.trust.introspection.is_some())
    };
    match UnverifiedToken::parse(&text, config.limits.max_token_bytes, &config.providers) {
        Ok(token) if !own_place(token.provider) => facts.refuse_token(TokenError::IssuerUnknown),
        Ok(token) if has_keys(&config, token.provider) => {
            AwaitKeys { facts, token, goal: Goal::User }.first_try(shared, now)
        }
        Ok(token) => {
            let provider = token.provider.pick(&config.providers);
            match provider.map(|provider| token.check_type(provider)) {
                Some(Err(error)) => facts.refuse_token(error),
                Some(Ok(())) | None => ask_issuer(facts, token.provider, token.text()),
            }
        }
        Err(error @ TokenError::Malformed(_)) if text.len() <= config.limits.max_token_bytes => {
            // Not a JWT: the word of the issuer whose tokens are opaque counts, if there is one.
            let mut all = ProviderId::all(config.providers.len());
            match all.find(|id| introspects(id) && own_place(*id)) {
                Some(provider) => ask_issuer(facts, provider, text.as_ref().into()),
                None => facts.refuse_token(error),
            }
        }
        Err(error) => facts.refuse_token(error),
    }
}

impl Waiting {
    /// Goes on with the outcome of the call that was waited for.
    pub fn resume(self, outcome: &Outcome, shared: &mut Shared, now: UnixTime) -> Step {
        match (self, outcome) {
            (Self::Keys(state), Outcome::KeysArrived) => state.second_try(shared, now),
            (Self::Word(state), Outcome::Introspected(Ok(token))) => {
                vet(state.facts, token.clone(), Goal::User, shared, now)
            }
            (Self::Word(state), Outcome::Introspected(Err(error))) => {
                state.facts.refuse_token(*error)
            }
            (Self::Feed(state), Outcome::FeedArrived { .. }) => {
                vet(state.facts, state.token, state.goal, shared, now)
            }
            (Self::Feed(state), Outcome::Down) => state.without_answer(shared, now),
            (Self::Listed(state), Outcome::Listed(listed)) => state.answered(*listed, shared, now),
            (Self::Listed(state), Outcome::Down) => state.without_answer(shared, now),
            (Self::User(state), Outcome::User(stored)) => state.answered(stored, shared, now),
            (Self::User(state), Outcome::Down) => state.without_answer(shared, now),
            (Self::ServiceToken(state), Outcome::TokenArrived) => state.second_try(shared, now),
            (
                waiting,
                Outcome::KeysArrived
                | Outcome::Introspected(_)
                | Outcome::FeedArrived { .. }
                | Outcome::Listed(_)
                | Outcome::User(_)
                | Outcome::TokenArrived
                | Outcome::Down
                | Outcome::Senseless,
            ) => Step::Deny(waiting.give_up()),
        }
    }

    /// Whether its token was verified, or it is the service's own request.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        match self {
            Self::Keys(_) | Self::Word(_) => false,
            Self::Feed(_) | Self::Listed(_) | Self::User(_) | Self::ServiceToken(_) => true,
        }
    }

    /// The answer where the call brought nothing.
    #[must_use]
    pub fn give_up(self) -> Denial {
        match self {
            Self::Keys(state) => state.facts.denial(Code::KeysUnavailable, None),
            Self::Word(state) => state.facts.denial(Code::IntrospectionUnavailable, None),
            Self::Feed(AwaitFeed { facts, .. }) | Self::Listed(AwaitListed { facts, .. }) => {
                facts.denial(Code::RevocationUnavailable, None)
            }
            Self::User(state) => state.facts.denial(Code::UserLookupUnavailable, None),
            Self::ServiceToken(state) => state.denial(Code::ServiceTokenUnavailable),
        }
    }

    /// The answer where it may not wait at all.
    #[must_use]
    pub fn overloaded(self) -> Denial {
        match self {
            Self::Keys(AwaitKeys { facts, .. })
            | Self::Word(AwaitWord { facts })
            | Self::Feed(AwaitFeed { facts, .. })
            | Self::Listed(AwaitListed { facts, .. })
            | Self::User(AwaitUser { facts, .. }) => facts.denial(Code::Overloaded, None),
            Self::ServiceToken(state) => state.denial(Code::Overloaded),
        }
    }
}

/// A token in want of keys.
#[derive(Debug)]
pub struct AwaitKeys {
    facts: Facts,
    token: UnverifiedToken,
    goal: Goal,
}

impl AwaitKeys {
    /// Verifies with the keys that are held, or waits for others.
    fn first_try(mut self, shared: &mut Shared, now: UnixTime) -> Step {
        let provider = self.token.provider;
        self.facts.reference.who.claims_to_be(provider);
        let Some(keys) = shared.keys(provider) else {
            return self.facts.refuse(Code::KeysUnavailable);
        };
        match keys.usable(now) {
            Keys::Ready(set, _)
                if keys.may_refetch(now) && self.token.wants_other_keys(&set, &shared.crypto) =>
            {
                Step::Wait(Waiting::Keys(self), CallKey::Jwks(provider))
            }
            Keys::Await => Step::Wait(Waiting::Keys(self), CallKey::Jwks(provider)),
            Keys::Ready(..) | Keys::Unavailable => self.second_try(shared, now),
        }
    }

    /// Verifies with the keys that are held, for better or worse.
    fn second_try(self, shared: &mut Shared, now: UnixTime) -> Step {
        let Self { facts, token, goal } = self;
        let (text, id) = (token.text(), token.provider);
        let usable = shared.keys(id).map(|keys| keys.usable(now));
        let is_stale = shared.keys(id).is_some_and(|keys| keys.is_stale(now));
        let (Some(Keys::Ready(set, generation)), Some(config)) =
            (usable, id.pick(&shared.config.providers))
        else {
            return facts.refuse(Code::KeysUnavailable);
        };
        if is_stale {
            shared.metrics.used_stale_keys(id);
        }
        let by_host = shared.crypto.is_hosts(token.algorithm());
        let verified = token.verify(config, &set, &shared.crypto, now);
        if !matches!(verified, Err(TokenError::KeyUnknown | TokenError::Malformed(_))) {
            let by = if by_host { Counter::VerifiedByHost } else { Counter::VerifiedByModule };
            shared.metrics.count(by);
        }
        match verified {
            Ok(token) => {
                let signed = Remembered::Signed { token: token.clone(), generation };
                shared.tokens.remember(text, signed);
                vet(facts, token, goal, shared, now)
            }
            Err(error) => facts.refuse_token(error),
        }
    }
}

fn has_keys(config: &Config, provider: ProviderId) -> bool {
    provider.pick(&config.providers).is_some_and(|provider| provider.trust.keys.is_some())
}

/// A token of which only its issuer knows what it is worth.
#[derive(Debug)]
pub struct AwaitWord {
    facts: Facts,
}

fn ask_issuer(mut facts: Facts, provider: ProviderId, token: Rc<[u8]>) -> Step {
    facts.reference.who.claims_to_be(provider);
    // RFC 6749 appendix A.12: a token is made of visible ASCII. What is not cannot be asked about.
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return facts.refuse(Code::TokenMalformed);
    }
    let question = Question { provider, token: OpaqueToken(token) };
    Step::Wait(Waiting::Word(AwaitWord { facts }), CallKey::Introspection(question))
}

/// A token that nothing speaks against does what it is good for.
fn arrived(
    facts: Facts,
    token: VerifiedToken,
    goal: Goal,
    shared: &mut Shared,
    now: UnixTime,
) -> Step {
    match goal {
        Goal::User => find_user(facts, token, shared, now),
        Goal::Door(door) => door.proved(facts, token, shared, now),
    }
}

/// A verified token in want of its user.
#[derive(Debug)]
pub struct AwaitUser {
    facts: Facts,
    token: VerifiedToken,
    key: UserKey,
    /// Whether this is the second lookup, since the first was of before an entry of the feed.
    again: bool,
}

impl AwaitUser {
    /// The users service has answered. While it did, the token may have been revoked, or something of the
    /// user's, which makes the answer an old one.
    fn answered(self, stored: &Stored, shared: &mut Shared, now: UnixTime) -> Step {
        if revoked_meanwhile(&self.token, shared, now) {
            return self.facts.refuse(Code::TokenRevoked);
        }
        if stored.fetched < shared.user_since(&self.key) {
            // Once: each wait has a deadline, and a feed that never rests must not make them endless.
            if self.again {
                return self.facts.refuse(Code::UserLookupUnavailable);
            }
            let call = CallKey::User(self.key.clone());
            return Step::Wait(Waiting::User(Self { again: true, ..self }), call);
        }
        self.known(&stored.known, shared, now)
    }

    /// The users service is down: the record from before stands in, where the config allows it.
    fn without_answer(self, shared: &mut Shared, now: UnixTime) -> Step {
        if revoked_meanwhile(&self.token, shared, now) {
            return self.facts.refuse(Code::TokenRevoked);
        }
        let config = Rc::clone(&shared.config);
        let lookup = config.user.lookup();
        match lookup.and_then(|lookup| shared.stand_in(&self.key, lookup, now)) {
            Some(record) => admitted(self.facts, &self.token, &record, shared, now),
            None => self.facts.refuse(Code::UserLookupUnavailable),
        }
    }

    fn known(self, known: &Known, shared: &mut Shared, now: UnixTime) -> Step {
        let Self { facts, token, .. } = self;
        match known {
            Known::Record(record) => admitted(facts, &token, record, shared, now),
            Known::Unknown => facts.refuse(Code::UserUnknown),
        }
    }
}

fn find_user(facts: Facts, token: VerifiedToken, shared: &mut Shared, now: UnixTime) -> Step {
    let config = Rc::clone(&shared.config);
    let lookup = match &config.user {
        UserSource::Lookup(lookup) => lookup,
        // Nobody's token is looked at there.
        UserSource::Unsaid => return facts.refuse(Code::InternalError),
        UserSource::Claims => {
            let record = UserRecord::new(token.claims().members().clone());
            return admitted(facts, &token, &record, shared, now);
        }
    };
    let Some(key) = UserKey::of(lookup, token.provider(), token.claims()) else {
        return Step::Deny(
            facts
                .denial(Code::TokenMalformed, Some("it has none of the claims that name the user")),
        );
    };
    match shared.user(&key, lookup, now) {
        Some(Cached::Fresh(known)) => {
            AwaitUser { facts, token, key, again: false }.known(&known, shared, now)
        }
        Some(Cached::Revalidate(record)) => {
            shared.want(CallKey::User(key));
            admitted(facts, &token, &record, shared, now)
        }
        None => {
            let call = CallKey::User(key.clone());
            Step::Wait(Waiting::User(AwaitUser { facts, token, key, again: false }), call)
        }
    }
}

/// The last checks, on a user who is known.
fn admitted(
    mut facts: Facts,
    token: &VerifiedToken,
    record: &UserRecord,
    shared: &mut Shared,
    now: UnixTime,
) -> Step {
    let config = Rc::clone(&shared.config);
    // While the user's keys and record were waited for, the calling service may have been revoked.
    if facts.proof.as_ref().is_some_and(|proof| revoked_meanwhile(proof, shared, now)) {
        return facts.refuse(Code::TokenRevoked);
    }
    if let UserSource::Lookup(lookup) = &config.user
        && !record.is_active(lookup.active.as_ref())
    {
        facts.knows_user(token, record, &config);
        return facts.refuse(Code::UserDisabled);
    }
    let issuer = token.provider().pick(&config.providers);
    let grants = Grants {
        record: record.members(),
        claims: Some(token.claims()),
        clock_skew: issuer.map(|issuer| issuer.clock_skew).unwrap_or_default(),
    };
    if let Err(lacking) = config.rules.admit(&facts.demand, &grants, now) {
        facts.knows_user(token, record, &config);
        return facts.refuse_lacking(&lacking);
    }
    match UserContext::assemble(&config.context, token.claims(), record) {
        Ok(context) => {
            let (permit, keep_token) = (Permit(()), facts.demand.forward_token);
            let context = shared.signed(&permit, token, context, &facts.reference.request_id, now);
            facts.forward(&permit, context, keep_token, shared, now)
        }
        Err(error) => {
            let (code, detail) = match (error, &config.user) {
                (ContextError::Record, UserSource::Lookup(_)) => (
                    Code::UserLookupUnavailable,
                    "the user's record lacks a field that is required, or has one that no header can carry",
                ),
                // Where the claims are the record, nothing but the token is at fault.
                (ContextError::Record, UserSource::Claims | UserSource::Unsaid)
                | (ContextError::Claim, _) => (
                    Code::TokenMalformed,
                    "it lacks a claim that is required, or has one that no header can carry",
                ),
            };
            Step::Deny(facts.denial(code, Some(detail)))
        }
    }
}

/// Lets a request go on for which no user speaks. A token that was not verified goes no further:
/// the upstream might believe it.
fn without_user(facts: Facts, shared: &Shared, now: UnixTime) -> Step {
    let context = UserContext::nobody(&shared.config.context);
    facts.forward(&Permit(()), context, false, shared, now)
}

impl Facts {
    fn of(head: &Stripped, targets: &[Target<'_>], shared: &mut Shared) -> Self {
        let config = &shared.config;
        let demand = config.rules.demand(targets, config.context.forward_token);
        let places = config.providers.iter().map(|provider| &provider.places);
        let mut removals = Removals::of(head, &places);
        if matches!(config.mode, Mode::Authz(_)) {
            removals.alike.extend(authz::misspelt(head));
        }
        let others = if demand.forward_token { of_services(head, config) } else { Vec::new() };
        let reference = Reference::of(head, shared);
        Self { demand, removals, others, reference, service: None, proof: None }
    }

    fn forward(
        self,
        permit: &Permit,
        context: UserContext,
        keep_token: bool,
        shared: &Shared,
        now: UnixTime,
    ) -> Step {
        // What stands under its id could be another's, and would be restored for it.
        if !shared.tell_exit(&self.reference, &context, now) {
            return self.refuse(Code::PropagationUnavailable);
        }
        let mut edits = context_edits(permit, context);
        edits.extend(self.removals.alike);
        edits.extend(if keep_token { self.others } else { self.removals.read });
        if let Some(service) = self.service {
            edits.push(Edit::Set(SERVICE_NAME.to_owned(), service.into_bytes()));
        }
        match &shared.config.mode {
            Mode::Gateway | Mode::Service(_) | Mode::Egress(_) => self.reference.forward(edits),
            Mode::Authz(_) => {
                let managed = &shared.config.context.managed;
                let reply = authz::allowed(permit, edits, managed, self.reference.request_id());
                Step::Allow(reply, self.reference.who)
            }
        }
    }

    fn refuse(self, code: Code) -> Step {
        Step::Deny(self.denial(code, None))
    }

    fn refuse_lacking(self, lacking: &Lacking) -> Step {
        let (code, wanted) = match lacking {
            Lacking::Role => (Code::RoleRequired, None),
            Lacking::Permission => (Code::PermissionRequired, None),
            Lacking::Scope(all) => (Code::ScopeRequired, Some(Wanted::Scope(all.join(" ")))),
            Lacking::Claim => (Code::ClaimRequired, None),
            Lacking::Authentication(within) => {
                (Code::AuthenticationTooOld, Some(Wanted::MaxAge(within.as_secs())))
            }
        };
        Step::Deny(Denial { wanted, ..self.denial(code, None) })
    }

    /// The user is known, though refused: the access log is told whom that was.
    fn knows_user(&mut self, token: &VerifiedToken, record: &UserRecord, config: &Config) {
        let id = UserContext::value_of(&config.context, USER_ID, token.claims(), record);
        self.reference.who.is_user(id.as_deref());
    }

    fn refuse_token(self, error: TokenError) -> Step {
        let detail = match error {
            TokenError::Malformed(detail) => Some(detail),
            TokenError::AlgorithmNotAllowed
            | TokenError::KeyUnknown
            | TokenError::SignatureInvalid
            | TokenError::IssuerUnknown
            | TokenError::AudienceMismatch
            | TokenError::AuthorizedPartyMismatch
            | TokenError::ClaimMismatch
            | TokenError::Inactive
            | TokenError::Expired
            | TokenError::NotYetValid
            | TokenError::Ambiguous => None,
        };
        Step::Deny(self.denial(error.into(), detail))
    }

    fn denial(self, code: Code, detail: Option<&'static str>) -> Denial {
        self.reference.denial(code, detail)
    }
}
