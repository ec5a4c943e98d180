//! The users service: `GET /internal/users/by-clerk-id/{id}` over an SQLite table.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use percent_encoding::percent_decode_str;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};

use crate::lock;
use crate::server::{Answer, Seen, Server};

const PREFIX: &str = "/internal/users/by-clerk-id/";

/// A row of the table.
#[derive(Clone, Debug)]
pub struct User {
    /// `id` in the answer.
    pub id: String,
    /// What it is looked up by.
    pub clerk_id: String,
    /// `role` in the answer.
    pub role: String,
    /// `channelId` in the answer, or null.
    pub channel_id: Option<String>,
    /// `status` in the answer.
    pub status: String,
    /// More members of the answer: an object, or null for none.
    pub extra: Value,
}

impl User {
    /// An active `USER` without a channel.
    pub fn new(clerk_id: &str, id: &str) -> User {
        User {
            id: id.into(),
            clerk_id: clerk_id.into(),
            role: "USER".into(),
            channel_id: None,
            status: "ACTIVE".into(),
            extra: Value::Null,
        }
    }
}

/// A running users service. It knows `user_2abc` (`u-1001`, `USER`, channel `ch-2001`) and `user_2adm`
/// (`u-1002`, `ADMIN`, no channel).
#[derive(Debug)]
pub struct Users {
    server: Server,
    store: Arc<Mutex<Store>>,
}

#[derive(Debug)]
struct Store {
    table: Connection,
    raw: HashMap<String, Vec<u8>>,
}

impl Users {
    /// Starts on a free port.
    pub fn start() -> Users {
        let table = Connection::open_in_memory().expect("an SQLite database in memory");
        let create = "CREATE TABLE users (clerk_id TEXT PRIMARY KEY, id TEXT, role TEXT, channel_id TEXT, status TEXT, extra TEXT)";
        table.execute(create, []).expect("a table");
        let store = Arc::new(Mutex::new(Store { table, raw: HashMap::new() }));
        let served = store.clone();
        let users = Users { server: Server::start(move |seen| lock(&served).answer(seen)), store };
        users.add(User { channel_id: Some("ch-2001".into()), ..User::new("user_2abc", "u-1001") });
        users.add(User { role: "ADMIN".into(), ..User::new("user_2adm", "u-1002") });
        users
    }

    /// Adds a user, or replaces the one with the same clerk id.
    pub fn add(&self, user: User) {
        let User { id, clerk_id, role, channel_id, status, extra } = user;
        self.execute(
            "INSERT OR REPLACE INTO users (clerk_id, id, role, channel_id, status, extra) VALUES (?, ?, ?, ?, ?, ?)",
            params![clerk_id, id, role, channel_id, status, extra.to_string()],
        );
    }

    /// Changes a user's role.
    pub fn set_role(&self, clerk_id: &str, role: &str) {
        self.execute("UPDATE users SET role = ? WHERE clerk_id = ?", params![role, clerk_id]);
    }

    /// Changes a user's status.
    pub fn set_status(&self, clerk_id: &str, status: &str) {
        self.execute("UPDATE users SET status = ? WHERE clerk_id = ?", params![status, clerk_id]);
    }

    /// Forgets a user; the lookup answers 404.
    pub fn remove(&self, clerk_id: &str) {
        lock(&self.store).raw.remove(clerk_id);
        self.execute("DELETE FROM users WHERE clerk_id = ?", params![clerk_id]);
    }

    /// Answers lookups of `clerk_id` with these bytes, whatever they are.
    pub fn set_record_raw(&self, clerk_id: &str, record: impl Into<Vec<u8>>) {
        lock(&self.store).raw.insert(clerk_id.into(), record.into());
    }

    /// How many of the requests in [`Server::seen`] looked up `clerk_id`, whatever the answer.
    pub fn lookups(&self, clerk_id: &str) -> usize {
        self.seen().iter().filter(|seen| key(seen).as_deref() == Some(clerk_id)).count()
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) {
        lock(&self.store).table.execute(sql, values).expect("a valid statement");
    }
}

impl Deref for Users {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Store {
    fn answer(&self, seen: &Seen) -> Answer {
        let Some(key) = key(seen) else {
            return Answer::problem(404, "no such resource");
        };
        if let Some(record) = self.raw.get(&key) {
            return Answer::new(200, "application/json", record.clone());
        }
        let select =
            "SELECT id, clerk_id, role, channel_id, status, extra FROM users WHERE clerk_id = ?";
        match self.table.query_row(select, [&key], record).optional().expect("a valid query") {
            Some(record) => Answer::json(200, &record),
            None => Answer::problem(404, "no such user"),
        }
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<Value> {
    let mut record = json!({
        "id": row.get::<_, String>("id")?,
        "clerkId": row.get::<_, String>("clerk_id")?,
        "role": row.get::<_, String>("role")?,
        "channelId": row.get::<_, Option<String>>("channel_id")?,
        "status": row.get::<_, String>("status")?,
    });
    let extra: Value = serde_json::from_str(&row.get::<_, String>("extra")?).unwrap_or_default();
    if let (Some(record), Value::Object(extra)) = (record.as_object_mut(), extra) {
        record.extend(extra);
    }
    Ok(record)
}

/// The decoded key, if this is a lookup.
fn key(seen: &Seen) -> Option<String> {
    let path = seen.path.split('?').next()?;
    let encoded = path.strip_prefix(PREFIX).filter(|_| seen.method == "GET")?;
    // A slash would be a deeper path, which this service does not have.
    let decoded = percent_decode_str(encoded).decode_utf8().ok()?;
    (!encoded.contains('/')).then(|| decoded.into_owned())
}
