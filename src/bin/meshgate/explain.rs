//! `meshgate explain`: what the filter would do with one request, step by step, and why.
//!
//! The answer is that of the filter's own [`Worker`](meshgate::worker::Worker), run on a clock that is set and
//! with its callouts answered from files ([`world`]). The steps retell its way by the functions that it takes
//! its decisions with ([`steps`]); where the two should ever differ, that is said.

pub mod remedy;
mod report;
mod show;
mod steps;
mod world;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use meshgate::boundary::peer::{Hop, SpiffeId};
use meshgate::config::names::BadName;
use meshgate::config::{Config, Mode, Places, TokenKind};
use meshgate::headers::Field;
use meshgate::time::{UnixTime, millis};
use meshgate::token::UnverifiedToken;

use crate::{document, say, usage};

/// Explain what the filter does with a request, and why. Makes no calls: what others would answer is read
/// from files, and what is missing is said.
#[derive(Args)]
pub struct Arguments {
    /// The config: bare, in an Envoy config or in a `WasmPlugin`, as YAML or JSON.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which config, where the file has several.
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// The user's token: a file that holds nothing else, `-` for stdin. Without, `MESHGATE_TOKEN` is looked at.
    /// There is no way to give it as an argument: those show in `ps` and in the shell's history.
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// The token of the calling service, for `mode: service`.
    #[arg(long, value_name = "FILE")]
    service_token: Option<PathBuf>,
    /// The `Txn-Token` that came along.
    #[arg(long, value_name = "FILE")]
    txn_token: Option<PathBuf>,
    /// A provider's JWKS. `PROVIDER=` may be left out where the config has one that fetches.
    #[arg(long, value_name = "[PROVIDER=]FILE")]
    jwks: Vec<String>,
    /// What the users service answers with status 200.
    #[arg(long, value_name = "FILE", conflicts_with = "user_status")]
    user: Option<PathBuf>,
    /// The status that the users service answers with, without a record.
    #[arg(long, value_name = "STATUS")]
    user_status: Option<u16>,
    /// What the issuer answers when it is asked about the token.
    #[arg(long, value_name = "FILE")]
    introspection: Option<PathBuf>,
    /// What the revocation feed answers.
    #[arg(long, value_name = "FILE")]
    feed: Option<PathBuf>,
    /// Whether the blacklist in Redis has one of the token's names.
    #[arg(long)]
    blacklist: Option<Blacklist>,
    /// What the token endpoint answers when it is asked for the service's own token (`mode: egress`).
    #[arg(long, value_name = "FILE")]
    token_endpoint: Option<PathBuf>,
    /// The request's method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// The request's path, as it is sent.
    #[arg(long, default_value = "/")]
    path: String,
    /// The request's host.
    #[arg(long, default_value = "explain.invalid")]
    host: String,
    /// A header of the request; may be repeated. `name: @FILE` reads the value from a file.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The identity in the caller's client certificate, for `mode: service`.
    #[arg(long, value_name = "SPIFFE ID", value_parser = spiffe_id)]
    peer: Option<SpiffeId>,
    /// The address and port that asks, for `mode: authz`.
    #[arg(long, value_name = "IP:PORT")]
    address: Option<std::net::SocketAddr>,
    /// The cluster that the request goes to, for `mode: egress`.
    #[arg(long)]
    cluster: Option<String>,
    /// When the request comes: RFC 3339 or seconds since 1970. Now, where this is left out.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// What the explanation is written as.
    #[arg(long, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Blacklist {
    Hit,
    Miss,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// The request, and what the world would answer.
pub struct Question {
    head: Vec<Field>,
    hop: Hop,
    at: UnixTime,
    jwks: BTreeMap<String, Vec<u8>>,
    user: Option<(u16, Vec<u8>)>,
    introspection: Option<Vec<u8>>,
    feed: Option<Vec<u8>>,
    is_listed: Option<bool>,
    token_endpoint: Option<Vec<u8>>,
    /// Texts that never appear in what is written.
    secrets: Vec<String>,
    /// Variables of the config that are not set here.
    missing: BTreeSet<String>,
}

/// Explains. The answer is 0 where the request goes on, 1 where it is refused.
pub fn run(arguments: &Arguments) -> ExitCode {
    let (config, question) = match read(arguments) {
        Ok(read) => read,
        Err(error) => return usage(&error),
    };
    let run = world::run(config, &question);
    let told = steps::tell(&run, &question);
    let text = match arguments.format {
        Format::Text => report::text(&run, &told, &question),
        Format::Json => report::json(&run, &told, &question),
    };
    say(&without_secrets(text, &question.secrets));
    ExitCode::from(u8::from(run.denial().is_some()))
}

/// The last line of defence: nothing is meant to write a token, and if something did, it stands here no more.
fn without_secrets(text: String, secrets: &[String]) -> String {
    let parts =
        secrets.iter().flat_map(|secret| std::iter::once(secret.as_str()).chain(secret.split('.')));
    // What is shorter could be a word of the explanation.
    parts.filter(|part| part.len() >= 12).fold(text, |text, part| text.replace(part, "(not shown)"))
}

fn read(arguments: &Arguments) -> Result<(Config, Question), String> {
    for text in arguments.header.iter().chain([&arguments.path, &arguments.host]) {
        if document::looks_like_token(text) {
            return Err("there is a token among the arguments, where `ps` shows it: give it by --token FILE, or a header as `name: @FILE`".to_owned());
        }
    }
    let (config, missing) = config(arguments)?;
    let text = |file: &Option<PathBuf>, option| match file {
        Some(file) => token(file, option).map(Some),
        None => Ok(None),
    };
    let user_token = match text(&arguments.token, "--token")? {
        Some(token) => Some(token),
        None => std::env::var("MESHGATE_TOKEN").ok().map(|token| token.trim().to_owned()),
    };
    let service_token = text(&arguments.service_token, "--service-token")?;
    let txn_token = text(&arguments.txn_token, "--txn-token")?;
    let token_endpoint = optional(arguments.token_endpoint.as_deref())?;

    let mut secrets: Vec<String> =
        [&user_token, &service_token, &txn_token].into_iter().flatten().cloned().collect();
    secrets.extend(token_endpoint.as_deref().and_then(access_token));
    let mut head = Head::new(arguments);
    for header in &arguments.header {
        let (name, value) = header
            .split_once(':')
            .filter(|(name, _)| !name.is_empty())
            .ok_or("a --header is written as `name: value`")?;
        let value = match value.trim().strip_prefix('@') {
            Some(file) => {
                let value = token(Path::new(file), "--header")?;
                let words = value.split_ascii_whitespace().map(str::to_owned);
                secrets.extend(words.filter(|word| word.len() >= 12));
                value
            }
            None => value.trim().to_owned(),
        };
        head.add(&name.trim().to_ascii_lowercase(), &value);
    }
    if let Some(token) = user_token {
        let places = places_of_user(&config, &token);
        head.place(&token, &places.ok_or("the config has no place for a user's token")?);
    }
    if let Some(token) = service_token {
        let tokens = config_boundary(&config).and_then(|boundary| boundary.service_tokens.as_ref());
        let provider = tokens.and_then(|tokens| tokens.provider.pick(&config.providers));
        let provider = provider.ok_or("the config has no `boundary.service_tokens`")?;
        head.place(&token, &provider.places);
    }
    if let Some(token) = txn_token {
        head.add("txn-token", &token);
    }
    let hop = Hop {
        has_certificate: arguments.peer.is_some(),
        uri_san: arguments.peer.as_ref().map(|peer| peer.to_string().into_bytes()),
        address: arguments.address.map(|address| address.to_string().into_bytes()),
        cluster: arguments.cluster.as_ref().map(|cluster| cluster.clone().into_bytes()),
    };
    let user = match (&arguments.user, arguments.user_status) {
        (Some(file), _) => Some((200, bytes(file)?)),
        (None, Some(status)) => Some((status, Vec::new())),
        (None, None) => None,
    };
    let question = Question {
        head: head.finish(),
        hop,
        at: at(arguments.at.as_deref())?,
        jwks: jwks(&arguments.jwks, &config)?,
        user,
        introspection: optional(arguments.introspection.as_deref())?,
        feed: optional(arguments.feed.as_deref())?,
        is_listed: arguments.blacklist.map(|listed| matches!(listed, Blacklist::Hit)),
        token_endpoint,
        secrets,
        missing,
    };
    Ok((config, question))
}

/// Private keys that sign nothing of worth (RFC 8037 appendix A.1, RFC 7517 appendix A.2), for variables that
/// are not set here. Any secret of a config may be such a text: most are not looked into, and of those that
/// are, each is a key that signs with one of these two algorithms.
const STAND_INS: [&str; 2] = [
    r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
    r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}"#,
];

/// The config, and the variables in it for which something else stands.
fn config(arguments: &Arguments) -> Result<(Config, BTreeSet<String>), String> {
    let text = document::config(&arguments.config, arguments.mode.as_deref())?;
    let mut problems = String::new();
    for stand_in in STAND_INS {
        let missing = RefCell::new(BTreeSet::new());
        let env = |name: &str| {
            std::env::var(name).ok().or_else(|| {
                missing.borrow_mut().insert(name.to_owned());
                Some(stand_in.to_owned())
            })
        };
        let error = match Config::parse(&text, &env) {
            Ok(config) => return Ok((config, missing.into_inner())),
            Err(error) => error,
        };
        if problems.is_empty() {
            let names: Vec<String> = missing.into_inner().into_iter().collect();
            let more = match names.as_slice() {
                [] => String::new(),
                names => format!("\nnot set in the environment: {}", names.join(", ")),
            };
            problems = format!("{}: {error}{more}", arguments.config.display());
        }
    }
    Err(problems)
}

/// The head in the making.
struct Head(Vec<Field>);

impl Head {
    fn new(arguments: &Arguments) -> Self {
        let mut head = Self(Vec::new());
        head.add(":method", &arguments.method);
        head.add(":authority", &arguments.host);
        head.add(":path", &arguments.path);
        head
    }

    fn add(&mut self, name: &str, value: &str) {
        self.0.push(Field { name: name.to_owned(), value: value.into() });
    }

    /// Puts a token in the first of these places, as a client would.
    fn place(&mut self, token: &str, places: &Places) {
        if let Some(header) = places.headers.first() {
            self.add(header.name.as_str(), &format!("{}{token}", header.value_prefix));
        } else if let Some(cookie) = places.cookies.first() {
            self.add("cookie", &format!("{cookie}={token}"));
        } else if let Some(param) = places.params.first()
            && let Some(path) = self.0.iter_mut().find(|field| field.name == ":path")
        {
            let sign = if path.value.contains(&b'?') { '&' } else { '?' };
            path.value.extend_from_slice(format!("{sign}{param}={token}").as_bytes());
        }
    }

    fn finish(self) -> Vec<Field> {
        self.0
    }
}

fn config_boundary(config: &Config) -> Option<&meshgate::config::Boundary> {
    match &config.mode {
        Mode::Service(boundary) => Some(boundary),
        Mode::Gateway | Mode::Authz(_) | Mode::Egress(_) => None,
    }
}

/// Where its client would put a user's token: in a place of its issuer's, else of any.
fn places_of_user(config: &Config, token: &str) -> Option<Places> {
    if let Mode::Egress(egress) = &config.mode {
        return egress.places.first().cloned();
    }
    let issuer = UnverifiedToken::parse(token.as_bytes(), token.len(), &config.providers).ok();
    let own = issuer.and_then(|token| token.provider.pick(&config.providers));
    let mut users = config.providers.iter().filter(|provider| provider.kind == TokenKind::User);
    let provider = own.filter(|provider| provider.kind == TokenKind::User).or_else(|| users.next());
    provider.map(|provider| provider.places.clone())
}

/// A provider's JWKS by the provider's name.
fn jwks(given: &[String], config: &Config) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let fetches = config.providers.iter().filter(|provider| {
        matches!(provider.trust.keys, Some(meshgate::config::KeySource::Remote(_)))
    });
    let names: Vec<&str> = fetches.map(|provider| provider.name.as_str()).collect();
    let mut found = BTreeMap::new();
    for one in given {
        let (name, file) = match (one.split_once('='), names.as_slice()) {
            (Some((name, file)), _) if names.contains(&name) => (name, file),
            (_, [only]) if !one.contains('=') => (*only, one.as_str()),
            (_, _) => {
                let names = names.join("`, `");
                return Err(format!(
                    "--jwks is written as `PROVIDER=FILE`, with a provider that fetches its keys: `{names}`"
                ));
            }
        };
        found.insert(name.to_owned(), bytes(Path::new(file))?);
    }
    Ok(found)
}

fn spiffe_id(text: &str) -> Result<SpiffeId, String> {
    text.parse().map_err(|error: BadName| error.to_string())
}

fn at(text: Option<&str>) -> Result<UnixTime, String> {
    let Some(text) = text else {
        return Ok(now());
    };
    if let Ok(secs) = text.parse() {
        return Ok(UnixTime::from_secs(secs));
    }
    text.parse::<jiff::Timestamp>()
        .ok()
        .and_then(|time| u64::try_from(time.as_millisecond()).ok())
        .map(UnixTime::from_millis)
        .ok_or_else(|| {
            "--at is a time such as `2026-01-01T00:00:00Z`, or seconds since 1970".to_owned()
        })
}

#[expect(clippy::disallowed_methods, reason = "the edge: here the clock comes in")]
fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_millis(millis(since))
}

fn optional(file: Option<&Path>) -> Result<Option<Vec<u8>>, String> {
    file.map(bytes).transpose()
}

fn bytes(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
}

/// A token alone in a file. The file's name is not told: it could be the token, pasted.
fn token(file: &Path, option: &str) -> Result<String, String> {
    let read = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    let text = read.map_err(|error| {
        format!(
            "the file that {option} names cannot be read (a token itself is no argument): {error}"
        )
    })?;
    Ok(text.trim().to_owned())
}

/// The token in a token endpoint's answer.
fn access_token(answer: &[u8]) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    answer.get("access_token")?.as_str().map(str::to_owned)
}
