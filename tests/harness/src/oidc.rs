//! A real OpenID provider, the npm package `oidc-provider` on Node, for what [`crate::idp`] only imitates:
//! discovery, grants, access tokens as RFC 9068 has them, introspection, revocation, rotation.
//!
//! ```no_run
//! let provider = harness::oidc::Oidc::start();
//! if let Some(provider) = harness::skip::require("a real OIDC provider", provider) {
//!     let token = provider.user_token("user_2abc", "https://api.example", "videos:read");
//!     assert_eq!(token.split('.').count(), 3);
//! }
//! ```
//!
//! The endpoints that discovery names are under the address the caller asked for in `Host`.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rsa::rand_core::{OsRng, RngCore};
use rsa::sha2::{Digest, Sha256};
use serde_json::Value;

use crate::client::{Request, Response};
use crate::process::{Process, scratch};

const PACKAGE: &str = include_str!("../oidc/package.json");
const LOCK: &str = include_str!("../oidc/package-lock.json");
const SCRIPT: &str = include_str!("../oidc/provider.mjs");

/// The client that the tokens are for, unless ES256 is asked for.
pub const CLIENT_ID: &str = "meshgate";

/// The client whose tokens are signed with ES256.
pub const ES256_CLIENT_ID: &str = "meshgate-es256";

/// Where browsers are sent with a code. Nobody listens there.
const REDIRECT_URI: &str = "https://app.example/callback";

/// The oldest Node with what the library uses: `crypto.hash`.
const NODE: (u32, u32) = (20, 12);

/// Long enough for a busy machine: it takes about a second.
const START: Duration = Duration::from_secs(60);

/// More redirects and pages than a login has.
const STEPS: usize = 12;

/// The version of `oidc-provider`.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let package: Value = serde_json::from_str(PACKAGE).expect("package.json");
        package["dependencies"]["oidc-provider"].as_str().expect("a version").into()
    });
    &VERSION
}

/// A running provider, gone when dropped. Anybody who logs in exists, every absolute URI is the resource
/// indicator of an API, and an API knows every scope. Tokens live for an hour.
pub struct Oidc {
    process: Process,
    address: SocketAddr,
    secret: String,
    discovery: Value,
}

impl Oidc {
    /// Starts on a free port, with new keys and a new client secret. Installs the package first where it is
    /// missing; fails where that, or Node, cannot be had.
    #[track_caller]
    pub fn start() -> Result<Oidc, String> {
        let modules = modules()?;
        let secret = random();
        let dir = scratch();
        let script = dir.path().join("provider.mjs");
        // Node looks for packages beside the script.
        std::fs::write(&script, SCRIPT)
            .and_then(|()| symlink(modules, dir.path().join("node_modules")))
            .map_err(|error| format!("cannot write to {}: {error}", dir.path().display()))?;
        let mut command = Command::new("node");
        command.arg(script).env("CLIENT_SECRET", &secret).env_remove("NODE_OPTIONS");
        let process = Process::start(&command, dir)
            .map_err(|error| format!("cannot start the OIDC provider: {error}"))?;

        // From here on, a failure is a defect and nothing that a machine lacks.
        process.wait_for_log("{\"port\":", START);
        process.wait_for_log("}\n", START);
        let log = process.log();
        let line = log.lines().find(|line| line.starts_with('{')).expect("the line with the port");
        let line: Value = serde_json::from_str(line).expect("JSON");
        let port = line["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut provider = Oidc { process, address, secret, discovery: Value::Null };
        provider.discovery = provider.get(&provider.discovery_uri()).json();
        Ok(provider)
    }

    /// The `iss` of its tokens: `http://127.0.0.1:<port>`.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the discovery document is.
    pub fn discovery_uri(&self) -> String {
        format!("{}/.well-known/openid-configuration", self.issuer())
    }

    /// The discovery document.
    pub fn discovery(&self) -> &Value {
        &self.discovery
    }

    /// Where the keys are.
    pub fn jwks_uri(&self) -> &str {
        self.endpoint("jwks_uri")
    }

    /// Where tokens are issued.
    pub fn token_uri(&self) -> &str {
        self.endpoint("token_endpoint")
    }

    /// The RFC 7662 endpoint. It takes a client's id and secret in `Authorization: Basic`, and refuses JWTs.
    pub fn introspection_uri(&self) -> &str {
        self.endpoint("introspection_endpoint")
    }

    /// The RFC 7009 endpoint. It takes the id and secret of the token's client in `Authorization: Basic`.
    pub fn revocation_uri(&self) -> &str {
        self.endpoint("revocation_endpoint")
    }

    /// The secret of [`CLIENT_ID`] and [`ES256_CLIENT_ID`].
    pub fn client_secret(&self) -> &str {
        &self.secret
    }

    /// The published keys, as of now.
    #[track_caller]
    pub fn jwks(&self) -> Value {
        self.get(self.jwks_uri()).json()
    }

    /// An RS256 access token for this resource by the client credentials grant, with these scopes (separated
    /// by spaces, or none). Its subject is [`CLIENT_ID`].
    #[track_caller]
    pub fn access_token(&self, resource: &str, scope: &str) -> String {
        self.client_credentials(CLIENT_ID, Some(resource), scope)
    }

    /// [`Oidc::access_token`] signed with ES256, whose subject is [`ES256_CLIENT_ID`].
    #[track_caller]
    pub fn access_token_es256(&self, resource: &str, scope: &str) -> String {
        self.client_credentials(ES256_CLIENT_ID, Some(resource), scope)
    }

    /// An RS256 access token for this resource, whose subject is `login`, with these scopes (separated by
    /// spaces, or none): by the authorization code grant with PKCE, through the pages of login and consent.
    #[track_caller]
    pub fn user_token(&self, login: &str, resource: &str, scope: &str) -> String {
        self.authorization_code(login, Some(resource), scope)
    }

    /// An opaque token by the client credentials grant.
    #[track_caller]
    pub fn opaque_token(&self) -> String {
        self.client_credentials(CLIENT_ID, None, "")
    }

    /// An opaque token whose `sub`, when introspected, is `login`.
    #[track_caller]
    pub fn opaque_user_token(&self, login: &str) -> String {
        self.authorization_code(login, None, "")
    }

    /// What introspection says about an opaque token.
    #[track_caller]
    pub fn introspect(&self, token: &str) -> Value {
        self.post(self.introspection_uri(), CLIENT_ID, &[("token", token)]).json()
    }

    /// Revokes an opaque token.
    #[track_caller]
    pub fn revoke(&self, token: &str) {
        self.post(self.revocation_uri(), CLIENT_ID, &[("token", token)]);
    }

    /// New keys sign from now on. Those that did stay published, until [`Oidc::retire_keys`].
    #[track_caller]
    pub fn rotate_keys(&self) {
        self.control("/harness/rotate");
    }

    /// Publishes no keys any more but those that sign.
    #[track_caller]
    pub fn retire_keys(&self) {
        self.control("/harness/retire");
    }

    /// Everything it printed so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn endpoint(&self, name: &str) -> &str {
        self.discovery[name].as_str().unwrap_or_else(|| panic!("no `{name}` in discovery"))
    }

    #[track_caller]
    fn client_credentials(&self, client: &str, resource: Option<&str>, scope: &str) -> String {
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(resource.map(|resource| ("resource", resource)));
        form.extend((!scope.is_empty()).then_some(("scope", scope)));
        self.access_token_by(client, &form)
    }

    #[track_caller]
    fn authorization_code(&self, login: &str, resource: Option<&str>, scope: &str) -> String {
        let (state, verifier) = (random(), random());
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&verifier));
        let scope = format!("openid {scope}");
        let mut query = vec![
            ("client_id", CLIENT_ID),
            ("redirect_uri", REDIRECT_URI),
            ("response_type", "code"),
            ("scope", scope.trim_end()),
            ("state", &state),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        query.extend(resource.map(|resource| ("resource", resource)));
        let uri = format!("{}?{}", self.endpoint("authorization_endpoint"), encode(&query));
        let answer = self.log_in(&uri, login);
        let parameter = |name: &str| {
            let found = answer.iter().find(|(n, _)| n == name);
            found.unwrap_or_else(|| panic!("no `{name}` in {answer:?}")).1.as_str()
        };
        assert_eq!(parameter("state"), state);
        assert_eq!(parameter("iss"), self.issuer());

        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", parameter("code")),
            ("redirect_uri", REDIRECT_URI),
            ("code_verifier", &verifier),
        ];
        form.extend(resource.map(|resource| ("resource", resource)));
        self.access_token_by(CLIENT_ID, &form)
    }

    /// Does what a user does, from the client's link on: logs in, consents. Returns the query with which the
    /// browser is sent back to the client.
    #[track_caller]
    fn log_in(&self, uri: &str, login: &str) -> Vec<(String, String)> {
        let mut cookies = Cookies::default();
        let (mut uri, mut form) = (uri.to_owned(), None::<String>);
        for _ in 0..STEPS {
            let path = self.target(&uri);
            let mut request = self.request(if form.is_some() { "POST" } else { "GET" }, path);
            if let Some(form) = form.take() {
                request = with_form(request, &form);
            }
            let response = request.header("Cookie", cookies.header(path)).send();
            cookies.store(&response);
            if let Some(location) = response.header("location") {
                uri = String::from_utf8_lossy(location).into_owned();
                if let Some(query) = uri.strip_prefix(REDIRECT_URI) {
                    return decode(query.trim_start_matches('?'));
                }
                continue;
            }
            assert_eq!(response.status, 200, "{} {path}: {}", response.status, response.text());
            let page = response.text();
            let action = between(&page, "action=\"", "\"");
            let prompt = between(&page, "name=\"prompt\" value=\"", "\"");
            let (Some(action), Some(prompt)) = (action, prompt) else {
                panic!("{path} has no form of `oidc-provider`:\n{page}");
            };
            uri = action.into();
            // The login page ignores the password, the one of consent both.
            form = Some(encode(&[("prompt", prompt), ("login", login), ("password", "-")]));
        }
        panic!("{STEPS} steps did not log `{login}` in; the next would be {uri}");
    }

    #[track_caller]
    fn access_token_by(&self, client: &str, form: &[(&str, &str)]) -> String {
        let answer = self.post(self.token_uri(), client, form).json();
        answer["access_token"].as_str().expect("an access token").into()
    }

    /// Posts as `client`; panics unless that succeeds, without showing tokens.
    #[track_caller]
    fn post(&self, uri: &str, client: &str, form: &[(&str, &str)]) -> Response {
        let credentials = STANDARD.encode(format!("{client}:{}", self.secret));
        let request = self
            .request("POST", self.target(uri))
            .header("Authorization", format!("Basic {credentials}"));
        let response = with_form(request, &encode(form)).send();
        if response.status != 200 {
            panic!("{uri} answered {}: {}", response.status, response.text());
        }
        response
    }

    #[track_caller]
    fn get(&self, uri: &str) -> Response {
        let response = self.request("GET", self.target(uri)).send();
        assert_eq!(response.status, 200, "GET {uri}: {response:?}");
        response
    }

    #[track_caller]
    fn control(&self, path: &str) {
        let response = self.request("POST", path).send();
        assert_eq!(response.status, 204, "POST {path}: {response:?}");
    }

    fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.address, method, path).header("Host", self.address.to_string())
    }

    /// The path and query of a URI of this provider.
    #[track_caller]
    fn target<'a>(&self, uri: &'a str) -> &'a str {
        let path = uri.strip_prefix(&self.issuer()).unwrap_or(uri);
        assert!(path.starts_with('/'), "{uri} leads away from {}", self.issuer());
        path
    }
}

/// Never shows the secret.
impl fmt::Debug for Oidc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Oidc({})", self.issuer())
    }
}

/// A browser's cookies: values by name and path.
#[derive(Default)]
struct Cookies(Vec<(String, String, String)>);

impl Cookies {
    fn store(&mut self, response: &Response) {
        let set = response.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie"));
        for (_, cookie) in set {
            let cookie = String::from_utf8_lossy(cookie);
            let mut parts = cookie.split(';').map(str::trim);
            let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).expect("a pair");
            let path = parts.find_map(|part| part.strip_prefix("path=")).unwrap_or("/");
            self.0.retain(|(n, p, _)| (n.as_str(), p.as_str()) != (name, path));
            // An empty one is how the provider deletes it.
            if !value.is_empty() {
                self.0.push((name.into(), path.into(), value.into()));
            }
        }
    }

    fn header(&self, path: &str) -> String {
        let sent = self.0.iter().filter(|(_, prefix, _)| path.starts_with(prefix.as_str()));
        sent.map(|(name, _, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }
}

fn with_form(request: Request, form: &str) -> Request {
    request.header("Content-Type", "application/x-www-form-urlencoded").body(form)
}

fn encode(pairs: &[(&str, &str)]) -> String {
    let escape = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", escape(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn decode(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    Some(text.split_once(start)?.1.split_once(end)?.0)
}

/// 256 bits that need no escaping anywhere.
fn random() -> String {
    let mut bytes = [0; 32];
    OsRng.fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The directory of the installed packages.
fn modules() -> Result<PathBuf, String> {
    static MODULES: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
        check_node()?;
        let name = format!("oidc-provider-{}", version());
        let what = format!("oidc-provider {} (about 4 MB)", version());
        // The lock file is ours: it tells other dependencies of the same version apart, too.
        let complete = |dir: &Path| {
            std::fs::read_to_string(dir.join("package-lock.json")).is_ok_and(|lock| lock == LOCK)
        };
        crate::install::once(&name, &what, complete, install).map(|dir| dir.join("node_modules"))
    });
    MODULES.clone()
}

fn check_node() -> Result<(), String> {
    let output = run(Command::new("node").arg("--version"))?;
    let says = String::from_utf8_lossy(&output.stdout);
    let mut numbers = says.trim().trim_start_matches('v').split('.').map_while(|n| n.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= NODE => Ok(()),
        _ => Err(format!("Node {}.{} or newer is needed; this is {}", NODE.0, NODE.1, says.trim())),
    }
}

fn install(dir: &Path) -> Result<(), String> {
    for (name, content) in [("package.json", PACKAGE), ("package-lock.json", LOCK)] {
        std::fs::write(dir.join(name), content)
            .map_err(|error| format!("cannot write to {}: {error}", dir.display()))?;
    }
    let mut npm = Command::new("npm");
    npm.current_dir(dir).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    run(npm.args(["--prefer-offline", "--no-update-notifier", "--loglevel=error"])).map(drop)
}

/// Runs to the end; an error where that is no success.
fn run(command: &mut Command) -> Result<Output, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("cannot run `{name}`: {error}; Node.js and npm are needed"))?;
    if output.status.success() {
        return Ok(output);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    let arguments = arguments.collect::<Vec<_>>().join(" ");
    Err(format!("`{name} {arguments}` failed ({}):\n{}", output.status, errors.trim_end()))
}
