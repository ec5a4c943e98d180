//! The corpus, as `README.md` beside it describes it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use meshgate::time::UnixTime;
use serde::Deserialize;
use serde_json::Value;

/// All key sets and all vectors.
pub struct Corpus {
    pub vectors: Vec<Vector>,
    jwks: BTreeMap<String, Value>,
}

/// One token and what is to become of it. Fields that no check needs are not read.
#[derive(Deserialize)]
pub struct Vector {
    pub id: String,
    pub source: String,
    pub layer: Layer,
    pub token: String,
    pub expect: Expect,
    pub expect_filter: Expect,
    pub note: String,
    pub http: Http,
    jwks_id: String,
    config: Option<Asserted>,
    now: Option<u64>,
}

/// Which check of a token `expect` is about.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Whether the token can be read, and says what it must.
    Parse,
    /// Whether a key of the set made the signature, whatever it is over.
    Signature,
    /// What the claims are held to.
    Claims,
}

#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    Accept,
    Reject,
    Either,
}

/// Whether the token can stand in a header.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Http {
    Ok,
    /// It can, with bytes that are not ASCII.
    ObsText,
    /// It can, but white space around it is not part of a header's value.
    Ows,
    /// It cannot.
    Unsendable,
}

/// What the vector's source asks of the claims.
#[derive(Deserialize)]
struct Asserted {
    issuer: Option<String>,
    audiences: Option<Vec<String>>,
}

/// The time of vectors without their own: 2026-01-01T00:00:00Z.
const USUAL: u64 = 1_767_225_600;

impl Corpus {
    /// Reads it; an error says where it was looked for.
    pub fn find() -> Result<Self, String> {
        let directory = std::env::var_os("MESHGATE_VECTORS").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors")),
            PathBuf::from,
        );
        let path = directory.join("third_party.jsonl");
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut lines = text.lines();
        let mut first: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
        let jwks = serde_json::from_value(first["jwks"].take()).unwrap();
        let vectors = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        Ok(Self { vectors, jwks })
    }

    /// The vector's key set.
    pub fn jwks(&self, vector: &Vector) -> &Value {
        &self.jwks[&vector.jwks_id]
    }
}

impl Vector {
    /// When it is looked at.
    pub fn now(&self) -> UnixTime {
        UnixTime::from_secs(self.now.unwrap_or(USUAL))
    }

    /// The issuer that is asserted.
    pub fn issuer(&self) -> Option<&str> {
        self.config.as_ref()?.issuer.as_deref()
    }

    /// The audiences that are asserted, if any are.
    pub fn audiences(&self) -> Option<&[String]> {
        self.config.as_ref()?.audiences.as_deref().filter(|audiences| !audiences.is_empty())
    }
}
