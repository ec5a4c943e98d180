//! What must hold of each request's end, whatever happened.

use std::fmt;

use meshgate::denial::Code;
use meshgate::headers::Edit;
use meshgate::worker::Disposition;

use crate::oracle::{Moment, Oracle};
use crate::schedule::{Form, Path, Service, Shown};
use crate::services::{id, is_born_admin, role, subject};

/// Something that must not be.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

impl Violation {
    pub fn found<T>(rule: &'static str, what: String) -> Result<T, Self> {
        Err(Self { rule, what })
    }

    pub fn unless(
        holds: bool,
        rule: &'static str,
        what: impl FnOnce() -> String,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Self::found(rule, what()) }
    }
}

/// A request as it was sent.
#[derive(Debug)]
pub struct Request {
    pub stream: u32,
    pub path: Path,
    pub shown: Shown,
    pub sent: Vec<(String, String)>,
    /// What was done to it before anything was decided.
    pub strip: Vec<Edit>,
}

/// How much a worker has to do.
#[derive(Debug)]
pub struct Load {
    pub parked: usize,
    pub calls: usize,
    /// Whether there are calls that it is about to make.
    pub wants_more: bool,
}

/// A context header of the config where users are looked up.
const VERSION: &str = "x-record-version";

/// What only the gateway may say, whatever the config.
const MANAGED: [&str; 6] = [
    "x-user-id",
    "x-user-role",
    "x-user-clerk-id",
    "x-user-channel-id",
    "x-service-name",
    "txn-token",
];

/// What a client says that it may not, one for each bit.
const FORGED: [(&str, &str); 16] = [
    ("x-user-id", "u-0"),
    ("X-User-Id", ""),
    ("x_user_id", "forged"),
    ("X_USER-ID", "forged"),
    ("x.user.id", "u-0"),
    ("x-user-role", "ADMIN"),
    ("x_user_role", "ADMIN"),
    ("X-User_Role", ""),
    (VERSION, "0"),
    ("x_record_version", "0"),
    ("x-service-name", "videos"),
    ("X_Service_Name", "videos"),
    ("txn-token", "eyJ.forged.token"),
    ("Txn_Token", "eyJ.forged.token"),
    ("x-user-clerk-id", "forged"),
    ("x_user_channel_id", "forged"),
];

/// The head of a request, its names in lower case as Envoy has them.
pub fn head(path: Path, shown: Shown, forged: u32, texts: &[String]) -> Vec<(String, String)> {
    let field = |name: &str, value: &str| (name.to_ascii_lowercase(), value.to_owned());
    let bearer = |token: &usize| field("authorization", &format!("Bearer {}", texts[*token]));
    let mut head = vec![field(":method", "GET"), field(":path", path.text())];
    for (bit, (name, value)) in FORGED.iter().enumerate() {
        if forged >> bit & 1 == 1 {
            head.push(field(name, value));
        }
    }
    match shown {
        Shown::Nothing => {}
        Shown::One(token) => head.push(bearer(&token)),
        Shown::Two(one, other) => head.extend([bearer(&one), bearer(&other)]),
    }
    // Behind the token too: where a field stands is of no matter.
    if forged >> 16 & 1 == 1 {
        head.push(field("X_User_Id", "u-0"));
        head.push(field("x-user-id", "u-0"));
    }
    head
}

/// Whether a request's end is right.
pub fn judge(
    oracle: &Oracle,
    request: &Request,
    texts: &[String],
    disposition: &Disposition,
    moment: &Moment<'_>,
    load: &Load,
) -> Result<(), Violation> {
    let case = Case { oracle, request, texts, moment };
    match disposition {
        Disposition::Forward(edits, _) => case.forwarded(edits),
        Disposition::Deny(denial) => {
            let rule = "codes are of the right family";
            Violation::unless(denial.code.status() == status_of(denial.code), rule, || {
                denial.code.name().to_owned()
            })?;
            Violation::unless(case.may_deny(denial.code, load), "refusals have a cause", || {
                format!("{} on {} {:?}", denial.code.name(), request.path.text(), request.shown)
            })
        }
        other => Violation::found("requests are forwarded or refused", format!("{other:?}")),
    }
}

/// The status by what a code is about.
fn status_of(code: Code) -> u16 {
    let name = code.name();
    if name.ends_with("_unavailable") || name == "overloaded" {
        503
    } else if name.starts_with("user_") || name.ends_with("_required") {
        403
    } else {
        401
    }
}

struct Case<'a> {
    oracle: &'a Oracle,
    request: &'a Request,
    texts: &'a [String],
    moment: &'a Moment<'a>,
}

impl Case<'_> {
    /// The one token that the request shows.
    fn token(&self) -> Option<usize> {
        match self.request.shown {
            Shown::One(token) => Some(token),
            Shown::Two(one, other) if self.texts[one] == self.texts[other] => Some(one),
            Shown::Two(..) | Shown::Nothing => None,
        }
    }

    fn upstream(&self, edits: &[Edit]) -> Vec<(String, String)> {
        let mut head = self.request.sent.clone();
        for edit in self.request.strip.iter().chain(edits) {
            let (Edit::Set(name, _) | Edit::Remove(name)) = edit;
            head.retain(|(own, _)| own != name);
            if let Edit::Set(name, value) = edit {
                head.push((name.clone(), String::from_utf8_lossy(value).into_owned()));
            }
        }
        head
    }

    fn forwarded(&self, edits: &[Edit]) -> Result<(), Violation> {
        let head = self.upstream(edits);
        let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '.'], "-");
        let versions = self.oracle.scenario.lookup.is_some();
        let managed = |name: &str| MANAGED.contains(&name) || (versions && name == VERSION);
        let context: Vec<&(String, String)> =
            head.iter().filter(|(name, _)| managed(&plain(name))).collect();
        let no_context = || {
            Violation::unless(context.is_empty(), "no forged context", || {
                format!("the upstream sees {context:?} of nobody")
            })
        };
        let ids = head.iter().filter(|(name, _)| plain(name) == "x-request-id").count();
        Violation::unless(ids == 1, "one request id", || format!("{ids} of them"))?;
        let keeps = self.request.path == Path::Raw && self.token().is_some();
        for (name, value) in &head {
            let shows = self.texts.iter().any(|text| value.contains(text.as_str()));
            let own = keeps && name == "authorization";
            Violation::unless(!shows || own, "tokens stay here", || name.clone())?;
        }
        let found = "identity has a source";
        match (self.request.path, self.request.shown, self.token()) {
            (Path::Open, _, _) | (Path::Maybe, Shown::Nothing, _) => no_context(),
            (_, _, None) => Violation::found(found, format!("{:?}", self.request.shown)),
            (_, _, Some(token)) => {
                self.good(token)?;
                self.context(token, &context)
            }
        }
    }

    /// A token that a request was forwarded by must be good.
    fn good(&self, token: usize) -> Result<(), Violation> {
        let (oracle, moment) = (self.oracle, self.moment);
        let plan = || format!("{:?}", oracle.schedule.tokens[token]);
        Violation::unless(oracle.is_genuine(token), "identity has a source", plan)?;
        // It may have been looked at when the request came, or since.
        let (then, now) = (moment.then.1, moment.clock);
        let in_time =
            !oracle.is_expired(token, then.min(now)) && !oracle.is_early(token, then.max(now));
        Violation::unless(in_time, "tokens have their time", plan)?;
        let published = oracle.key_is(token, true, moment);
        Violation::unless(published, "a removed key is refused", plan)?;
        let passes =
            oracle.may_pass_feed(token, moment) && oracle.may_be_listed(token, false, moment);
        Violation::unless(passes, "a revoked token is refused", plan)
    }

    /// The context must be that of the token's user, as it is or lately was.
    fn context(&self, token: usize, context: &[&(String, String)]) -> Result<(), Violation> {
        let (oracle, moment) = (self.oracle, self.moment);
        let user = oracle.user_of(token);
        let rule = "no forged context";
        let one = |name: &str| match &context
            .iter()
            .filter(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
            .collect::<Vec<_>>()[..]
        {
            [value] => Ok((*value).to_owned()),
            other => Violation::found(rule, format!("{name} of user {user} is {other:?}")),
        };
        let (shown, shown_role) = (one("x-user-id")?, one("x-user-role")?);
        let is_admin = shown_role == role(true);
        let may = is_admin || self.request.path != Path::Admin;
        Violation::unless(may, "rules hold", || format!("{shown_role} on /admin"))?;
        let Some(lookup) = &oracle.scenario.lookup else {
            let is = shown == subject(user) && is_admin == is_born_admin(user);
            return Violation::unless(is && context.len() == 2, rule, || format!("{context:?}"));
        };
        Violation::unless(shown == id(user) && context.len() == 3, rule, || {
            format!("{context:?} for user {user}")
        })?;
        let shown_version = one(VERSION)?;
        let is = oracle.any_record(user, moment, |record| {
            record.version.to_string() == shown_version
                && record.admin == is_admin
                && (record.active || !lookup.active)
        });
        Violation::unless(is, "what is known of users has its time", || {
            format!("{context:?} for user {user}")
        })
    }

    /// Whether there may be a cause for this refusal.
    fn may_deny(&self, code: Code, load: &Load) -> bool {
        let (oracle, moment) = (self.oracle, self.moment);
        let (path, shown) = (self.request.path, self.request.shown);
        let token = match (path, shown, self.token()) {
            (Path::Open, _, _) | (Path::Maybe, Shown::Nothing, _) => return false,
            (_, Shown::Nothing, _) => return code == Code::TokenMissing,
            (_, Shown::Two(..), None) => return code == Code::TokenAmbiguous,
            (_, _, None) => return false,
            (_, _, Some(token)) => token,
        };
        let form = oracle.schedule.tokens[token].form;
        match form {
            Form::Garbage => return code == Code::TokenMalformed,
            Form::Unsigned => {
                return matches!(code, Code::TokenMalformed | Code::AlgorithmNotAllowed);
            }
            Form::OtherIssuer => return code == Code::IssuerUnknown,
            Form::Genuine
            | Form::Forged
            | Form::UnknownKey
            | Form::Altered
            | Form::OtherAudience => {}
        }
        let user = oracle.user_of(token);
        let lookup = oracle.scenario.lookup.as_ref();
        let genuine = form == Form::Genuine;
        let trouble = |service| oracle.is_in_trouble(service, moment.at);
        match code {
            Code::KeysUnavailable => trouble(Service::Issuer),
            Code::KeyUnknown => form == Form::UnknownKey || oracle.key_is(token, false, moment),
            Code::SignatureInvalid => matches!(form, Form::Forged | Form::Altered),
            Code::AudienceMismatch => form == Form::OtherAudience,
            Code::TokenExpired => genuine && oracle.is_expired(token, moment.clock),
            Code::TokenNotYetValid => genuine && oracle.is_early(token, moment.clock),
            Code::TokenRevoked => {
                let listed = oracle.may_be_listed(token, true, moment);
                genuine && (listed || oracle.may_be_revoked(token, moment))
            }
            Code::RevocationUnavailable => {
                let feed = oracle.scenario.feed.is_some() && trouble(Service::Feed);
                let list = oracle.scenario.blacklist.is_some() && trouble(Service::Blacklist);
                genuine && !oracle.scenario.allows() && (feed || list)
            }
            Code::UserUnknown => genuine && oracle.may_be_unknown(user, moment),
            Code::UserDisabled => {
                genuine
                    && lookup.is_some_and(|lookup| lookup.active)
                    && oracle.any_record(user, moment, |record| !record.active)
            }
            Code::RoleRequired => {
                let lacks = match lookup {
                    None => !is_born_admin(user),
                    Some(_) => oracle.any_record(user, moment, |record| !record.admin),
                };
                genuine && path == Path::Admin && lacks
            }
            Code::UserLookupUnavailable => {
                genuine && lookup.is_some() && (trouble(Service::Users) || oracle.was_renewed(user))
            }
            Code::Overloaded => {
                load.parked >= oracle.scenario.max_waiters.div_ceil(2)
                    || load.calls >= oracle.scenario.max_calls
                    || load.wants_more
            }
            _ => false,
        }
    }
}
