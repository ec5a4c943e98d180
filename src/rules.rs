//! What a request must show, by its path and method.
//!
//! A path can be read in more than one way: as it was sent, or with its escapes, dots and double
//! slashes resolved, as the router or the upstream may do. A rule that looked at one reading could
//! be passed by by another, so a request must meet the rule of **each** reading. An ordinary path
//! has only one.

use std::collections::BTreeSet;

/// The rules, in their order in the config.
#[derive(Debug)]
pub struct Rules(Vec<Rule>);

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// The paths it is for.
    pub path: PathMatch,
    /// The methods it is for; all where it names none.
    pub methods: Vec<String>,
    /// What it demands.
    pub requirement: Requirement,
    /// Whether the token is forwarded here; where unset, `context.forward_token` says.
    pub forward_token: Option<bool>,
}

/// The paths a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// This path.
    Exact(String),
    /// This path and those below it. `/api` holds `/api` and `/api/x` but not `/apix`.
    Prefix(String),
}

impl PathMatch {
    /// The path `prefix` and those below it, whether or not it ends with a slash.
    #[must_use]
    pub fn prefix(prefix: &str) -> Self {
        Self::Prefix(prefix.trim_end_matches('/').to_owned())
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

/// What a request must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// Nothing; a token is not looked at.
    Anonymous,
    /// A good token or none.
    Optional,
    /// A service that proved who it is; a user or none.
    Service,
    /// A user.
    User {
        /// The user has one of these, where there are any.
        roles: Vec<String>,
        /// The user has all of these.
        permissions: Vec<String>,
    },
}

/// What the rules of all readings of a path ask for together.
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

/// What a user lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacking {
    /// One of a rule's roles.
    Role,
    /// One of a rule's permissions.
    Permission,
}

/// How much must be shown, from the mildest to the sternest.
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

    /// What a request must show. `target` is `:path` with its query. Where no rule matches, a user.
    #[must_use]
    pub fn demand(&self, method: &[u8], target: &[u8], forward_token: bool) -> Demand {
        let mut demand = Demand {
            level: Level::Anonymous,
            service: false,
            forward_token: true,
            rules: Vec::new(),
        };
        let Some(readings) = self.readings(method, target) else {
            demand.level = Level::Nobody;
            return demand;
        };
        for (_, rule) in readings {
            let requirement = rule.map(|(_, rule)| &rule.requirement);
            demand.service |= requirement == Some(&Requirement::Service);
            let level = match requirement {
                Some(Requirement::Anonymous) => Level::Anonymous,
                Some(Requirement::Optional | Requirement::Service) => Level::Optional,
                Some(Requirement::User { .. }) | None => Level::User,
            };
            demand.level = demand.level.max(level);
            demand.forward_token &=
                rule.and_then(|(_, rule)| rule.forward_token).unwrap_or(forward_token);
            if let Some((place, _)) = rule
                && !demand.rules.contains(&place)
            {
                demand.rules.push(place);
            }
        }
        demand
    }

    /// Whether a user with these roles and permissions has what `demand` asks for.
    ///
    /// # Errors
    /// What the user lacks.
    pub fn admit(
        &self,
        demand: &Demand,
        user_roles: &[String],
        user_permissions: &[String],
    ) -> Result<(), Lacking> {
        for rule in demand.rules.iter().filter_map(|place| self.0.get(*place)) {
            if let Requirement::User { roles, permissions } = &rule.requirement {
                if !roles.is_empty() && !roles.iter().any(|role| user_roles.contains(role)) {
                    return Err(Lacking::Role);
                }
                if !permissions.iter().all(|one| user_permissions.contains(one)) {
                    return Err(Lacking::Permission);
                }
            }
        }
        Ok(())
    }

    /// Each reading of a request's path, and the rule that holds for it, with its place. `None` where the path
    /// can be read in too many ways.
    #[must_use]
    pub fn readings(
        &self,
        method: &[u8],
        target: &[u8],
    ) -> Option<impl Iterator<Item = (String, Option<(usize, &Rule)>)>> {
        let rule = |path: String| {
            let rule = self.first_match(method, &path);
            (path, rule)
        };
        Some(readings(target)?.into_iter().map(rule))
    }

    fn first_match(&self, method: &[u8], path: &str) -> Option<(usize, &Rule)> {
        self.0.iter().enumerate().find(|(_, rule)| {
            rule.path.matches(path)
                && (rule.methods.is_empty() || rule.methods.iter().any(|m| m.as_bytes() == method))
        })
    }
}

/// Most readings of one path, and the longest path whose readings are looked for: what is beyond that
/// was made to be misread, and costs more than it is worth.
const MAX_READINGS: usize = 64;
/// See [`MAX_READINGS`]; in bytes.
const MAX_ODD_PATH: usize = 8_192;

/// Every way in which the path of `target` may be read. `None` where there are too many.
///
/// Routers, servers and frameworks undo escapes, cut parameters and queries off, and resolve dots and
/// slashes, each in an order of its own and some of them twice. So whatever any of these steps makes of
/// any reading is a reading too, until there is nothing new.
fn readings(target: &[u8]) -> Option<BTreeSet<String>> {
    let path = target.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    let as_sent = String::from_utf8_lossy(path).into_owned();
    if is_plain(path) {
        return Some(BTreeSet::from([as_sent]));
    }
    if path.len() > MAX_ODD_PATH {
        return None;
    }
    // With each reading goes how often it was decoded: a router and an upstream may each do it once.
    let mut found = BTreeSet::from([(as_sent.clone(), 0)]);
    let mut open = vec![(as_sent, 0)];
    while let Some((text, decoded)) = open.pop() {
        let mut steps = vec![
            (text.replace('\\', "/"), decoded),
            (without_parameters(&text), decoded),
            (until_query(&text).to_owned(), decoded),
            (resolved(&text, false), decoded),
            (resolved(&text, true), decoded),
        ];
        if decoded < 2 {
            let once = percent_decoded(text.as_bytes());
            steps.push((String::from_utf8_lossy(&once).into_owned(), decoded + 1));
        }
        for step in steps {
            if found.insert(step.clone()) {
                open.push(step);
            }
        }
        if found.len() > MAX_READINGS {
            return None;
        }
    }
    Some(found.into_iter().map(|(text, _)| text).collect())
}

/// The path without what a decoded `?` or `#` makes a query or fragment.
fn until_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

/// Whether everyone reads this path the same way.
fn is_plain(path: &[u8]) -> bool {
    let odd = |byte: &u8| matches!(byte, b'%' | b'\\' | b';') || !byte.is_ascii_graphic();
    !path.iter().any(odd)
        && !path.windows(2).any(|pair| pair == b"//")
        && !path.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b".."))
}

/// The text with its percent-escapes resolved; what is not an escape stays.
#[must_use]
pub fn percent_decoded(path: &[u8]) -> Vec<u8> {
    let digit =
        |byte: Option<&u8>| char::from(*byte?).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match (first, digit(tail.first()), digit(tail.get(1))) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                rest = tail.get(2..).unwrap_or_default();
            }
            (byte, _, _) => out.push(*byte),
        }
    }
    out
}

/// The path without what stands behind a `;` in each segment, as Java's servlets read it.
fn without_parameters(path: &str) -> String {
    let segments: Vec<&str> =
        path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    segments.join("/")
}

/// The path with `.` and `..` resolved (RFC 3986 section 5.2.4) and, where `merge`, `//` as `/`.
fn resolved(path: &str, merge: bool) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            "" if merge && !last => {}
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let rule = |path, methods: &[&str], requirement| Rule {
            path,
            methods: methods.iter().map(|m| (*m).to_owned()).collect(),
            requirement,
            forward_token: None,
        };
        let user = |roles: &[&str]| Requirement::User {
            roles: roles.iter().map(|r| (*r).to_owned()).collect(),
            permissions: Vec::new(),
        };
        Rules::new(vec![
            rule(PathMatch::Exact("/healthz".into()), &[], Requirement::Anonymous),
            rule(PathMatch::prefix("/public/"), &[], Requirement::Anonymous),
            rule(PathMatch::prefix("/admin"), &[], user(&["ADMIN"])),
            rule(PathMatch::prefix("/videos"), &["GET"], Requirement::Optional),
            rule(PathMatch::prefix("/videos"), &[], user(&[])),
        ])
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
            ("GET", "/", Level::User),
            ("GET", "*", Level::User),
            ("GET", "", Level::User),
        ] {
            let demand = rules.demand(method.as_bytes(), target.as_bytes(), false);
            assert_eq!(demand.level, level, "{method} {target}");
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
            let demand = rules.demand(b"GET", target.as_bytes(), false);
            assert_eq!(demand.level, Level::User, "{target}");
            assert_eq!(rules.admit(&demand, &[], &[]), Err(Lacking::Role), "{target}");
            assert_eq!(rules.admit(&demand, &["ADMIN".to_owned()], &[]), Ok(()), "{target}");
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
        ] {
            let demand = rules.demand(b"GET", target.as_bytes(), false);
            assert_eq!(demand.level, Level::Anonymous, "{target}");
        }
    }

    #[test]
    fn a_path_with_too_many_readings_is_nobodys() {
        let rules = rules();
        for target in ["/%61".repeat(5_000), "/%61dmin;b%2fx".repeat(700)] {
            let demand = rules.demand(b"GET", target.as_bytes(), false);
            assert!(demand.level >= Level::User, "{}", target.len());
        }
        let long = "/%61".repeat(5_000);
        assert_eq!(rules.demand(b"GET", long.as_bytes(), false).level, Level::Nobody);
        let plain = "/public/".to_owned() + &"a".repeat(50_000);
        assert_eq!(rules.demand(b"GET", plain.as_bytes(), false).level, Level::Anonymous);
    }

    #[test]
    fn paths_of_any_bytes_have_readings() {
        for target in [&b"\xff\xfe"[..], b"%", b"%f", b"%zz", b"/%00", b"\\", b"/..", b"../.."] {
            assert!(!readings(target).unwrap().is_empty());
        }
        assert!(readings(b"/a/..").unwrap().contains("/"));
    }
}
