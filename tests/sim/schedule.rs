//! What happens in a world, as a list drawn up front.
//!
//! An event means something whatever became of the others, so that any of them can be left out when a
//! failing list is made shorter.

use fastrand::Rng;

use crate::scenario::{Millis, Scenario, USERS};

/// How many keys the issuer has, published or not.
pub const KEYS: usize = 4;

/// All that happens, in order, and the tokens that are about.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub events: Vec<Event>,
    pub tokens: Vec<TokenPlan>,
    pub end: Millis,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub at: Millis,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A client asks something of a worker.
    Request {
        worker: usize,
        path: Path,
        shown: Shown,
        forged: u32,
    },
    /// A client that waits at this worker hangs up; which one, counted round.
    HangUp {
        worker: usize,
        nth: usize,
    },
    /// A service fails in this way for so long; each call, or every other one.
    Fault {
        service: Service,
        kind: FaultKind,
        lasts: Millis,
        always: bool,
    },
    /// The issuer publishes a key, or no longer does.
    Publish {
        key: usize,
    },
    Withdraw {
        key: usize,
    },
    /// The users service says something else of a user from now on.
    Change {
        user: usize,
        to: Change,
    },
    /// The feed has one entry more, which ends by itself after so many seconds, or none at all any more.
    Revoke {
        what: Revoked,
        ends: Option<u64>,
    },
    ClearFeed,
    /// The blacklist has one name more, for so many seconds.
    List {
        what: Listed,
        lasts: u64,
    },
    /// Somebody writes into Redis what is kept of a user.
    Tamper {
        user: usize,
        with: Tampered,
    },
    /// A VM is replaced by a new one.
    Restart {
        worker: usize,
    },
    /// The clock jumps.
    Step {
        millis: i64,
    },
    /// A worker gets no ticks and no wakes for so long.
    Stall {
        worker: usize,
        lasts: Millis,
    },
    /// So many of the next writes to shared data are lost to others.
    Contend {
        writes: usize,
    },
    /// Another plugin writes over all of shared data.
    Scribble,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Open,
    Maybe,
    User,
    Admin,
    Raw,
}

impl Path {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Open => "/open",
            Self::Maybe => "/maybe",
            Self::User => "/user",
            Self::Admin => "/admin",
            Self::Raw => "/raw",
        }
    }
}

/// Which tokens a request shows, by their places in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Nothing,
    One(usize),
    /// Two headers with one each.
    Two(usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    Issuer,
    Users,
    Feed,
    /// Redis: names that are revoked.
    Blacklist,
    /// Redis: users' records.
    Records,
}

impl Service {
    pub const ALL: [Self; 5] =
        [Self::Issuer, Self::Users, Self::Feed, Self::Blacklist, Self::Records];

    pub const fn cluster(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Users => "users",
            Self::Feed => "feed",
            Self::Blacklist => "blacklist",
            Self::Records => "records",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// Envoy gives the call up at its timeout.
    TimedOut,
    /// Nobody ever hears of it again.
    Lost,
    /// It is answered when it has long been given up.
    Late,
    /// An answer with such a status, and a body that looks well.
    Status(u16),
    /// 200, and no sense.
    Garbage,
    /// 200, and the beginning of the body.
    Partial,
    /// A body that is too long.
    TooLong,
    /// The connection breaks.
    Broken,
    /// Envoy does not take the call: no endpoint, no cluster.
    NotSent,
    UnknownCluster,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Role,
    Gone,
    Back,
    Disabled,
    Active,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    Token(usize),
    User(usize),
    /// All tokens of a user that were issued before now.
    UserBefore(usize),
    Key(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    Token(usize),
    User(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tampered {
    Garbage,
    /// What is kept of another user.
    Other(usize),
    /// What was kept of the same one before.
    Older,
}

/// A token, by construction.
#[derive(Debug, Clone)]
pub struct TokenPlan {
    pub form: Form,
    pub user: usize,
    pub key: usize,
    /// In seconds from the beginning.
    pub issued: i64,
    pub expires: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// Signed by the issuer's key.
    Genuine,
    /// Signed by a stranger's key, under the name of the issuer's.
    Forged,
    /// Signed by a stranger's key, under a name of its own.
    UnknownKey,
    /// `alg: none`, unsigned.
    Unsigned,
    /// The issuer's signature over other claims.
    Altered,
    Garbage,
    OtherAudience,
    OtherIssuer,
}

impl Schedule {
    pub fn draw(scenario: &Scenario, rng: &mut Rng) -> Self {
        let end = 1_000 * rng.u64(6..25);
        let seconds = i64::try_from(end / 1_000).unwrap();
        let tokens: Vec<TokenPlan> =
            (0..rng.usize(8..20)).map(|_| TokenPlan::draw(seconds, rng)).collect();
        let mut events: Vec<Event> = Vec::new();
        for _ in 0..rng.usize(2..8) {
            // Things happen close together, or they would not meet.
            let mut at = rng.u64(..end);
            for _ in 0..rng.usize(3..16) {
                let what = What::draw(scenario, tokens.len(), rng);
                events.push(Event { at, what });
                at += if rng.bool() { 0 } else { rng.u64(..400) };
            }
        }
        for _ in 0..rng.usize(..12) {
            let what = What::draw(scenario, tokens.len(), rng);
            events.push(Event { at: rng.u64(..end), what });
        }
        events.sort_by_key(|event| event.at);
        Self { events, tokens, end }
    }

    /// With what happens to Redis.
    pub fn with_redis(mut self, scenario: &Scenario, rng: &mut Rng) -> Self {
        let of = [
            scenario.blacklist.as_ref().map(|_| Service::Blacklist),
            scenario.records.as_ref().map(|_| Service::Records),
        ];
        let of: Vec<Service> = of.into_iter().flatten().collect();
        for service in of.iter().cycle().take(of.len() * rng.usize(..8)) {
            let at = rng.u64(..self.end);
            let what = match (service, rng.u8(..3)) {
                (_, 0) => What::Fault {
                    service: *service,
                    kind: FaultKind::draw(rng),
                    lasts: rng.u64(50..8_000),
                    always: rng.u8(..4) != 0,
                },
                (Service::Blacklist, _) => What::List {
                    what: if rng.bool() {
                        Listed::Token(rng.usize(..self.tokens.len()))
                    } else {
                        Listed::User(rng.usize(..USERS))
                    },
                    lasts: rng.u64(1..20),
                },
                _ => What::Tamper {
                    user: rng.usize(..USERS),
                    with: match rng.u8(..3) {
                        0 => Tampered::Garbage,
                        1 => Tampered::Other(rng.usize(..USERS)),
                        _ => Tampered::Older,
                    },
                },
            };
            self.events.push(Event { at, what });
        }
        self.events.sort_by_key(|event| event.at);
        self
    }
}

impl TokenPlan {
    fn draw(seconds: i64, rng: &mut Rng) -> Self {
        let form = match rng.u8(..20) {
            0 => Form::Forged,
            1 => Form::UnknownKey,
            2 => Form::Unsigned,
            3 => Form::Altered,
            4 => Form::Garbage,
            5 => Form::OtherAudience,
            6 => Form::OtherIssuer,
            _ => Form::Genuine,
        };
        let key = match rng.u8(..8) {
            0..4 => 0,
            4..6 => 1,
            _ => rng.usize(2..KEYS),
        };
        let issued = if rng.bool() { rng.i64(-20..0) } else { rng.i64(0..seconds) };
        let lives = if rng.u8(..4) == 0 { rng.i64(1..30) } else { 100_000 };
        Self { form, user: rng.usize(..USERS), key, issued, expires: issued + lives }
    }
}

impl What {
    fn draw(scenario: &Scenario, tokens: usize, rng: &mut Rng) -> Self {
        let worker = rng.usize(..scenario.workers);
        match rng.u8(..100) {
            0..58 => Self::Request {
                worker,
                path: match rng.u8(..10) {
                    0 => Path::Open,
                    1 => Path::Maybe,
                    2 => Path::Raw,
                    3 | 4 => Path::Admin,
                    _ => Path::User,
                },
                shown: match rng.u8(..16) {
                    0 => Shown::Nothing,
                    1 => Shown::Two(rng.usize(..tokens), rng.usize(..tokens)),
                    _ => Shown::One(rng.usize(..tokens)),
                },
                forged: if rng.bool() { rng.u32(..) } else { 0 },
            },
            58..63 => Self::HangUp { worker, nth: rng.usize(..4) },
            63..77 => Self::Fault {
                service: Service::ALL[rng.usize(..3)],
                kind: FaultKind::draw(rng),
                lasts: if rng.u8(..4) == 0 { rng.u64(5_000..20_000) } else { rng.u64(50..3_000) },
                always: rng.u8(..4) != 0,
            },
            77..80 => Self::Publish { key: rng.usize(..KEYS) },
            80..83 => Self::Withdraw { key: rng.usize(..KEYS) },
            83..88 => Self::Change {
                user: rng.usize(..USERS),
                to: match rng.u8(..8) {
                    0 => Change::Gone,
                    1 => Change::Back,
                    2 | 3 => Change::Disabled,
                    4 => Change::Active,
                    _ => Change::Role,
                },
            },
            88..92 => Self::Revoke {
                what: match rng.u8(..4) {
                    0 => Revoked::User(rng.usize(..USERS)),
                    1 => Revoked::UserBefore(rng.usize(..USERS)),
                    2 => Revoked::Key(rng.usize(..KEYS)),
                    _ => Revoked::Token(rng.usize(..tokens)),
                },
                ends: (rng.u8(..4) == 0).then(|| rng.u64(..8)),
            },
            92 => Self::ClearFeed,
            93..95 => Self::Restart { worker },
            95..97 => Self::Step {
                millis: match rng.u8(..8) {
                    0..3 => rng.i64(-400..400),
                    3 => rng.i64(-40_000..-2_000),
                    _ => rng.i64(500..60_000),
                },
            },
            97 => Self::Stall { worker, lasts: rng.u64(100..1_500) },
            98 => Self::Contend { writes: rng.usize(1..4) },
            _ => Self::Scribble,
        }
    }

    /// Its kind, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Request { .. } => "request",
            Self::HangUp { .. } => "client hangs up",
            Self::Fault { .. } => "service fails",
            Self::Publish { .. } => "key published",
            Self::Withdraw { .. } => "key withdrawn",
            Self::Change { .. } => "user changed",
            Self::Revoke { .. } => "revocation",
            Self::ClearFeed => "feed cleared",
            Self::List { .. } => "name blacklisted",
            Self::Tamper { .. } => "Redis tampered with",
            Self::Restart { .. } => "VM restarts",
            Self::Step { millis } if *millis < -1_000 => "clock is set back",
            Self::Step { millis } if *millis < 0 => "clock steps back",
            Self::Step { .. } => "clock steps forward",
            Self::Stall { .. } => "worker stalls",
            Self::Contend { .. } => "writes contended",
            Self::Scribble => "shared data overwritten",
        }
    }
}

impl FaultKind {
    fn draw(rng: &mut Rng) -> Self {
        match rng.u8(..13) {
            0 | 1 => Self::TimedOut,
            2 | 3 => Self::Lost,
            4 => Self::Late,
            5 => Self::Status([403, 429, 400, 301][rng.usize(..4)]),
            6 => Self::Status(500),
            7 => Self::Status([502, 503, 504][rng.usize(..3)]),
            8 => Self::Garbage,
            9 => Self::Partial,
            10 => Self::TooLong,
            11 => Self::Broken,
            _ if rng.bool() => Self::NotSent,
            _ => Self::UnknownCluster,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::TimedOut => "timed out",
            Self::Lost => "lost",
            Self::Late => "late",
            Self::Status(400..500) => "4xx",
            Self::Status(500) => "500",
            Self::Status(501..600) => "502 to 504",
            Self::Status(_) => "3xx",
            Self::Garbage => "garbage",
            Self::Partial => "partial",
            Self::TooLong => "too long",
            Self::Broken => "broken",
            Self::NotSent => "not sent",
            Self::UnknownCluster => "unknown cluster",
        }
    }

    pub const NAMES: [&'static str; 13] = [
        "timed out",
        "lost",
        "late",
        "4xx",
        "500",
        "502 to 504",
        "3xx",
        "garbage",
        "partial",
        "too long",
        "broken",
        "not sent",
        "unknown cluster",
    ];
}
