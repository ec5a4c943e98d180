//! `cargo demo`: a gateway with everything around it, on this machine.
//!
//! Starts an issuer, a users service (`SQLite`), an upstream, and a real Envoy with `envoy/gateway.yaml` and
//! the module built from this workspace, each on a free port. Then it sends what clients and attackers send,
//! and shows what each got and what the upstream saw. Every cell is observed, and checked: where one is not as
//! it should be, the demo names it and exits with status 1.
//!
//! It stays up for requests of your own until Ctrl-C, which ends everything. `cargo demo --once` ends after the
//! table, and so does a run in CI (`CI` is set, and stdin is no terminal).
#![allow(clippy::indexing_slicing, reason = "claims are JSON, and a demo may end with a panic")]

use std::fmt::Display;
use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::Duration;

use harness::client::Response;
use harness::idp::{Idp, Key, now, seed_claims};
use harness::server::Seen;
use harness::testbed::Testbed;

fn main() -> ExitCode {
    // The alias ends with a `--`; another one does no harm.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--").collect();
    let in_ci = std::env::var_os("CI").is_some() && !stdin().is_terminal();
    let once = match arguments.as_slice() {
        [] => in_ci,
        [flag] if flag == "--once" => true,
        _ => {
            eprintln!("usage: cargo demo [--once]");
            return ExitCode::from(2);
        }
    };

    eprintln!("building the module ...");
    harness::module::build_visibly();
    eprintln!("starting the issuer, the users service, the upstream and Envoy ...");
    let bed = Testbed::gateway().start();
    let tokens = Tokens::issue(&bed.idp);
    let wrong = scenario(&bed, &tokens);
    bed.no_traps();
    if !wrong.is_empty() {
        eprintln!("{}", wrong.join("\n"));
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

/// The context headers of `envoy/gateway.yaml`, the users that the users service starts with, and the context
/// of each.
const CONTEXT: [&str; 4] = ["x-user-id", "x-user-clerk-id", "x-user-role", "x-user-channel-id"];
const USER: [&str; 4] = ["u-1001", "user_2abc", "USER", "ch-2001"];
const ADMIN: [&str; 4] = ["u-1002", "user_2adm", "ADMIN", NONE];
const NOBODY: [&str; 4] = [NONE; 4];
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
        let of = |clerk_id| key.token(&seed_claims(clerk_id));
        let (user, admin) = (of(USER[1]), of(ADMIN[1]));
        let mut past = seed_claims(USER[1]);
        past["iat"] = (now() - 7200).into();
        past["exp"] = (now() - 3600).into();
        let same_kid = Key::es256(key.kid());
        Tokens {
            stranger: token("token of user_2xyz", of("user_2xyz")),
            expired: token("token of user_2abc, expired", key.token(&past)),
            other_key: token("token signed by another key", same_kid.token(&seed_claims(USER[1]))),
            altered: token("token altered to user_2adm", altered(&user, &admin)),
            user: token("token of user_2abc", user),
            admin: token("token of user_2adm", admin),
        }
    }
}

/// `token` with the claims of `other`, under the signature that it had.
fn altered(token: &str, other: &str) -> String {
    let claims = |token: &str| token.split('.').nth(1).unwrap_or_default().to_owned();
    token.replace(&claims(token), &claims(other))
}

/// Sends every request of the table, prints it, and returns what was not as expected.
fn scenario(bed: &Testbed, tokens: &Tokens) -> Vec<String> {
    let mut table = Table::begin(bed);
    let (read, write) = (["GET", "/api/videos/1"], ["POST", "/api/videos"]);
    let Tokens { user, admin, .. } = tokens;
    table.row(read, Some(user), &[], &passed(USER, 1));
    table.row(read, Some(user), &FORGED, &passed(USER, 0));
    table.row(read, None, &FORGED, &passed(NOBODY, 0));
    table.row(write, None, &[], &denied("401 token_missing", 0));
    for (token, answer, lookups) in [
        (&tokens.expired, "401 token_expired", 0),
        (&tokens.other_key, "401 signature_invalid", 0),
        (&tokens.altered, "401 signature_invalid", 0),
        (&tokens.stranger, "403 user_unknown", 1),
    ] {
        table.row(write, Some(token), &[], &denied(answer, lookups));
    }

    bed.users.shut();
    event("the users service goes down: who is known is served");
    table.row(read, Some(user), &[], &passed(USER, 0));
    let unavailable = denied("503 user_lookup_unavailable", 0);
    let answer = table.row(read, Some(admin), &[], &unavailable);

    bed.users.reopen();
    event("the users service is back, and the client comes back after retry-after");
    sleep(Duration::from_secs(retry_after(&answer).unwrap_or_default()));
    table.row(read, Some(admin), &[], &passed(ADMIN, 1));
    table.row(write, Some(admin), &[], &passed(ADMIN, 0));
    table.end()
}

/// Three cells: what the client got, what the upstream saw, how often the users service was asked.
type Outcome = [Cell; 3];

/// A cell's lines.
type Cell = Vec<(Style, String)>;

fn passed(context: [&str; 4], lookups: usize) -> Outcome {
    let context = CONTEXT.into_iter().zip(context.map(str::to_owned));
    outcome("200", None, Some(context.collect()), lookups)
}

fn denied(answer: &str, lookups: usize) -> Outcome {
    outcome(answer, answer.starts_with("503").then_some(1), None, lookups)
}

/// What came of a request, to which `response` is the answer.
fn observed(bed: &Testbed, response: &Response, lookups: usize) -> Outcome {
    let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap_or_default();
    // The upstream's answer is JSON, too, but has no `code`.
    let answer = match body["code"].as_str() {
        Some(code) => format!("{} {code}", response.status),
        None => response.status.to_string(),
    };
    let seen = bed.upstream.take();
    outcome(&answer, retry_after(response), seen.last().map(context), lookups)
}

fn outcome(
    answer: &str,
    retry_after: Option<u64>,
    context: Option<Vec<(&str, String)>>,
    lookups: usize,
) -> Outcome {
    let style = if answer.starts_with('2') { GOOD } else { ODD };
    let mut got = vec![(style, answer.to_owned())];
    got.extend(retry_after.map(|seconds| (PLAIN, format!("retry-after: {seconds}"))));
    let saw = match context {
        None => vec![(FAINT, format!("{NONE} (not reached)"))],
        Some(headers) => headers.into_iter().map(header).collect(),
    };
    [got, saw, vec![(PLAIN, format!("{lookups:>7}"))]]
}

fn header((name, value): (&str, String)) -> (Style, String) {
    let style = if value == NONE { FAINT } else { PLAIN };
    (style, format!("{name}: {value}"))
}

fn retry_after(response: &Response) -> Option<u64> {
    str::from_utf8(response.header("retry-after")?).ok()?.parse().ok()
}

/// The context headers, with all values of each, and then whatever else might pass for one.
fn context(seen: &Seen) -> Vec<(&str, String)> {
    let text = |values: Vec<&[u8]>| String::from_utf8_lossy(&values.join(&b", "[..])).into_owned();
    let named = CONTEXT.map(|name| match seen.headers_named(name) {
        values if values.is_empty() => (name, NONE.to_owned()),
        values => (name, text(values)),
    });
    let others = seen.headers.iter().filter(|(name, _)| {
        name.replace('_', "-").starts_with("x-user-") && !CONTEXT.contains(&name.as_str())
    });
    let others = others.map(|(name, value)| (name.as_str(), text(vec![value])));
    named.into_iter().chain(others).collect()
}

/// With two spaces between the columns, 100 in all.
const WIDTHS: [usize; 5] = [2, 29, 27, 27, 7];
const TITLES: [&str; 5] = ["", "the client sent", "the client got", "the upstream saw", "lookups"];

struct Table<'a> {
    bed: &'a Testbed,
    rows: usize,
    wrong: Vec<String>,
}

impl<'a> Table<'a> {
    fn begin(bed: &'a Testbed) -> Table<'a> {
        println!();
        print_row(&TITLES.map(|title| vec![(STRONG, title.to_owned())]));
        Table { bed, rows: 0, wrong: Vec::new() }
    }

    /// Sends a request, prints and checks what came of it.
    fn row(
        &mut self,
        [method, path]: [&str; 2],
        token: Option<&Token>,
        forged: &[(&str, &str)],
        expected: &Outcome,
    ) -> Response {
        let kind = token.map_or("no token", |token| token.kind);
        let mut sent = vec![(STRONG, format!("{method} {path}")), (PLAIN, kind.to_owned())];
        let mut request = self.bed.get(path).method(method);
        if let Some(token) = token {
            request = request.bearer(&token.text);
        }
        for (name, value) in forged {
            request = request.header(name, value);
            sent.push((ODD, format!("forged {name}: {value}")));
        }

        let lookups = self.bed.users.requests();
        let response = request.send();
        let lookups = self.bed.users.requests() - lookups;
        let outcome = observed(self.bed, &response, lookups);
        self.rows += 1;
        self.check(&outcome, expected);
        let [got, saw, lookups] = outcome;
        let number = vec![(FAINT, format!("{:>2}", self.rows))];
        print_row(&[number, sent, got, saw, lookups]);
        response
    }

    fn check(&mut self, outcome: &Outcome, expected: &Outcome) {
        let text =
            |cell: &Cell| cell.iter().map(|(_, line)| line.trim()).collect::<Vec<_>>().join(", ");
        for (title, (seen, expected)) in TITLES[2..].iter().zip(outcome.iter().zip(expected)) {
            if seen != expected {
                let (row, seen, expected) = (self.rows, text(seen), text(expected));
                self.wrong
                    .push(format!("row {row}, {title}: `{seen}`\n{:9}expected: `{expected}`", ""));
            }
        }
    }

    fn end(self) -> Vec<String> {
        let (rows, lookups, keys) = (self.rows, self.bed.users.requests(), self.bed.idp.requests());
        println!(
            "{rows} requests; {lookups} lookups of users, {keys} of the issuer's keys (each thread of Envoy has its own)."
        );
        match self.wrong.len() {
            0 => println!("{}", GOOD.paint("Every row is as expected.")),
            count => println!("{}", BAD.paint(format!("{count} cells are not as expected."))),
        }
        self.wrong
    }
}

/// Prints a row and a line below it. What is too long for its column is broken.
fn print_row(cells: &[Cell; 5]) {
    let columns = cells.each_ref().map(|cell| cell.iter());
    let columns = columns.into_iter().zip(WIDTHS).map(|(cell, width)| {
        let broken = cell.map(|(style, text)| (style, chunks(text, width)));
        broken.flat_map(|(style, pieces)| pieces.into_iter().map(|piece| (*style, piece))).collect()
    });
    let columns: Vec<Cell> = columns.collect();
    for at in 0..columns.iter().map(Vec::len).max().unwrap_or_default() {
        let parts = columns.iter().zip(WIDTHS).map(|(cell, width)| {
            let (style, text) = cell.get(at).map_or((PLAIN, ""), |(style, text)| (*style, text));
            style.paint(format!("{text:<width$}"))
        });
        println!("{}", parts.collect::<Vec<_>>().join("  ").trim_end());
    }
    println!("{}", FAINT.paint("-".repeat(100)));
}

fn event(what: &str) {
    println!("    {}\n{}", STRONG.paint(what), FAINT.paint("-".repeat(100)));
}

fn chunks(text: &str, width: usize) -> Vec<String> {
    let characters: Vec<_> = text.chars().collect();
    characters.chunks(width).map(|chunk| chunk.iter().collect()).collect()
}

const INVITATION: &str = "
# It stays up for requests of yours. The tokens are a throw-away issuer's, which ends with this run;
# they last an hour. Where a request gets through, the answer is what the upstream saw of it.";

/// Says how to send more. All of it can be pasted into a shell.
fn invite(bed: &Testbed, tokens: &Tokens) {
    let (gateway, admin) = (bed.envoy.address(), bed.envoy.admin_address());
    let curl = |what: &str, request: &str, token: Option<&Token>| {
        print!("\n{}\ncurl -iw '\\n' http://{gateway}{request}", STRONG.paint(what));
        if let Some(token) = token {
            // Within double quotes, a shell drops a backslash and the end of the line after it.
            let lines = chunks(&token.text, 98).join("\\\n");
            print!(" -H \"Authorization: Bearer \\\n{lines}\"");
        }
        println!();
    };
    println!("{INVITATION}");
    let forged = "/api/videos/1 -H x-user-role:ADMIN";
    curl("# The user, who would be an admin:", forged, Some(&tokens.user));
    curl("# The admin:", "/api/videos -X POST", Some(&tokens.admin));
    curl("# The user, an hour late:", "/api/videos/1", Some(&tokens.expired));
    curl("# Nobody, where a user is required:", "/api/videos -X POST", None);
    println!("\n# Gateway:       http://{gateway}");
    println!("# Envoy's admin: http://{admin}, with statistics at http://{admin}/stats");
    println!("# Ctrl-C ends everything.");
}

/// A terminal's code for it.
#[derive(Clone, Copy, PartialEq)]
struct Style(&'static str);

const PLAIN: Style = Style("0");
const STRONG: Style = Style("1");
const FAINT: Style = Style("2");
const GOOD: Style = Style("32");
/// Refused, or forged.
const ODD: Style = Style("33");
const BAD: Style = Style("31");

impl Style {
    /// In colour on a terminal, unless <https://no-color.org> is asked for.
    fn paint(self, text: impl Display) -> String {
        static COLOURS: LazyLock<bool> = LazyLock::new(|| {
            let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            stdout().is_terminal() && !declined
        });
        if *COLOURS { format!("\x1b[{}m{text}\x1b[0m", self.0) } else { text.to_string() }
    }
}
