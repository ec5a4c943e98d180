//! What the users service said of a user, as it is handed on: to other workers, and to Redis.

use std::rc::Rc;

use serde_json::{Value, json};

use super::{Known, UserRecord};
use crate::config::Lookup;
use crate::json;
use crate::time::UnixTime;

/// What was said, and when it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// When the users service was asked. What it knew then is what it said at worst.
    pub fetched: UnixTime,
    /// What it said.
    pub known: Known,
}

impl Stored {
    /// As bytes: JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let record = match &self.known {
            Known::Record(record) => Value::Object(record.members().clone()),
            Known::Unknown => Value::Null,
        };
        json!({"fetched": self.fetched.as_millis(), "record": record}).to_string().into_bytes()
    }

    /// From bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut members = json::parse_object(bytes).ok()?;
        let fetched = UnixTime::from_millis(members.get("fetched")?.as_u64()?);
        let known = match members.remove("record")? {
            Value::Object(members) => Known::Record(Rc::new(UserRecord::new(members))),
            Value::Null => Known::Unknown,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => return None,
        };
        Some(Self { fetched, known })
    }

    /// When it ceases to be fresh.
    #[must_use]
    pub fn expires(&self, config: &Lookup) -> UnixTime {
        self.fetched.after(self.known.lifetime(config))
    }

    /// Whether it is fresh, and was asked for at `since` or later.
    #[must_use]
    pub fn is_fresh(&self, config: &Lookup, since: UnixTime, now: UnixTime) -> bool {
        self.is_from(since, now) && now < self.expires(config)
    }

    /// Whether it was asked for at `since` or later, and by a clock that agrees with ours: what is from
    /// the future would never grow old.
    #[must_use]
    pub fn is_from(&self, since: UnixTime, now: UnixTime) -> bool {
        since <= self.fetched && self.fetched <= now.after(crate::time::NUDGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_comes_back_and_garbage_does_not() {
        let record = json!({"id": "u-1", "roles": ["a", 1, null]});
        let record = Known::Record(Rc::new(UserRecord::new(record.as_object().unwrap().clone())));
        for known in [record, Known::Unknown] {
            let stored = Stored { fetched: UnixTime::from_millis(1_767_225_600_123), known };
            assert_eq!(Stored::from_bytes(&stored.to_bytes()), Some(stored));
        }
        for garbage in [
            "",
            "{}",
            "[]",
            r#"{"fetched":1}"#,
            r#"{"fetched":-1,"record":{}}"#,
            r#"{"fetched":1,"record":[]}"#,
        ] {
            assert_eq!(Stored::from_bytes(garbage.as_bytes()), None, "{garbage}");
        }
    }
}
