//! Keys that the command makes are keys that the filter takes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use meshgate::config::Config;
use meshgate::headers::Edit;
use serde_json::{Value, json};

use crate::flow::{Flow, config, forwarded, record, set};
use crate::support::{command, written};

/// Makes a key in `dir`: the secret, and what was said of it.
fn key(dir: &Path, arguments: &[&str]) -> (String, String) {
    let file = dir.join(arguments.join("-"));
    let output = command().arg("keygen").args(arguments).arg("--out").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", written(&output));
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    (fs::read_to_string(file).unwrap(), written(&output))
}

#[test]
fn what_a_new_key_signs_is_verified_with_what_was_said_of_it() {
    let dir = tempfile::tempdir().unwrap();
    for alg in ["EdDSA", "ES256"] {
        let (private, public) = key(dir.path(), &[alg, "--kid", "g7"]);
        let public: Value = serde_json::from_str(&public).unwrap();
        let private_part = serde_json::from_str::<Value>(&private).unwrap()["d"].clone();
        assert!(private_part.as_str().unwrap().len() >= 43);
        assert!(!public.to_string().contains(private_part.as_str().unwrap()));
        assert_eq!(
            (&public["kid"], &public["use"], &public["alg"]),
            (&json!("g7"), &json!("sig"), &json!(alg))
        );

        let mut gateway = config();
        gateway["txn_token"] = json!({"issue": {
            "issuer": "https://gw.example", "audience": "prod.example", "key": private, "kid": "g7", "alg": alg,
        }});
        let mut gateway = Flow::with(&gateway).with_keys();
        let token = gateway.token();
        let edits = forwarded(gateway.whole("/x", &token, &record()));
        let signed = edits.iter().find_map(|edit| match edit {
            Edit::Set(name, value) if name == "txn-token" => Some(value.clone()),
            Edit::Set(..) | Edit::Remove(_) => None,
        });

        let mut service = config();
        service["mode"] = json!("service");
        service["service"] = json!({"name": "videos"});
        service["providers"]["gateway"] = json!({
            "type": "transaction", "issuer": "https://gw.example", "audiences": ["prod.example"],
            "local_jwks": {"keys": [public]},
        });
        service["boundary"] = json!({"txn_token": {"provider": "gateway"}, "otherwise": "reject"});
        let mut service = Flow::with(&service).with_keys();
        let (_, _, disposition) = service.send("/x", &[("txn-token", &signed.unwrap())]);
        assert!(forwarded(disposition).contains(&set("x-user-id", "u-1001")), "{alg}");
    }
}

#[test]
fn the_public_half_may_be_published_beside_another_key() {
    let dir = tempfile::tempdir().unwrap();
    let (private, _) = key(dir.path(), &["EdDSA"]);
    let (_, next) = key(dir.path(), &["ES256", "--kid", "next"]);
    let kid = serde_json::from_str::<Value>(&private).unwrap()["kid"].clone();
    let mut gateway = config();
    gateway["txn_token"] = json!({
        "issue": {"issuer": "i", "audience": "a", "key": private, "kid": kid},
        "also_publish": [serde_json::from_str::<Value>(&next).unwrap()],
        "jwks_path": "/jwks",
    });
    Config::parse(gateway.to_string().as_bytes(), &|_| None).unwrap();
    // Two that nobody named have different names.
    let again = key(dir.path(), &["ES256"]).1;
    assert_ne!(serde_json::from_str::<Value>(&again).unwrap()["kid"], kid);
}

#[test]
fn a_shared_key_is_long_and_new_each_time_and_no_file_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (shared, said) = key(dir.path(), &["sharing"]);
    assert_eq!(said, "");
    assert!(shared.len() >= 43, "{} bytes", shared.len());
    let mut sharing = config();
    sharing["sharing"] = json!({"key": shared});
    Config::parse(sharing.to_string().as_bytes(), &|_| None).unwrap();

    let file = dir.path().join("sharing");
    let output = command().args(["keygen", "sharing", "--out"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read_to_string(&file).unwrap(), shared);

    // Only who asks for it has the secret shown.
    let output = command().args(["keygen", "sharing"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    let output = command().args(["keygen", "sharing", "--stdout"]).output().unwrap();
    let other = String::from_utf8(output.stdout).unwrap();
    assert!(other.trim().len() >= 43 && other.trim() != shared);
}
