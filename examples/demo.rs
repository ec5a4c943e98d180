//! `cargo demo`: a gateway with everything around it, on this machine.
//!
//! Starts an issuer, a users service (SQLite), an upstream and a real Envoy with the module that this
//! workspace builds and `envoy/gateway.yaml`, each on a free port. Then it sends what clients and attackers
//! send, and shows what the client got and what the upstream saw. Every cell is observed and checked: where
//! one is not as it should be, the demo says so and exits with status 1.
//!
//! It stays up for your own requests until Ctrl-C, which ends everything. `cargo demo -- --once` ends after
//! the table; so does a run without a terminal where `CI` is set.

use std::env;
use std::fmt::Display;
use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::Duration;

use harness::client::{Request, Response};
use harness::idp::{Idp, Key, now, seed_claims};
use harness::module;
use harness::server::Seen;
use harness::testbed::Testbed;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let in_ci = env::var_os("CI").is_some() && !stdin().is_terminal();
    let once = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => in_ci,
        ["--once"] => true,
        _ => {
            eprintln!("usage: cargo demo [-- --once]");
            return ExitCode::from(2);
        }
    };

    eprintln!("Building the module and starting Envoy ...");
    module::build_visibly();
    let bed = Testbed::gateway().start();
    let tokens = Tokens::issue(&bed.idp);

    let differences = scenario(&bed, &tokens);
    bed.no_traps();
    if !differences.is_empty() {
        for difference in differences {
            println!("{}", Style::Bad.paint(difference));
        }
        return ExitCode::FAILURE;
    }
    if once {
        return ExitCode::SUCCESS;
    }
    print_invitation(&bed, &tokens);
    while bed.envoy.exit_status().is_none() {
        sleep(Duration::from_secs(1));
    }
    eprintln!("Envoy ended by itself");
    ExitCode::FAILURE
}

/// The users that the harness's users service has, and what the upstream is to see of each.
const USER: &str = "user_2abc";
const USER_CONTEXT: [&str; 4] = ["u-1001", USER, "USER", "ch-2001"];
const ADMIN: &str = "user_2adm";
const ADMIN_CONTEXT: [&str; 4] = ["u-1002", ADMIN, "ADMIN", NONE];
/// A user that it does not have.
const STRANGER: &str = "user_2xyz";

/// What a client would send to be somebody else. Many frameworks take `_` for `-`.
const FORGED: &[(&str, &str)] = &[
    ("X-User-Id", "u-1002"),
    ("x_user_id", "u-1002"),
    ("x-user-role", "ADMIN"),
];

/// The headers of `envoy/gateway.yaml`, in the order of the arrays above.
const CONTEXT: [&str; 4] = [
    "x-user-id",
    "x-user-clerk-id",
    "x-user-role",
    "x-user-channel-id",
];

/// Stands where there is nothing.
const NONE: &str = "-";

struct Tokens {
    user: String,
    admin: String,
    stranger: String,
    expired: String,
    other_key: String,
    altered: String,
}

impl Tokens {
    /// ES256 throughout: half the length of RS256, which is good for pasting.
    fn issue(idp: &Idp) -> Tokens {
        let key = idp.key("es-1");
        let of = |clerk_id| key.token(&seed_claims(clerk_id));
        let mut past = seed_claims(USER);
        past["iat"] = (now() - 7200).into();
        past["exp"] = (now() - 3600).into();
        let (user, admin) = (of(USER), of(ADMIN));
        Tokens {
            stranger: of(STRANGER),
            expired: key.token(&past),
            other_key: Key::es256(key.kid()).token(&seed_claims(USER)),
            altered: with_claims_of(&user, &admin),
            user,
            admin,
        }
    }
}

/// `token`, saying what `other` says, under the signature it had.
fn with_claims_of(token: &str, other: &str) -> String {
    token
        .split('.')
        .zip(other.split('.'))
        .enumerate()
        .map(|(part, (own, others))| if part == 1 { others } else { own })
        .collect::<Vec<_>>()
        .join(".")
}

/// Sends every row's request and prints the table. Returns what was not as expected.
fn scenario(bed: &Testbed, tokens: &Tokens) -> Vec<String> {
    let mut table = Table::begin(bed);
    let get = || Row::new("GET", "/api/videos/1");
    let post = || Row::new("POST", "/api/videos");
    let valid = || get().token("valid, of user_2abc", &tokens.user);
    let admin = || get().token("valid, of user_2adm", &tokens.admin);

    table.row("1", valid(), passes(USER_CONTEXT).lookups(1));
    table.row("2", valid().forged(FORGED), passes(USER_CONTEXT));
    table.row("3", get().forged(FORGED), passes([NONE; 4]));
    table.row("4", post(), denied(401, "token_missing"));
    let expired = post().token("expired, of user_2abc", &tokens.expired);
    table.row("5", expired, denied(401, "token_expired"));
    let other_key = post().token("signed with another key", &tokens.other_key);
    table.row("6a", other_key, denied(401, "signature_invalid"));
    let altered = post().token("altered to say user_2adm", &tokens.altered);
    table.row("6b", altered, denied(401, "signature_invalid"));
    let stranger = post().token("valid, of user_2xyz", &tokens.stranger);
    table.row("7", stranger, denied(403, "user_unknown").lookups(1));

    bed.users.shut();
    let down = |row: Row| row.note("users service down");
    let unavailable = denied(503, "user_lookup_unavailable");
    let retry_after = table.row("8a", down(admin()), unavailable.retry_after());
    table.row("8b", down(valid()), passes(USER_CONTEXT));

    bed.users.reopen();
    sleep(Duration::from_secs(retry_after.unwrap_or_default()));
    let back = admin().note("users service back");
    table.row("9a", back, passes(ADMIN_CONTEXT).lookups(1));
    table.row("9b", admin(), passes(ADMIN_CONTEXT));
    table.end()
}

/// What the client sends.
struct Row<'a> {
    note: Option<&'static str>,
    method: &'static str,
    path: &'static str,
    token: Option<(&'static str, &'a str)>,
    forged: &'static [(&'static str, &'static str)],
}

impl<'a> Row<'a> {
    fn new(method: &'static str, path: &'static str) -> Row<'a> {
        Row {
            note: None,
            method,
            path,
            token: None,
            forged: &[],
        }
    }

    fn token(mut self, kind: &'static str, token: &'a str) -> Row<'a> {
        self.token = Some((kind, token));
        self
    }

    fn forged(mut self, headers: &'static [(&'static str, &'static str)]) -> Row<'a> {
        self.forged = headers;
        self
    }

    fn note(mut self, note: &'static str) -> Row<'a> {
        self.note = Some(note);
        self
    }

    fn request(&self, bed: &Testbed) -> Request {
        let request = bed.get(self.path).method(self.method);
        let request = self.forged.iter().fold(request, |request, (name, value)| {
            request.header(name, value)
        });
        match self.token {
            Some((_, token)) => request.bearer(token),
            None => request,
        }
    }

    fn cell(&self) -> Cell {
        let kind = self.token.map_or("none", |(kind, _)| kind);
        let note = self.note.map(|note| (Style::Note, format!("({note})")));
        let mut cell: Cell = note.into_iter().collect();
        cell.push((Style::Strong, format!("{} {}", self.method, self.path)));
        cell.push((Style::Plain, format!("token: {kind}")));
        for (name, value) in self.forged {
            cell.push((Style::Bad, format!("forged {name}: {value}")));
        }
        cell
    }
}

/// What came of a request, or should have.
struct Outcome {
    status: u16,
    code: Option<String>,
    /// In seconds.
    retry_after: Option<u64>,
    /// The context that the upstream saw, a line a header; `None` where the request did not get there.
    context: Option<Vec<String>>,
    /// Requests that the users service got.
    lookups: usize,
}

fn passes(values: [&str; 4]) -> Outcome {
    let line = |(name, value)| format!("{name}: {value}");
    Outcome {
        status: 200,
        code: None,
        retry_after: None,
        context: Some(CONTEXT.into_iter().zip(values).map(line).collect()),
        lookups: 0,
    }
}

fn denied(status: u16, code: &str) -> Outcome {
    Outcome {
        status,
        code: Some(code.into()),
        retry_after: None,
        context: None,
        lookups: 0,
    }
}

impl Outcome {
    fn lookups(mut self, lookups: usize) -> Outcome {
        self.lookups = lookups;
        self
    }

    /// Any number of seconds will do.
    fn retry_after(mut self) -> Outcome {
        self.retry_after = Some(1);
        self
    }

    fn observe(bed: &Testbed, request: &Request) -> Outcome {
        let lookups_before = bed.users.requests();
        let response = request.send();
        let retry_after = response.header("retry-after").map(<[u8]>::to_vec);
        Outcome {
            status: response.status,
            code: code(&response),
            retry_after: retry_after.and_then(|text| String::from_utf8(text).ok()?.parse().ok()),
            context: bed.upstream.take().last().map(context),
            lookups: bed.users.requests() - lookups_before,
        }
    }

    fn answer_cell(&self) -> Cell {
        let style = if self.status == 200 {
            Style::Good
        } else {
            Style::Note
        };
        let mut cell = vec![(style, self.status.to_string())];
        cell.extend(self.code.clone().map(|code| (style, code)));
        let retry_after = self.retry_after.map(|secs| format!("retry-after: {secs}"));
        cell.extend(retry_after.map(|line| (Style::Plain, line)));
        cell
    }

    fn upstream_cell(&self) -> Cell {
        match &self.context {
            None => vec![(Style::Faint, format!("{NONE} (not reached)"))],
            Some(lines) => lines
                .iter()
                .map(|line| (faint_if_none(line), line.clone()))
                .collect(),
        }
    }

    /// What is not as `expected`.
    fn differences(&self, expected: &Outcome) -> Vec<String> {
        let has = |seconds: Option<u64>| seconds.map(|_| "there");
        [
            differs("the status", &self.status, &expected.status),
            differs("the code", &self.code, &expected.code),
            differs(
                "Retry-After",
                &has(self.retry_after),
                &has(expected.retry_after),
            ),
            differs(
                "the context at the upstream",
                &self.context,
                &expected.context,
            ),
            differs("the number of lookups", &self.lookups, &expected.lookups),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn differs<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, expected: &T) -> Option<String> {
    (seen != expected).then(|| format!("{what} is {seen:?}, and should be {expected:?}"))
}

/// The `code` of a refusal. The upstream answers with JSON, too, but has none in it.
fn code(response: &Response) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(&response.body).ok()?;
    Some(body.get("code")?.as_str()?.to_owned())
}

/// The four headers as the upstream saw them, then whatever else might pass for one.
fn context(seen: &Seen) -> Vec<String> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let mut lines = Vec::new();
    for name in CONTEXT {
        let values: Vec<_> = seen.headers_named(name).into_iter().map(text).collect();
        let value = if values.is_empty() {
            NONE.to_owned()
        } else {
            values.join(", ")
        };
        lines.push(format!("{name}: {value}"));
    }
    let alike = |name: &str| name.replace('_', "-").starts_with("x-user-");
    let mut others = seen.headers.clone();
    others.retain(|(name, _)| alike(name) && !CONTEXT.contains(&name.as_str()));
    lines.extend(
        others
            .iter()
            .map(|(name, value)| format!("{name}: {}", text(value))),
    );
    lines
}

/// Lines of a table's cell.
type Cell = Vec<(Style, String)>;

/// 100 columns with the spaces between.
const WIDTHS: [usize; 5] = [3, 32, 23, 27, 7];

struct Table<'a> {
    bed: &'a Testbed,
    rows: usize,
    differences: Vec<String>,
}

impl<'a> Table<'a> {
    fn begin(bed: &'a Testbed) -> Table<'a> {
        let titles = [
            "",
            "the client sent",
            "and got",
            "the upstream saw",
            "lookups",
        ];
        println!();
        print_cells(titles.map(|title| vec![(Style::Strong, title.into())]));
        print_rule();
        Table {
            bed,
            rows: 0,
            differences: Vec::new(),
        }
    }

    /// Sends the request and prints what came of it. Returns after how many seconds to come again.
    fn row(&mut self, name: &str, row: Row<'_>, expected: Outcome) -> Option<u64> {
        let outcome = Outcome::observe(self.bed, &row.request(self.bed));
        let differences = outcome.differences(&expected);
        print_cells([
            vec![(Style::Faint, name.into())],
            row.cell(),
            outcome.answer_cell(),
            outcome.upstream_cell(),
            vec![(Style::Plain, format!("{:>7}", outcome.lookups))],
        ]);
        print_rule();
        self.rows += 1;
        let named = differences
            .iter()
            .map(|difference| format!("row {name}: {difference}"));
        self.differences.extend(named);
        outcome.retry_after
    }

    fn end(self) -> Vec<String> {
        let Table {
            bed,
            rows,
            differences,
        } = self;
        let (lookups, fetches) = (bed.users.requests(), bed.idp.requests());
        println!("{rows} requests, {lookups} user lookups, {fetches} fetch of the issuer's keys.");
        differences
    }
}
