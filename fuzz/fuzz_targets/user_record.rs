//! The users service's answer: what becomes a context header, and that nothing else does.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshgate::config::ValueSource;
use meshgate::context::UserContext;
use meshgate::token::ProviderId;
use meshgate::token::claims::Claims;
use meshgate::user::{Known, UserKey, UserRecord, read_answer};
use meshgate_fuzz::naive;
use meshgate_fuzz::world::{WORLD, World, ok};
use serde_json::{Map, Value, json};

/// The context headers with the pointers and separators of the config, written down once more.
const HEADERS: [(&str, &str, Option<&str>, bool); 6] = [
    ("x-user-channel-id", "/channels/0/id", None, false),
    ("x-user-clerk-id", "/clerkId", None, false),
    ("x-user-id", "/id", None, true),
    ("x-user-permissions", "/permissions", Some(","), false),
    ("x-user-role", "/role", None, true),
    ("x-user-tags", "/tags", Some("; "), false),
];

/// A value as a header says it. `Err` where none can.
fn text_of(value: &Value, join: Option<&str>) -> Result<String, ()> {
    let text = match (value, join) {
        (Value::Null, _) => String::new(),
        (Value::Array(items), Some(join)) => {
            let texts: Vec<String> = items.iter().map(scalar).collect::<Result<_, ()>>()?;
            let joined = texts.join(join);
            if !texts.is_empty() && joined.split(join).collect::<Vec<_>>() != texts {
                return Err(());
            }
            joined
        }
        (other, _) => scalar(other)?,
    };
    if text.is_empty() || naive::is_header_value(text.as_bytes()) { Ok(text) } else { Err(()) }
}

fn scalar(value: &Value) -> Result<String, ()> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(()),
    }
}

/// Every header with its value, or nothing where the request must be refused.
fn expected(members: &Map<String, Value>) -> Option<Vec<(&'static str, Option<String>)>> {
    let document = Value::from(members.clone());
    HEADERS
        .iter()
        .map(|(name, pointer, join, required)| {
            let text = document
                .pointer(pointer)
                .map_or(Ok(String::new()), |value| text_of(value, *join))
                .ok()?;
            let value = (!text.is_empty()).then_some(text);
            (value.is_some() || !required).then_some((*name, value))
        })
        .collect()
}

fn key(world: &World) -> UserKey {
    let claims = json!({"sub": "u"});
    let provider = ProviderId::all(1).next();
    let claims = Claims::new(claims.as_object().cloned().unwrap_or_default()).ok();
    let key =
        world.config.user.lookup().and_then(|lookup| UserKey::of(lookup, provider?, &claims?));
    key.unwrap_or_else(|| panic!("the config has a lookup by `sub`"))
}

fuzz_target!(|body: &[u8]| {
    WORLD.with(|world| {
        let Some(lookup) = world.config.user.lookup() else { return };
        let known = read_answer(lookup, &key(world), &ok(body));
        let reference = naive::object(body);
        let Ok(Known::Record(record)) = known else {
            assert_eq!(reference, None, "a record was not read");
            return;
        };
        let Some(members) = reference else { panic!("a record was read of what is none") };
        assert_eq!(*record.members(), members);
        // The same as the claims of a token, so that both sources are drawn. Not every object can be claims.
        let Ok(claims) = Claims::new(members.clone()) else { return };
        let context = &world.config.context;
        let claimed = context.headers.iter().filter(|h| matches!(h.source, ValueSource::Claim(_)));
        assert_eq!(claimed.count(), 1);
        let made = UserContext::assemble(context, &claims, &UserRecord::new(members.clone()));
        let expected = expected(&members);
        let made = made.ok().map(|made| {
            let mut headers: Vec<(String, Option<String>)> = made
                .headers()
                .map(|(name, value)| (name.as_str().to_owned(), value.map(str::to_owned)))
                .collect();
            headers.sort();
            headers
        });
        for (name, value) in made.iter().flatten() {
            let line = value.as_deref().unwrap_or("-").as_bytes();
            assert!(naive::is_header_value(line), "{name} would be {value:?}");
        }
        let expected: Option<Vec<(String, Option<String>)>> = expected
            .map(|all| all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
        assert_eq!(made, expected);
    });
});
