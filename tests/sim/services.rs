//! The services around the gateway: the issuer, the users service, the revocation feed, and Redis behind webdis.
//!
//! What they say is the truth of its moment, and each answer carries it along for the oracle.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_compact::{KeyPair, Seed};
use serde_json::{Value, json};

use crate::scenario::{AUDIENCE, ISSUER, METADATA, Millis, START, USERS};
use crate::schedule::{Change, Form, KEYS, Listed, Revoked, Service, Tampered, TokenPlan};

/// The issuer's keys, and behind them a stranger's.
static PAIRS: LazyLock<Vec<KeyPair>> = LazyLock::new(|| {
    let pair = |number| KeyPair::from_seed(Seed::new([number; 32]));
    (1..).take(KEYS + 1).map(pair).collect()
});

/// What an answer says.
#[derive(Debug, Clone)]
pub enum Said {
    /// These keys are the issuer's.
    Keys(Vec<usize>),
    /// Where the keys are.
    Place,
    /// This is the user's record, or there is no such user.
    User(usize, Option<Record>),
    /// This is revoked.
    List(Vec<Entry>),
    /// Whether a name of this token is on the blacklist.
    Listed(usize, bool),
    /// What is kept, which somebody was told before.
    Kept,
}

/// A call, as a service has it.
#[derive(Debug, Clone)]
pub struct Sent {
    pub path: String,
    /// The answer that is known, by its `etag`.
    pub known: Option<String>,
    pub body: Option<Vec<u8>>,
}

/// An answer that is as it should be.
#[derive(Debug, Clone)]
pub struct Truth {
    pub said: Said,
    pub status: u16,
    pub etag: Option<String>,
    pub body: Vec<u8>,
}

/// A user's record. Its version is that of no other record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub version: usize,
    pub admin: bool,
    pub active: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub what: Revoked,
    /// For [`Revoked::UserBefore`], in seconds since the epoch.
    pub before: u64,
    /// In seconds since the epoch.
    pub ends: Option<u64>,
    /// Tells it from one that was published before.
    pub number: usize,
}

/// All of them.
#[derive(Debug)]
pub struct Services {
    pub published: Vec<usize>,
    users: Vec<Option<Record>>,
    list: Vec<Entry>,
    /// Names on the blacklist, and until when, in the world's time.
    listed: HashMap<String, Millis>,
    /// What Redis has kept under each name, the last one until then.
    kept: HashMap<String, Vec<(String, Millis)>>,
    versions: usize,
    revision: usize,
    tagged: bool,
}

impl Services {
    pub fn new(tagged: bool) -> Self {
        let users = (0..USERS)
            .map(|user| Some(Record { version: user, admin: is_born_admin(user), active: true }));
        Self {
            published: vec![0, 1],
            users: users.collect(),
            list: Vec::new(),
            listed: HashMap::new(),
            kept: HashMap::new(),
            versions: USERS,
            revision: 0,
            tagged,
        }
    }

    pub fn publish(&mut self, key: usize) {
        if !self.published.contains(&key) {
            self.published.push(key);
        }
    }

    /// The issuer always has a key.
    pub fn withdraw(&mut self, key: usize) {
        if self.published.len() > 1 {
            self.published.retain(|published| *published != key);
        }
    }

    pub fn change(&mut self, user: usize, to: Change) {
        self.versions += 1;
        let version = self.versions;
        let record = self.users[user].take();
        let admin = record.as_ref().map_or(is_born_admin(user), |record| record.admin);
        let active = record.as_ref().is_none_or(|record| record.active);
        self.users[user] = match to {
            Change::Gone => None,
            Change::Role => Some(Record { version, admin: !admin, active }),
            Change::Back | Change::Active => Some(Record { version, admin, active: true }),
            Change::Disabled => Some(Record { version, admin, active: false }),
        };
    }

    pub fn revoke(&mut self, what: Revoked, ends: Option<u64>, clock: u64) {
        self.revision += 1;
        let before = clock / 1_000;
        let ends = ends.map(|secs| before + secs);
        self.list.push(Entry { what, before, ends, number: self.revision });
    }

    pub fn clear_feed(&mut self) {
        self.revision += 1;
        self.list.clear();
    }

    pub fn blacklist(&mut self, what: Listed, until: Millis) {
        let name = match what {
            Listed::Token(token) => format!("revoked:{}", jti(token)),
            Listed::User(user) => format!("revoked:user:{}", subject(user)),
        };
        self.listed.insert(name, until);
    }

    pub fn clear_blacklist(&mut self) {
        self.listed.clear();
    }

    /// Somebody writes over what is kept of a user. Whether anything was.
    pub fn tamper(&mut self, user: usize, with: Tampered) -> bool {
        let of = |user: usize| {
            let subject = subject(user);
            self.kept.iter().find(|(name, _)| name.ends_with(&subject))
        };
        let Some((name, texts)) = of(user) else {
            return false;
        };
        let other = match with {
            Tampered::Garbage => Some("not what it was".to_owned()),
            Tampered::Other(other) => {
                of(other).and_then(|(_, texts)| Some(texts.last()?.0.clone()))
            }
            Tampered::Older => texts.first().map(|(text, _)| text.clone()),
        };
        let (name, Some(other)) = (name.clone(), other) else {
            return false;
        };
        self.kept.entry(name).or_default().push((other, Millis::MAX));
        true
    }

    pub fn record(&self, user: usize) -> Option<&Record> {
        self.users[user].as_ref()
    }

    /// What a service says now to a call.
    pub fn answer(&mut self, service: Service, call: &Sent, at: Millis) -> Truth {
        let truth = |said, body: &Value| Truth {
            said,
            status: 200,
            etag: None,
            body: body.to_string().into_bytes(),
        };
        match service {
            Service::Issuer if call.path == METADATA => {
                truth(Said::Place, &json!({"issuer": ISSUER, "jwks_uri": format!("{ISSUER}/jwks")}))
            }
            Service::Issuer => {
                let keys: Vec<Value> = self.published.iter().map(|key| jwk(*key)).collect();
                truth(Said::Keys(self.published.clone()), &json!({ "keys": keys }))
            }
            Service::Users => {
                let user = user_in(&call.path);
                match self.record(user) {
                    Some(record) => truth(
                        Said::User(user, Some(record.clone())),
                        &json!({
                            "id": id(user),
                            "version": record.version.to_string(),
                            "role": role(record.admin),
                            "status": if record.active { "ACTIVE" } else { "DISABLED" },
                        }),
                    ),
                    None => Truth { status: 404, ..truth(Said::User(user, None), &json!({})) },
                }
            }
            Service::Feed => {
                let entries: Vec<Value> = self.list.iter().map(Entry::to_json).collect();
                let said = Said::List(self.list.clone());
                let etag = self.tagged.then(|| format!("\"{}\"", self.revision));
                let whole = truth(said, &json!({"v": 1, "entries": entries}));
                match etag {
                    Some(etag) if call.known.as_ref() == Some(&etag) => {
                        Truth { status: 304, body: Vec::new(), ..whole }
                    }
                    etag => Truth { etag, ..whole },
                }
            }
            Service::Blacklist => {
                let names: Vec<String> =
                    call.path.split('/').skip(2).map(|name| name.replace("%3A", ":")).collect();
                let token = names[0].strip_prefix("revoked:t-").unwrap().parse().unwrap();
                let is_listed =
                    |name: &String| self.listed.get(name).is_some_and(|until| at < *until);
                let values: Vec<Option<&str>> =
                    names.iter().map(|name| is_listed(name).then_some("1")).collect();
                let said = Said::Listed(token, values.iter().any(Option::is_some));
                truth(said, &json!({ "MGET": values }))
            }
            Service::Records => {
                let mut parts = call.path.split('/').skip(1);
                let (command, name) = (parts.next().unwrap(), parts.next().unwrap().to_owned());
                let texts = self.kept.entry(name).or_default();
                match parts.next() {
                    None => {
                        let text = texts.last().filter(|(_, until)| at < *until);
                        truth(Said::Kept, &json!({ command: text.map(|(text, _)| text) }))
                    }
                    Some(secs) => {
                        let text = String::from_utf8(call.body.clone().unwrap()).unwrap();
                        texts.push((text, at + 1_000 * secs.parse::<Millis>().unwrap()));
                        truth(Said::Kept, &json!({ command: [json!(true), json!("OK")] }))
                    }
                }
            }
        }
    }
}

/// The user that a path names at its end.
pub fn user_in(path: &str) -> usize {
    (0..USERS).find(|user| path.ends_with(&subject(*user))).unwrap()
}

impl Entry {
    fn to_json(&self) -> Value {
        let mut entry = match self.what {
            Revoked::Token(token) => json!({"jti": jti(token)}),
            Revoked::User(user) => json!({"sub": subject(user)}),
            Revoked::UserBefore(user) => {
                json!({"sub": subject(user), "iat_before": self.before})
            }
            Revoked::Key(key) => json!({"kid": kid(key)}),
        };
        entry["reason"] = json!(self.number.to_string());
        if let Some(ends) = self.ends {
            entry["exp"] = json!(ends);
        }
        entry
    }
}

pub fn is_born_admin(user: usize) -> bool {
    user.is_multiple_of(3)
}

pub fn role(admin: bool) -> &'static str {
    if admin { "ADMIN" } else { "USER" }
}

pub fn subject(user: usize) -> String {
    format!("user-{user}")
}

/// A user's id: the users service has ids of its own.
pub fn id(user: usize) -> String {
    format!("u-{user}")
}

pub fn jti(token: usize) -> String {
    format!("t-{token}")
}

fn kid(key: usize) -> String {
    format!("k{key}")
}

fn jwk(key: usize) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": kid(key), "use": "sig", "alg": "EdDSA",
           "x": URL_SAFE_NO_PAD.encode(*PAIRS[key].pk)})
}

/// The text of a token, which is the `number`th.
pub fn sign(plan: &TokenPlan, number: usize) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let date = |secs: i64| i64::try_from(START / 1_000).unwrap() + secs;
    let claims = |user: usize| {
        json!({
            "iss": if plan.form == Form::OtherIssuer { "https://other.example" } else { ISSUER },
            "aud": if plan.form == Form::OtherAudience { "other" } else { AUDIENCE },
            "sub": subject(user), "role": role(is_born_admin(user)), "jti": jti(number),
            "iat": date(plan.issued), "exp": date(plan.expires),
        })
    };
    let (signer, name, alg) = match plan.form {
        Form::Forged => (KEYS, kid(plan.key), "EdDSA"),
        Form::UnknownKey => (KEYS, format!("stranger-{number}"), "EdDSA"),
        Form::Unsigned => (plan.key, kid(plan.key), "none"),
        Form::Genuine | Form::Altered | Form::Garbage | Form::OtherAudience | Form::OtherIssuer => {
            (plan.key, kid(plan.key), "EdDSA")
        }
    };
    let header = encode(&json!({"alg": alg, "typ": "JWT", "kid": name}));
    let payload = encode(&claims(plan.user));
    let signature = PAIRS[signer].sk.sign(format!("{header}.{payload}"), None);
    let signature = URL_SAFE_NO_PAD.encode(*signature);
    match plan.form {
        Form::Unsigned => format!("{header}.{payload}."),
        Form::Altered => {
            format!("{header}.{}.{signature}", encode(&claims((plan.user + 1) % USERS)))
        }
        Form::Garbage => format!("{header}.{}", &payload[..payload.len() / 2]),
        Form::Genuine
        | Form::Forged
        | Form::UnknownKey
        | Form::OtherAudience
        | Form::OtherIssuer => format!("{header}.{payload}.{signature}"),
    }
}
