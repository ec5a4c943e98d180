//! What a request must show, by its host, path and method.
//!
//! A path can be read in more than one way: as it was sent, or with its escapes, dots and double
//! slashes resolved, as the router or the upstream may do. A rule that looked at one reading could
//! be passed by by another, so a request must meet the rule of **each** reading. An ordinary path
//! has only one. The same goes for a host of which it depends on the reader whether it is a rule's.

mod host;
mod path;

use std::cell::LazyCell;
use std::ops::Deref;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::context::texts;
use crate::time::UnixTime;
use crate::token::claims::Claims;
use host::{Fit, Host};
use path::Readings;

pub use host::HostPattern;
pub use path::{PathMatch, Segment, percent_decoded};

/// The rules, in their order in the config.
#[derive(Debug)]
pub struct Rules(Vec<Rule>);

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// The requests it is for.
    pub matches: Match,
    /// What it demands.
    pub requirement: Requirement,
    /// Whether the token is forwarded here; where unset, `context.forward_token` says.
    pub forward_token: Option<bool>,
}

/// The requests a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Their paths.
    pub path: PathMatch,
    /// Their methods; all where it names none.
    pub methods: Vec<String>,
    /// Their hosts; all where it names none.
    pub hosts: Vec<HostPattern>,
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// `:method`.
    pub method: &'a [u8],
    /// `:authority`.
    pub host: &'a [u8],
    /// `:path`, with its query.
    pub path: &'a [u8],
}

/// What a request must show.
#[derive(Debug, Clone, PartialEq)]
pub enum Requirement {
    /// Nothing; a token is not looked at.
    Anonymous,
    /// A good token or none.
    Optional,
    /// A service that proved who it is; a user or none.
    Service,
    /// A user.
    User(Needs),
}

/// What a user must have.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Needs {
    /// One of these, where there are any.
    pub roles: Vec<String>,
    /// All of these.
    pub permissions: Vec<String>,
    /// All of these, in the token (RFC 8693 section 4.2).
    pub scopes: Vec<String>,
    /// Claims that the token has with one of these values; none named, with any.
    pub claims: Vec<(String, Vec<Value>)>,
    /// How long ago at most the user was authenticated (RFC 9470).
    pub max_age: Option<Duration>,
}

/// What the rules of all readings of a request ask for together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// The sternest of the requirements.
    pub level: Level,
    /// Whether a service must have proved who it is.
    pub service: bool,
    /// Whether the token may be forwarded: each reading's rule agrees.
    pub forward_token: bool,
    /// The rules that have more to ask, by their places.
    rules: Vec<usize>,
}

/// One way to read a request's path.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The path so read.
    pub path: String,
    /// The rules for it, with their places.
    pub rules: Vec<(usize, &'a Rule)>,
    /// Whether the last of them certainly is. Where none is, a user is required, too.
    pub is_certain: bool,
}

/// What a user has.
#[derive(Debug, Clone, Copy)]
pub struct Grants<'a> {
    /// The user's record, which says what the user's `role` is and what `permissions` there are.
    pub record: &'a Map<String, Value>,
    /// The claims of the user's token. A user whom a trusted hop names has none here, and so neither scopes
    /// nor a time of authentication.
    pub claims: Option<&'a Claims>,
    /// By how much the issuer's clock and ours may differ.
    pub clock_skew: Duration,
}

/// What a user lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lacking {
    /// One of a rule's roles.
    Role,
    /// One of a rule's permissions.
    Permission,
    /// One of these scopes, all of which are asked for.
    Scope(Vec<String>),
    /// A claim, or the right value there.
    Claim,
    /// A recent authentication: within this span.
    Authentication(Duration),
}

/// How much must be grants, from the mildest to the sternest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// See [`Requirement::Anonymous`].
    Anonymous,
    /// See [`Requirement::Optional`].
    Optional,
    /// See [`Requirement::User`].
    User,
    /// Nothing suffices: the path can be read in too many ways to be held to a rule.
    Nobody,
}

impl Rules {
    /// These rules, of which the first that matches holds.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// The rules that never match, each with the first that matches all it would; by their places.
    #[must_use]
    pub fn never_matched(&self) -> Vec<(usize, usize)> {
        let covering = |(place, rule): (usize, &Rule)| {
            let earlier = self
                .0
                .iter()
                .take(place)
                .position(|earlier| earlier.matches.covers(&rule.matches))?;
            Some((place, earlier))
        };
        self.0.iter().enumerate().filter_map(covering).collect()
    }

    /// What a request must show that may be any of `targets`. Where no rule matches, a user.
    #[must_use]
    pub fn demand(&self, targets: &[Target<'_>], forward_token: bool) -> Demand {
        let mut demand = Demand {
            level: if targets.is_empty() { Level::Nobody } else { Level::Anonymous },
            service: false,
            forward_token: true,
            rules: Vec::new(),
        };
        // Finding the readings is what costs: targets that follow each other with one path share them.
        let mut last: Option<(&[u8], Readings<'_>)> = None;
        for target in targets {
            let known = last.take().filter(|(path, _)| *path == target.path);
            let found = known.map(|(_, readings)| readings).or_else(|| Readings::of(target.path));
            let Some(readings) = found else {
                demand.level = Level::Nobody;
                return demand;
            };
            let host = LazyCell::new(|| Host::of(target.host));
            for reading in readings.iter() {
                self.add(&mut demand, target.method, &host, reading, forward_token);
            }
            last = Some((target.path, readings));
        }
        demand
    }

    /// Adds what one reading asks for: the first rule that is certainly meant, and those before it that may
    /// be.
    fn add(
        &self,
        demand: &mut Demand,
        method: &[u8],
        host: &impl Deref<Target = Host>,
        path: &str,
        forward_token: bool,
    ) {
        for (place, rule) in self.0.iter().enumerate() {
            let fit = rule.matches.fits(method, host, path);
            if fit == Fit::No {
                continue;
            }
            let level = match &rule.requirement {
                Requirement::Anonymous => Level::Anonymous,
                Requirement::Optional | Requirement::Service => Level::Optional,
                Requirement::User(_) => Level::User,
            };
            demand.level = demand.level.max(level);
            demand.service |= rule.requirement == Requirement::Service;
            demand.forward_token &= rule.forward_token.unwrap_or(forward_token);
            if !demand.rules.contains(&place) {
                demand.rules.push(place);
            }
            if fit == Fit::Yes {
                return;
            }
        }
        demand.level = demand.level.max(Level::User);
        demand.forward_token &= forward_token;
    }

    /// Each reading of a request's path, and the rules that hold for it. `None` where the path can be read in
    /// too many ways. [`Self::demand`] asks for all that these do.
    #[must_use]
    pub fn readings(&self, target: &Target<'_>) -> Option<Vec<Reading<'_>>> {
        let host = LazyCell::new(|| Host::of(target.host));
        let of_path = |path: &str| {
            let mut reading =
                Reading { path: path.to_owned(), rules: Vec::new(), is_certain: false };
            for (place, rule) in self.0.iter().enumerate() {
                let fit = rule.matches.fits(target.method, &host, &reading.path);
                if fit != Fit::No {
                    reading.rules.push((place, rule));
                }
                if fit == Fit::Yes {
                    reading.is_certain = true;
                    break;
                }
            }
            reading
        };
        Some(Readings::of(target.path)?.iter().map(of_path).collect())
    }

    /// Whether a user who shows this has what `demand` asks for.
    ///
    /// # Errors
    /// What the user lacks.
    pub fn admit(
        &self,
        demand: &Demand,
        grants: &Grants<'_>,
        now: UnixTime,
    ) -> Result<(), Lacking> {
        for rule in demand.rules.iter().filter_map(|place| self.0.get(*place)) {
            match &rule.requirement {
                Requirement::Anonymous | Requirement::Optional | Requirement::Service => {}
                Requirement::User(needs) => needs.met(grants, now)?,
            }
        }
        Ok(())
    }
}

impl Match {
    /// Whether this matches, for certain, every request that `other` would.
    fn covers(&self, other: &Self) -> bool {
        let Self { path, methods, hosts } = self;
        let all_methods = match (methods.as_slice(), other.methods.as_slice()) {
            ([], _) => true,
            (_, []) => false,
            (some, others) => others.iter().all(|method| some.contains(method)),
        };
        let all_hosts = match (hosts.as_slice(), other.hosts.as_slice()) {
            ([], _) => true,
            (_, []) => false,
            (some, others) => others.iter().all(|host| some.iter().any(|one| one.covers(host))),
        };
        all_methods && all_hosts && path.covers(&other.path)
    }

    /// `host` is read only where that depends on it.
    fn fits(&self, method: &[u8], host: &impl Deref<Target = Host>, path: &str) -> Fit {
        let any = self.methods.is_empty() || self.methods.iter().any(|m| m.as_bytes() == method);
        if !any || !self.path.matches(path) {
            return Fit::No;
        }
        let fits = self.hosts.iter().map(|pattern| pattern.fits(host));
        if self.hosts.is_empty() { Fit::Yes } else { fits.max().unwrap_or(Fit::No) }
    }
}

impl Needs {
    fn met(&self, grants: &Grants<'_>, now: UnixTime) -> Result<(), Lacking> {
        let has = |name: &str, wanted: &str| texts(grants.record, name).any(|own| own == wanted);
        if !self.roles.is_empty() && !self.roles.iter().any(|role| has("role", role)) {
            return Err(Lacking::Role);
        }
        if !self.permissions.iter().all(|one| has("permissions", one)) {
            return Err(Lacking::Permission);
        }
        if !self.scopes.iter().all(|scope| grants.claims.is_some_and(|c| c.has_scope(scope))) {
            return Err(Lacking::Scope(self.scopes.clone()));
        }
        if !self.claims.iter().all(|(name, values)| {
            grants.claims.is_some_and(|claims| claims.has_one_of(name, values))
        }) {
            return Err(Lacking::Claim);
        }
        match self.max_age {
            Some(max_age)
                if !grants.claims.is_some_and(|claims| {
                    claims.authenticated_within(max_age, grants.clock_skew, now)
                }) =>
            {
                Err(Lacking::Authentication(max_age))
            }
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(path: PathMatch, methods: &[&str], hosts: &[&str], requirement: Requirement) -> Rule {
        let matches = Match {
            path,
            methods: methods.iter().map(|m| (*m).to_owned()).collect(),
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        };
        Rule { matches, requirement, forward_token: None }
    }

    fn role(role: &str) -> Requirement {
        Requirement::User(Needs { roles: vec![role.to_owned()], ..Needs::default() })
    }

    fn user() -> Requirement {
        Requirement::User(Needs::default())
    }

    fn rules() -> Rules {
        use Requirement::{Anonymous, Optional};
        let template = PathMatch::Template(vec![
            Segment::Text("users".into()),
            Segment::Any,
            Segment::Text("avatar".into()),
        ]);
        let files = PathMatch::Template(vec![Segment::Text("files".into()), Segment::Rest]);
        Rules::new(vec![
            rule(PathMatch::Exact("/healthz".into()), &[], &[], Anonymous),
            rule(PathMatch::prefix("/public/"), &[], &[], Anonymous),
            rule(PathMatch::prefix("/admin"), &[], &[], role("ADMIN")),
            rule(PathMatch::prefix("/videos"), &["GET"], &[], Optional),
            rule(PathMatch::prefix("/videos"), &[], &[], user()),
            rule(template, &["GET"], &[], Anonymous),
            rule(files, &[], &[], Anonymous),
            rule(PathMatch::prefix("/"), &[], &["*.static.example", "cdn.example"], Anonymous),
            rule(PathMatch::prefix("/"), &[], &["staff.example"], role("ADMIN")),
            rule(PathMatch::prefix("/open"), &[], &[], Anonymous),
        ])
    }

    fn demand(rules: &Rules, method: &str, host: &str, path: &str) -> Demand {
        let target =
            Target { method: method.as_bytes(), host: host.as_bytes(), path: path.as_bytes() };
        rules.demand(&[target], false)
    }

    fn grants(record: &Map<String, Value>) -> Grants<'_> {
        Grants { record, claims: None, clock_skew: Duration::ZERO }
    }

    fn admit(rules: &Rules, demand: &Demand, own: &[&str]) -> Result<(), Lacking> {
        let record = Map::from_iter([("role".to_owned(), json!(own))]);
        rules.admit(demand, &grants(&record), UnixTime::from_secs(0))
    }

    #[test]
    fn the_first_match_holds_and_no_match_means_user() {
        let rules = rules();
        for (method, target, level) in [
            ("GET", "/healthz", Level::Anonymous),
            ("GET", "/healthz?x=/admin", Level::Anonymous),
            ("GET", "/healthz/", Level::User),
            ("GET", "/public", Level::Anonymous),
            ("GET", "/public/a/b", Level::Anonymous),
            ("GET", "/publication", Level::User),
            ("GET", "/videos", Level::Optional),
            ("POST", "/videos/1", Level::User),
            ("get", "/videos", Level::User),
            ("GET", "/users/7/avatar", Level::Anonymous),
            ("GET", "/users/7/avatar?size=1", Level::Anonymous),
            ("POST", "/users/7/avatar", Level::User),
            ("GET", "/users//avatar", Level::User),
            ("GET", "/users/7/avatar/", Level::User),
            ("GET", "/users/7/8/avatar", Level::User),
            ("GET", "/users/7%2F8/avatar", Level::User),
            ("GET", "/users/../avatar", Level::User),
            ("GET", "/files/a/b/c", Level::Anonymous),
            ("GET", "/files/", Level::User),
            ("GET", "/files", Level::User),
            ("GET", "/", Level::User),
            ("GET", "*", Level::User),
            ("GET", "", Level::User),
        ] {
            assert_eq!(demand(&rules, method, "a", target).level, level, "{method} {target}");
        }
    }

    #[test]
    fn where_a_host_may_be_a_rules_or_not_both_must_be_met() {
        let rules = rules();
        for (host, path, level, admin) in [
            ("img.static.example", "/x", Level::Anonymous, false),
            ("CDN.example", "/x", Level::Anonymous, false),
            ("cdn.example:8443", "/x", Level::User, false),
            ("cdn.example.", "/x", Level::User, false),
            ("other.example", "/x", Level::User, false),
            ("other.example", "/open", Level::Anonymous, false),
            ("staff.example", "/open", Level::User, true),
            ("staff.example:443", "/open", Level::User, true),
            ("staff.example.", "/open", Level::User, true),
            ("x@staff.example", "/open", Level::User, true),
            ("", "/open", Level::User, true),
            ("staff.example", "/public", Level::Anonymous, false),
        ] {
            let demand = demand(&rules, "GET", host, path);
            assert_eq!(demand.level, level, "{host} {path}");
            let lacking = if admin { Err(Lacking::Role) } else { Ok(()) };
            assert_eq!(admit(&rules, &demand, &[]), lacking, "{host} {path}");
        }
    }

    #[test]
    fn a_request_that_may_be_any_of_several_must_meet_the_rules_of_all() {
        let rules = rules();
        let target =
            |path: &'static str| Target { method: b"GET", host: b"a", path: path.as_bytes() };
        let both = rules.demand(&[target("/public"), target("/admin")], false);
        assert_eq!((both.level, admit(&rules, &both, &[])), (Level::User, Err(Lacking::Role)));
        assert_eq!(rules.demand(&[], false).level, Level::Nobody);
    }

    #[test]
    fn a_user_needs_all_that_a_rule_names() {
        let claims = |value: Value| Claims::new(value.as_object().unwrap().clone()).unwrap();
        let needs = Needs {
            scopes: vec!["video:read".into(), "video:write".into()],
            claims: vec![("org".into(), vec!["a".into(), "b".into()]), ("email".into(), vec![])],
            max_age: Some(Duration::from_secs(600)),
            ..Needs::default()
        };
        let rules =
            Rules::new(vec![rule(PathMatch::prefix("/"), &[], &[], Requirement::User(needs))]);
        let demand = demand(&rules, "GET", "a", "/");
        let now = UnixTime::from_secs(10_000);
        let scopes = Lacking::Scope(vec!["video:read".into(), "video:write".into()]);
        let old = Lacking::Authentication(Duration::from_secs(600));
        let good = json!({"scope": "video:read video:write", "org": "a", "email": "x", "auth_time": 9_500});
        let nobody = Map::new();
        for (name, value, verdict) in [
            ("scope", Some(good["scope"].clone()), Ok(())),
            ("scope", Some(json!("video:write x video:read")), Ok(())),
            ("scope", Some(json!("video:read")), Err(scopes.clone())),
            ("scope", Some(json!("video:read video:writer")), Err(scopes.clone())),
            ("scope", Some(json!(["video:read", "video:write"])), Ok(())),
            ("scope", Some(json!(7)), Err(scopes.clone())),
            ("scope", None, Err(scopes.clone())),
            ("org", Some(json!("b")), Ok(())),
            ("org", Some(json!(["c", "b"])), Ok(())),
            ("org", Some(json!("c")), Err(Lacking::Claim)),
            ("org", Some(json!(["c"])), Err(Lacking::Claim)),
            ("org", None, Err(Lacking::Claim)),
            ("email", Some(json!(null)), Err(Lacking::Claim)),
            ("email", None, Err(Lacking::Claim)),
            ("auth_time", Some(json!(9_395)), Ok(())),
            ("auth_time", Some(json!(9_394)), Err(old.clone())),
            ("auth_time", Some(json!(10_005)), Ok(())),
            ("auth_time", Some(json!(10_006)), Err(old.clone())),
            ("auth_time", Some(json!("9500")), Err(old.clone())),
            ("auth_time", None, Err(old.clone())),
        ] {
            let mut members = good.clone();
            match &value {
                Some(value) => members[name] = value.clone(),
                None => drop(members.as_object_mut().unwrap().remove(name)),
            }
            let claims = claims(members);
            let grants = Grants {
                claims: Some(&claims),
                clock_skew: Duration::from_secs(5),
                ..grants(&nobody)
            };
            assert_eq!(rules.admit(&demand, &grants, now), verdict, "{name}: {value:?}");
        }
        assert_eq!(rules.admit(&demand, &grants(&nobody), now), Err(scopes), "without a token");
    }

    #[test]
    fn a_rule_never_matches_behind_one_that_matches_all_it_would() {
        let rule = |path, methods: &[&str], hosts: &[&str]| {
            rule(path, methods, hosts, Requirement::Anonymous)
        };
        let (exact, prefix) = (|path: &str| PathMatch::Exact(path.to_owned()), PathMatch::prefix);
        let template = |segments: &[Segment]| PathMatch::Template(segments.to_vec());
        let text = |text: &str| Segment::Text(text.to_owned());
        let (any, rest) = (Segment::Any, Segment::Rest);
        for (earlier, later, covered) in [
            (rule(prefix("/"), &[], &[]), rule(prefix("/"), &[], &[]), true),
            (rule(prefix("/"), &[], &[]), rule(exact("/a"), &["GET"], &["a.example"]), true),
            (rule(prefix("/a"), &[], &[]), rule(prefix("/a/"), &[], &[]), true),
            (rule(prefix("/a"), &[], &[]), rule(prefix("/a/b"), &[], &[]), true),
            (rule(prefix("/a"), &[], &[]), rule(exact("/a"), &[], &[]), true),
            (rule(exact("/a"), &[], &[]), rule(exact("/a"), &[], &[]), true),
            (rule(prefix("/a"), &["GET", "PUT"], &[]), rule(prefix("/a"), &["PUT"], &[]), true),
            (rule(prefix("/a"), &["GET"], &[]), rule(prefix("/a"), &[], &[]), false),
            (rule(prefix("/a"), &["GET"], &[]), rule(prefix("/a"), &["GET", "PUT"], &[]), false),
            (rule(prefix("/a/b"), &[], &[]), rule(prefix("/a"), &[], &[]), false),
            (rule(prefix("/a"), &[], &[]), rule(prefix("/ab"), &[], &[]), false),
            (rule(exact("/a"), &[], &[]), rule(prefix("/a"), &[], &[]), false),
            (rule(exact("/a"), &[], &[]), rule(exact("/a/"), &[], &[]), false),
            (rule(prefix("/a"), &[], &[]), rule(prefix("/"), &[], &[]), false),
            (rule(prefix("/"), &[], &["a.example"]), rule(prefix("/"), &[], &[]), false),
            (rule(prefix("/"), &[], &["*.example"]), rule(prefix("/"), &[], &["a.example"]), true),
            (rule(prefix("/"), &[], &["a.example"]), rule(prefix("/"), &[], &["*.example"]), false),
            (
                rule(prefix("/"), &[], &["*.b.example"]),
                rule(prefix("/"), &[], &["b.example"]),
                false,
            ),
            (
                rule(prefix("/v"), &[], &[]),
                rule(template(&[text("v"), any.clone()]), &[], &[]),
                true,
            ),
            (
                rule(prefix("/v/x"), &[], &[]),
                rule(template(&[text("v"), any.clone()]), &[], &[]),
                false,
            ),
            (
                rule(template(&[text("v"), any.clone()]), &[], &[]),
                rule(exact("/v/7"), &[], &[]),
                true,
            ),
            (
                rule(template(&[text("v"), any.clone()]), &[], &[]),
                rule(prefix("/v/7"), &[], &[]),
                false,
            ),
            (
                rule(template(&[text("v"), any.clone()]), &[], &[]),
                rule(template(&[text("v"), text("7")]), &[], &[]),
                true,
            ),
            (
                rule(template(&[text("v"), rest.clone()]), &[], &[]),
                rule(template(&[text("v"), any.clone(), text("x")]), &[], &[]),
                true,
            ),
            (
                rule(template(&[text("v"), any.clone()]), &[], &[]),
                rule(template(&[text("v"), rest]), &[], &[]),
                false,
            ),
            (
                rule(template(&[any.clone(), text("x")]), &[], &[]),
                rule(template(&[text("v"), any]), &[], &[]),
                false,
            ),
        ] {
            let case = format!("{earlier:?} {later:?}");
            let other = rule(exact("/other"), &[], &[]);
            let found = Rules::new(vec![other, earlier, later]).never_matched();
            assert_eq!(found, if covered { vec![(2, 1)] } else { Vec::new() }, "{case}");
        }
    }

    #[test]
    fn every_reading_of_a_path_must_be_let_through() {
        let rules = rules();
        for target in [
            "/public/../admin",
            "/public/%2e%2e/admin",
            "/public/%2E%2E%2fadmin",
            "/public/..%2fadmin",
            "/public/..%5cadmin",
            "/public/..\\admin",
            "/public/..;/admin",
            "/public/..;a=b/admin",
            "/public/%252e%252e/admin",
            "/public/%2e%2e;/admin",
            "/public//../../admin",
            "/public/x/../../admin",
            "/%61dmin",
            "//admin",
            "/./admin",
            "/admin;x",
            "/admin;x/../public/y",
            "/admin/../public",
            "/admin%2f..%2fpublic",
            "/admin%2fx",
            "/admin%3fx",
            "/admin%23x",
            "/%61dmin;%2fx",
            "/x%2fy/../%61dmin",
            "/public/%2e%2e;%2fpublic/admin",
            "/public/%252e%252e%252fadmin",
            "/public/.%2e/admin",
            "/public\\..\\admin",
        ] {
            let demand = demand(&rules, "GET", "a", target);
            assert_eq!(demand.level, Level::User, "{target}");
            assert_eq!(admit(&rules, &demand, &[]), Err(Lacking::Role), "{target}");
            assert_eq!(admit(&rules, &demand, &["ADMIN"]), Ok(()), "{target}");
        }
    }

    #[test]
    fn an_odd_path_whose_readings_agree_is_not_refused() {
        let rules = rules();
        for target in [
            "/public/a%20b",
            "/public/a;v=1",
            "/public/a//b",
            "/public/%E2%82%AC",
            "/public/\u{20ac}",
            "/users/a%20b/avatar",
        ] {
            let demand = demand(&rules, "GET", "a", target);
            assert_eq!(demand.level, Level::Anonymous, "{target}");
        }
    }

    #[test]
    fn a_path_with_too_many_readings_is_nobodys() {
        let rules = rules();
        for target in ["/%61".repeat(5_000), "/%61dmin;b%2fx".repeat(700)] {
            let demand = demand(&rules, "GET", "a", &target);
            assert!(demand.level >= Level::User, "{}", target.len());
        }
        let long = "/%61".repeat(5_000);
        assert_eq!(demand(&rules, "GET", "a", &long).level, Level::Nobody);
        // Each of many readings is gone through several times: many are for short paths.
        let many = "/%5c/..;/%252e%252e%3b/";
        assert_eq!(demand(&rules, "GET", "a", many).level, Level::User);
        let long = many.to_owned() + &"/a".repeat(4_000);
        assert_eq!(demand(&rules, "GET", "a", &long).level, Level::Nobody);
        let few = "/public/a%20b".to_owned() + &"/a".repeat(4_000);
        assert_eq!(demand(&rules, "GET", "a", &few).level, Level::Anonymous);
        let plain = "/public/".to_owned() + &"a".repeat(50_000);
        assert_eq!(demand(&rules, "GET", "a", &plain).level, Level::Anonymous);
    }

    #[test]
    fn a_sign_is_read_of_which_one_byte_alone_is_escaped() {
        let rules = Rules::new(vec![
            rule(PathMatch::Exact("/\u{e9}".into()), &[], &[], role("ADMIN")),
            rule(PathMatch::prefix("/"), &[], &[], Requirement::Anonymous),
        ]);
        for path in
            [&b"/%c3%a9"[..], b"/\xc3%a9", b"/%c3\xa9", b"/%25c3%a9", b"/%c3%25a9", b"/\xc3%25a9"]
        {
            let demand = rules.demand(&[Target { method: b"GET", host: b"a", path }], false);
            assert_eq!(demand.level, Level::User, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn paths_of_any_bytes_have_readings() {
        for target in [&b"\xff\xfe"[..], b"%", b"%f", b"%zz", b"/%00", b"\\", b"/..", b"../.."] {
            assert!(Readings::of(target).unwrap().iter().next().is_some());
        }
        assert!(Readings::of(b"/a/..").unwrap().iter().any(|reading| reading == "/"));
    }
}
