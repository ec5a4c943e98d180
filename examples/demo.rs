//! `cargo demo`: a gateway with everything around it, on this machine.
//!
//! Starts an issuer, a users service (SQLite), an upstream, and a real Envoy with `envoy/gateway.yaml` and the
//! module built from this workspace, each on a free port. Then it sends what clients and attackers send, and
//! shows what each got and what the upstream saw. Every cell is observed, and checked: where one is not as it
//! should be, the demo names it and exits with status 1.
//!
//! It stays up for requests of your own until Ctrl-C, which ends everything. `cargo demo -- --once` ends after
//! the table, and so does a run in CI (`CI` is set, and stdin is no terminal).

use std::fmt::{Debug, Display};
use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::Duration;

use harness::client::{Request, Response};
use harness::idp::{Idp, Key, now, seed_claims};
use harness::server::Seen;
use harness::testbed::Testbed;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let in_ci = std::env::var_os("CI").is_some() && !stdin().is_terminal();
    let once = match arguments.as_slice() {
        [] => in_ci,
        [flag] if flag == "--once" => true,
        _ => {
            eprintln!("usage: cargo demo [-- --once]");
            return ExitCode::from(2);
        }
    };

    eprintln!("building the module ...");
    harness::module::build_visibly();
    eprintln!("starting the issuer, the users service, the upstream and Envoy ...");
    let bed = Testbed::gateway().start();
    let tokens = Tokens::issue(&bed.idp);
    let differences = scenario(&bed, &tokens);
    bed.no_traps();
    if !differences.is_empty() {
        eprintln!("{}", Style::Bad.paint(differences.join("\n")));
        return ExitCode::FAILURE;
    }
    if once {
        return ExitCode::SUCCESS;
    }

    invite(&bed, &tokens);
    while bed.envoy.exit_status().is_none() {
        sleep(Duration::from_secs(1));
    }
    eprintln!("Envoy ended by itself");
    ExitCode::FAILURE
}

/// The context headers of `envoy/gateway.yaml`.
const CONTEXT: [&str; 4] = ["x-user-id", "x-user-clerk-id", "x-user-role", "x-user-channel-id"];
/// The users that the users service starts with, and their context.
const USER: &str = "user_2abc";
const USER_CONTEXT: [&str; 4] = ["u-1001", USER, "USER", "ch-2001"];
const ADMIN: &str = "user_2adm";
const ADMIN_CONTEXT: [&str; 4] = ["u-1002", ADMIN, "ADMIN", NONE];
/// Stands where there is nothing.
const NONE: &str = "-";

/// What a client sends to pass for the admin. Many frameworks read `_` as `-`.
const FORGED: [(&str, &str); 3] =
    [("X-User-Id", "u-1002"), ("x_user_id", "u-1002"), ("x-user-role", "ADMIN")];

struct Token {
    kind: &'static str,
    text: String,
}

struct Tokens {
    user: Token,
    admin: Token,
    stranger: Token,
    expired: Token,
    other_key: Token,
    altered: Token,
}

impl Tokens {
    /// ES256, whose tokens are half as long as those of RS256: they are to be pasted.
    fn issue(idp: &Idp) -> Tokens {
        let token = |kind, text| Token { kind, text };
        let key = idp.key("es-1");
        let [user, admin, stranger] =
            [USER, ADMIN, "user_2xyz"].map(|id| key.token(&seed_claims(id)));
        let mut past = seed_claims(USER);
        past["iat"] = (now() - 7200).into();
        past["exp"] = (now() - 3600).into();
        let namesake = Key::es256(key.kid());
        Tokens {
            expired: token("expired, user_2abc", key.token(&past)),
            other_key: token("signed by another key", namesake.token(&seed_claims(USER))),
            altered: token("altered, claims user_2adm", altered(&user, &admin)),
            user: token("valid, user_2abc", user),
            admin: token("valid, user_2adm", admin),
            stranger: token("valid, user_2xyz", stranger),
        }
    }
}

/// `token` with the claims of `other`, under the signature it had.
fn altered(token: &str, other: &str) -> String {
    let parts = token.split('.').zip(other.split('.')).enumerate();
    let chosen = parts.map(|(at, (own, others))| if at == 1 { others } else { own });
    chosen.collect::<Vec<_>>().join(".")
}

/// Sends every request of the table, prints it, and returns what was not as expected.
fn scenario(bed: &Testbed, tokens: &Tokens) -> Vec<String> {
    let mut table = Table::begin(bed);
    let (read, write) = (["GET", "/api/videos/1"], ["POST", "/api/videos"]);
    let Tokens { user, admin, .. } = tokens;
    table.row(read, Some(user), &[], passed(USER_CONTEXT).lookups(1));
    table.row(read, Some(user), &FORGED, passed(USER_CONTEXT));
    table.row(read, None, &FORGED, passed([NONE; 4]));
    table.row(write, None, &[], denied(401, "token_missing"));
    for (token, code) in [
        (&tokens.expired, "token_expired"),
        (&tokens.other_key, "signature_invalid"),
        (&tokens.altered, "signature_invalid"),
    ] {
        table.row(write, Some(token), &[], denied(401, code));
    }
    let unknown = denied(403, "user_unknown").lookups(1);
    table.row(write, Some(&tokens.stranger), &[], unknown);

    bed.users.shut();
    table.event("the users service goes down");
    let unavailable = denied(503, "user_lookup_unavailable");
    let retry_after = table.row(read, Some(admin), &[], unavailable);
    table.row(read, Some(user), &[], passed(USER_CONTEXT));

    bed.users.reopen();
    sleep(Duration::from_secs(retry_after.unwrap_or_default()));
    table.event("the users service is back, and the time of retry-after is over");
    table.row(read, Some(admin), &[], passed(ADMIN_CONTEXT).lookups(1));
    table.row(write, Some(admin), &[], passed(ADMIN_CONTEXT));
    table.end()
}

/// What came of a request, or should have.
struct Outcome {
    status: u16,
    code: Option<String>,
    /// In seconds. Expected ones stand for any number.
    retry_after: Option<u64>,
    /// The context that the upstream saw, a line for each header; `None` if the request did not get there.
    context: Option<Vec<String>>,
    /// How many requests the users service got.
    lookups: usize,
}

fn passed(values: [&str; 4]) -> Outcome {
    let lines = CONTEXT.into_iter().zip(values);
    Outcome {
        status: 200,
        code: None,
        retry_after: None,
        context: Some(lines.map(|(name, value)| line(name, value)).collect()),
        lookups: 0,
    }
}

fn denied(status: u16, code: &str) -> Outcome {
    Outcome {
        status,
        code: Some(code.into()),
        retry_after: (status == 503).then_some(1),
        context: None,
        lookups: 0,
    }
}

impl Outcome {
    fn lookups(self, lookups: usize) -> Outcome {
        Outcome { lookups, ..self }
    }

    fn observe(bed: &Testbed, request: &Request) -> Outcome {
        let lookups_before = bed.users.requests();
        let response = request.send();
        let retry_after = response.header("retry-after").map(String::from_utf8_lossy);
        Outcome {
            status: response.status,
            code: code(&response),
            retry_after: retry_after.and_then(|seconds| seconds.parse().ok()),
            context: bed.upstream.take().last().map(context),
            lookups: bed.users.requests() - lookups_before,
        }
    }

    fn differences(&self, expected: &Outcome) -> Vec<String> {
        let any = |seconds: Option<u64>| seconds.map(|_| "some");
        let (retry_after, expected_retry) = (any(self.retry_after), any(expected.retry_after));
        let all = [
            difference("status", &self.status, &expected.status),
            difference("code", &self.code, &expected.code),
            difference("retry-after", &retry_after, &expected_retry),
            difference("the upstream saw", &self.context, &expected.context),
            difference("lookups", &self.lookups, &expected.lookups),
        ];
        all.into_iter().flatten().collect()
    }

    fn answer_cell(&self) -> Cell {
        let style = if self.code.is_none() { Style::Good } else { Style::Odd };
        let mut cell = vec![(style, self.status.to_string())];
        cell.extend(self.code.iter().map(|code| (style, code.clone())));
        let retry_after = self.retry_after.map(|seconds| line("retry-after", seconds));
        cell.extend(retry_after.map(|line| (Style::Plain, line)));
        cell
    }

    fn upstream_cell(&self) -> Cell {
        let Some(lines) = &self.context else {
            return vec![(Style::Faint, format!("{NONE} (not reached)"))];
        };
        let style = |line: &str| if line.ends_with(": -") { Style::Faint } else { Style::Plain };
        lines.iter().map(|line| (style(line), line.clone())).collect()
    }
}

fn difference<T: PartialEq + Debug>(what: &str, seen: &T, expected: &T) -> Option<String> {
    (seen != expected).then(|| format!("{what}: {seen:?}, expected {expected:?}"))
}

/// The `code` of a refusal. The upstream's answer is JSON, too, but has none.
fn code(response: &Response) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(&response.body).ok()?;
    Some(body.get("code")?.as_str()?.into())
}

/// The context headers, all values of each, and then whatever else might pass for one.
fn context(seen: &Seen) -> Vec<String> {
    let text = |values: Vec<&[u8]>| String::from_utf8_lossy(&values.join(&b", "[..])).into_owned();
    let named = CONTEXT.map(|name| match text(seen.headers_named(name)) {
        value if value.is_empty() => line(name, NONE),
        value => line(name, value),
    });
    let alike = |name: &str| name.replace('_', "-").starts_with("x-user-");
    let others = seen.headers.iter().filter(|(name, _)| alike(name) && !CONTEXT.contains(&&**name));
    let others = others.map(|(name, value)| line(name, text(vec![value])));
    named.into_iter().chain(others).collect()
}

fn line(name: &str, value: impl Display) -> String {
    format!("{name}: {value}")
}

/// The lines of a cell.
type Cell = Vec<(Style, String)>;

/// With two spaces between the columns, 100 in all.
const WIDTHS: [usize; 5] = [2, 33, 23, 27, 7];

struct Table<'a> {
    bed: &'a Testbed,
    rows: usize,
    differences: Vec<String>,
}

impl<'a> Table<'a> {
    fn begin(bed: &'a Testbed) -> Table<'a> {
        let titles = ["", "the client sent", "and got", "the upstream saw", "lookups"];
        println!();
        print_row(titles.map(|title| vec![(Style::Strong, title.into())]));
        Table { bed, rows: 0, differences: Vec::new() }
    }

    /// Sends a request and prints the row. Returns the seconds of `Retry-After`.
    fn row(
        &mut self,
        [method, path]: [&str; 2],
        token: Option<&Token>,
        forged: &[(&str, &str)],
        expected: Outcome,
    ) -> Option<u64> {
        let mut request = self.bed.get(path).method(method);
        let kind = token.map_or("none", |token| token.kind);
        let mut sent =
            vec![(Style::Strong, format!("{method} {path}")), (Style::Plain, line("token", kind))];
        if let Some(token) = token {
            request = request.bearer(&token.text);
        }
        for (name, value) in forged {
            request = request.header(name, value);
            sent.push((Style::Odd, format!("forged {name}: {value}")));
        }
        let outcome = Outcome::observe(self.bed, &request);

        self.rows += 1;
        let row = self.rows;
        print_row([
            vec![(Style::Plain, format!("{row:>2}"))],
            sent,
            outcome.answer_cell(),
            outcome.upstream_cell(),
            vec![(Style::Plain, format!("{:>7}", outcome.lookups))],
        ]);
        let differences = outcome.differences(&expected);
        self.differences
            .extend(differences.into_iter().map(|it| format!("row {row} is wrong: {it}")));
        outcome.retry_after
    }

    fn event(&self, what: &str) {
        println!("{}", Style::Strong.paint(format!("--- {what}")));
    }

    fn end(self) -> Vec<String> {
        let (lookups, fetches) = (self.bed.users.requests(), self.bed.idp.requests());
        println!(
            "In all: {} requests, {lookups} lookups, {fetches} fetch(es) of the issuer's keys.",
            self.rows
        );
        self.differences
    }
}

/// Prints a row and a line below it.
fn print_row(cells: [Cell; 5]) {
    let cells = cells.into_iter().zip(WIDTHS);
    let columns: Vec<_> = cells.map(|(cell, width)| (wrapped(&cell, width), width)).collect();
    let height = columns.iter().map(|(cell, _)| cell.len()).max().unwrap_or_default();
    for at in 0..height {
        let parts = columns.iter().map(|(cell, width)| match cell.get(at) {
            Some((style, text)) => style.paint(format!("{text:<width$}")),
            None => " ".repeat(*width),
        });
        println!("{}", parts.collect::<Vec<_>>().join("  ").trim_end());
    }
    println!("{}", Style::Faint.paint(WIDTHS.map(|width| "-".repeat(width)).join("--")));
}

fn wrapped(cell: &Cell, width: usize) -> Cell {
    let lines = cell.iter().flat_map(|(style, text)| {
        let pieces = chunks(text, width);
        pieces.into_iter().map(|piece| (*style, piece))
    });
    lines.collect()
}

/// `text` in pieces of `width` characters.
fn chunks(text: &str, width: usize) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(width).map(|piece| piece.iter().collect()).collect()
}

/// Says what can be done with what runs. Every line can be pasted into a shell.
fn invite(bed: &Testbed, tokens: &Tokens) {
    let (gateway, admin) = (bed.envoy.address(), bed.envoy.admin_address());
    println!(
        "\n# It stays up for an hour's worth of tokens. They belong to this run's own issuer, so nothing"
    );
    println!(
        "# else accepts them. Where a request gets through, the answer shows all the upstream saw."
    );
    let curl = |what: &str, options: &str, path: &str, token: Option<&Token>| {
        println!("\n{}", Style::Strong.paint(format!("# {what}")));
        print!("curl -i {options}http://{gateway}{path}");
        match token {
            // Within double quotes, a shell drops a backslash and the end of the line.
            Some(token) => println!(
                " -H \"Authorization: Bearer \\\n{}\"",
                chunks(&token.text, 99).join("\\\n")
            ),
            None => println!(),
        }
    };
    curl(
        "The user, with a forged role:",
        "-H 'x-user-role: ADMIN' ",
        "/api/videos/1",
        Some(&tokens.user),
    );
    curl("The admin:", "-X POST ", "/api/videos", Some(&tokens.admin));
    curl(
        "The user, with a token that expired an hour ago:",
        "",
        "/api/videos/1",
        Some(&tokens.expired),
    );
    curl("Nobody, where a user is required:", "-X POST ", "/api/videos", None);
    println!("\n# Gateway:         http://{gateway}");
    println!("# Envoy's admin:   http://{admin}");
    println!("# Its statistics:  http://{admin}/stats");
    println!("# Ctrl-C ends everything.");
}

#[derive(Clone, Copy)]
enum Style {
    Plain,
    Strong,
    Faint,
    Good,
    /// Refused, or forged.
    Odd,
    Bad,
}

impl Style {
    /// In colour on a terminal, unless <https://no-color.org> is asked for.
    fn paint(self, text: impl Display) -> String {
        static COLOURS: LazyLock<bool> = LazyLock::new(|| {
            let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            stdout().is_terminal() && !declined
        });
        let code = match self {
            Style::Plain => 0,
            Style::Strong => 1,
            Style::Faint => 2,
            Style::Good => 32,
            Style::Odd => 33,
            Style::Bad => 31,
        };
        if *COLOURS && code != 0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
