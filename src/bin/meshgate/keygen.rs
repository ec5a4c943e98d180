//! `meshgate keygen`: keys to sign with, and the key that proxies share.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, ValueEnum};
use ed25519_compact::{KeyPair, Seed};
use meshgate::signature::signing::SigningKey;
use p256::ecdsa::SigningKey as P256Key;
use serde_json::{Map, Value, json};

use crate::{say, usage};

/// Make a key: one that signs (`txn_token.issue.key`, `service_tokens.*.sign.key`), or the one that proxies share
/// (`sharing.key`). The secret goes to a file that only you can read; what is public, to stdout.
#[derive(Args)]
pub struct Arguments {
    /// What the key is for.
    #[arg(value_enum)]
    kind: Kind,
    /// The key's name; one is made where this is left out.
    #[arg(long, value_parser = kid)]
    kid: Option<String>,
    /// The file for the secret. It must not be there yet.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "stdout",
        conflicts_with = "stdout"
    )]
    out: Option<PathBuf>,
    /// Write the secret to stdout, and what is public to stderr.
    #[arg(long)]
    stdout: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Signs with Ed25519.
    #[value(name = "EdDSA", alias = "eddsa")]
    EdDsa,
    /// Signs with ECDSA on P-256.
    #[value(name = "ES256", alias = "es256")]
    Es256,
    /// `sharing.key`: random bytes, as text.
    #[value(name = "sharing")]
    Sharing,
}

/// A new secret, and what may be known of it.
struct Made {
    secret: String,
    public: Option<Value>,
}

/// Makes a key. 2 where it cannot be kept.
pub fn run(arguments: &Arguments) -> ExitCode {
    let made = match make(arguments.kind, arguments.kid.clone()) {
        Ok(made) => made,
        Err(error) => return usage(&error),
    };
    let public = made.public.map_or_else(String::new, |jwk| format!("{jwk}\n"));
    if let Some(file) = &arguments.out {
        if let Err(error) = keep(file, &made.secret) {
            return usage(&format!("{}: {error}", file.display()));
        }
        say(&public);
    } else {
        say(&format!("{}\n", made.secret));
        let _ = io::stderr().write_all(public.as_bytes());
    }
    ExitCode::SUCCESS
}

fn make(kind: Kind, name: Option<String>) -> Result<Made, String> {
    let private = match kind {
        Kind::Sharing => {
            return Ok(Made { secret: URL_SAFE_NO_PAD.encode(random()?), public: None });
        }
        Kind::EdDsa => ed25519()?,
        Kind::Es256 => p256()?,
    };
    let name = match name {
        Some(name) => name,
        None => URL_SAFE_NO_PAD.encode(random()?.get(..9).unwrap_or_default()),
    };
    signing(private, &name)
}

/// The private JWK under its name, and its public half, both as the filter itself reads and writes them.
fn signing(mut private: Map<String, Value>, name: &str) -> Result<Made, String> {
    let key = SigningKey::from_jwk(&private).map_err(|error| format!("the new key {error}"))?;
    private.insert("kid".to_owned(), name.into());
    private.insert("use".to_owned(), "sig".into());
    private.insert("alg".to_owned(), key.algorithm().name().into());
    let public = key.public_jwk(name);
    Ok(Made { secret: Value::Object(private).to_string(), public: Some(public) })
}

fn ed25519() -> Result<Map<String, Value>, String> {
    let pair = KeyPair::from_seed(Seed::new(random()?));
    let (d, x) = (text(&*pair.sk.seed()), text(&*pair.pk));
    Ok(members(json!({"kty": "OKP", "crv": "Ed25519", "d": d, "x": x})))
}

fn p256() -> Result<Map<String, Value>, String> {
    // About one in 2^32 is no scalar of the curve.
    let (scalar, key) = loop {
        let scalar = random()?;
        if let Ok(key) = P256Key::from_slice(&scalar) {
            break (scalar, key);
        }
    };
    let point = key.verifying_key().to_sec1_point(false);
    // A byte that says that both coordinates follow.
    let coordinates = point.as_bytes().get(1..).unwrap_or_default();
    let (x, y) = coordinates.split_at_checked(32).unwrap_or_default();
    Ok(members(
        json!({"kty": "EC", "crv": "P-256", "d": text(&scalar), "x": text(x), "y": text(y)}),
    ))
}

fn members(jwk: Value) -> Map<String, Value> {
    match jwk {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Bytes from the operating system.
fn random() -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("there is no randomness: {error}"))?;
    Ok(bytes)
}

/// Writes a secret to a new file that nobody else can read.
fn keep(file: &Path, secret: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(file)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()
}

fn kid(text: &str) -> Result<String, String> {
    let is_name =
        !text.is_empty() && text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| "a key's name is made of visible ASCII".to_owned())
}
