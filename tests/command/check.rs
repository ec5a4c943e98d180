//! `meshgate check`: what it prints, how it ends, and whose configs it looks at.

use std::fs;

use serde_json::Value;

use crate::support::{directory, meshgate, shown_files};

const GOOD: &str = "\
mode: gateway
providers:
  idp:
    issuer: idp
    audiences: [api]
    remote_jwks: {uri: https://idp.example/jwks, cluster: idp}
user: {source: claims}
context: {headers: {x-user-id: {claim: /sub}}}
";

fn check(text: &str) -> (i32, String) {
    let ran = meshgate(&["check", "-"], &[], text);
    assert_eq!(ran.stderr, "");
    (ran.code, ran.stdout)
}

fn with_rules(rules: &str) -> String {
    format!("{GOOD}rules:\n{rules}")
}

fn indented(text: &str, spaces: usize) -> String {
    let spaces = " ".repeat(spaces);
    text.lines().flat_map(|line| [&spaces, line, "\n"]).collect()
}

/// A bootstrap with a filter of ours, behind `before`, with `plugin` beside its config.
fn bootstrap(before: &str, plugin: &str, clusters: &str) -> String {
    let config = indented(GOOD, 14);
    [
        "static_resources:\n  listeners:\n  - name: l\n    http_filters:\n    ",
        before,
        "- name: m\n      typed_config:\n        config:\n          root_id: meshgate\n          ",
        plugin,
        "\n          configuration:\n            \"@type\": type.googleapis.com/google.protobuf.Struct\n            value:\n",
        &config,
        "  clusters: ",
        clusters,
        "\n",
    ]
    .concat()
}

const TLS: &str = "[{name: idp, transport_socket: {}}]";

#[test]
fn a_good_config_ends_with_0_and_says_how_many_there_were() {
    assert_eq!(check(GOOD), (0, "1 config: 0 errors, 0 warnings\n".to_owned()));
}

#[test]
fn problems_are_told_in_the_order_of_their_lines_and_end_with_1() {
    let text = GOOD
        .replace("issuer: idp", "isuer: idp")
        .replace("source: claims", "source: nowhere")
        .replace("{claim: /sub}", "{claim: sub}");
    assert_eq!(
        check(&text),
        (
            1,
            "\
<stdin>:4:5: error: providers.idp.isuer: unknown field, did you mean `issuer`?
<stdin>:7:8: error: user.source: `nowhere` is not a source, write `lookup` or `claims`
<stdin>:8:33: error: context.headers.x-user-id.claim: `sub` is not a JSON Pointer, write `/sub` (RFC 6901)
1 config: 3 errors, 0 warnings
"
            .to_owned()
        )
    );
}

#[test]
fn warnings_end_with_0_unless_they_are_denied_and_some_can_be_allowed() {
    let text = with_rules(
        "  - {match: {path_prefix: /}, require: user}\n  - {match: {path: /a}, require: anonymous}\n",
    );
    let (code, told) = check(&text);
    assert_eq!(code, 0);
    assert_eq!(
        told,
        "<stdin>:11:5: warning: rules[1]: never matches, since `rules[0]` matches all that it would, put it before that one or remove it\n1 config: 0 errors, 1 warning\n"
    );
    assert_eq!(meshgate(&["check", "--deny-warnings", "-"], &[], &text).code, 1);
    let allowed = ["check", "--deny-warnings", "--allow", "rules[1]", "-"];
    let ran = meshgate(&allowed, &[], &text);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "1 config: 0 errors, 0 warnings\n"));
}

#[test]
fn json_says_the_same() {
    let text = GOOD.replace("mode: gateway", "mode: 1");
    let ran = meshgate(&["check", "--format", "json", "-"], &[], &text);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        told,
        serde_json::json!({
            "configs": 1, "errors": 1, "warnings": 0,
            "findings": [{
                "file": "<stdin>", "line": 1, "column": 1, "severity": "error", "path": "mode",
                "message": "invalid type: integer, expected a string",
            }],
        })
    );
}

#[test]
fn a_file_that_cannot_be_read_and_a_wrong_use_end_with_2() {
    let missing = meshgate(&["check", "no/such/file.yaml"], &[], "");
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("no/such/file.yaml"), "{}", missing.stderr);
    // The others are checked all the same.
    let both = meshgate(&["check", "no/such/file.yaml", "-"], &[], "mode: 1\n");
    assert_eq!(both.code, 2);
    assert!(both.stdout.contains("error: mode:"), "{}", both.stdout);
    for wrong in [&["check"][..], &[], &["chek"], &["check", "--format", "xml", "-"]] {
        assert_eq!(meshgate(wrong, &[], "").code, 2, "{wrong:?}");
    }
}

#[test]
fn a_file_without_a_config_is_told_what_was_looked_for() {
    for text in ["a: 1\n", "", "kind: Service\n"] {
        let (code, told) = check(text);
        assert_eq!(code, 1);
        assert!(told.contains("1:1: error: no config of meshgate is here: looked for"), "{told}");
    }
    let other = "x: {name: waf, configuration: {'@type': type.googleapis.com/google.protobuf.StringValue, value: x}}";
    let (code, told) = check(other);
    assert_eq!(code, 1);
    assert!(told.contains("here, one Wasm filter is another's: looked for"), "{told}");
}

#[test]
fn a_file_that_is_no_yaml_is_told_with_its_line() {
    let (code, told) = check("mode: gateway\nproviders: [\n");
    assert_eq!(code, 1);
    assert!(told.starts_with("<stdin>:") && told.contains("error: is not YAML: "), "{told}");
}

#[test]
fn readers_that_differ_are_not_left_to_differ() {
    let (code, told) = check(&format!("{GOOD}crypto: host\ncrypto: auto\n"));
    assert_eq!(code, 1);
    assert!(told.contains("<stdin>:10:1: error: `crypto` stands here a second time"), "{told}");
    let merged = GOOD.replace("user: {source", "user: {<<: {key: [a]}, source");
    let (code, told) = check(&merged);
    assert_eq!(code, 1);
    assert!(told.contains("<stdin>:7:8: error: merge keys"), "{told}");
    // An alias is the same to everybody.
    let aliased =
        GOOD.replace("audiences: [api]", "audiences: &a [api]\n    authorized_parties: *a");
    assert_eq!(check(&aliased).0, 0);
    // And so is an unquoted `yes`.
    let yes = GOOD.replace("{claim: /sub}", "{claim: /sub, required: yes}");
    assert_eq!(check(&yes).0, 0);
}

#[test]
fn every_file_of_the_repository_is_without_errors() {
    let (yaml, texts) = shown_files();
    for file in yaml {
        let ran = meshgate(&["check", "--deny-warnings", file.to_str().unwrap()], &[], "");
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    }
    for file in texts {
        let ran = meshgate(&["check", file.to_str().unwrap()], &[], "");
        let told = ran.stdout.replace("error: no config of meshgate is here", "");
        assert!(!told.contains(" error: "), "{}", ran.stdout);
    }
}

#[test]
fn places_in_a_text_within_a_text_are_those_of_the_file() {
    let text = "\
x:
  root_id: meshgate
  configuration:
    \"@type\": type.googleapis.com/google.protobuf.StringValue
    value: |
      {
        \"mode\": \"gateway\",
        \"providers\": {\"idp\": {\"isuer\": \"idp\"}},
        \"user\": {\"source\": \"claims\"}
      }
";
    let (code, told) = check(text);
    assert_eq!(code, 1);
    assert!(told.contains("<stdin>:8:31: error: providers.idp.isuer: unknown field"), "{told}");
    // Empty lines are lines, too.
    let spaced = text.replace("|\n", "|\n\n\n");
    let (_, told) = check(&spaced);
    assert!(told.contains("<stdin>:10:31: error: providers.idp.isuer: unknown field"), "{told}");
    // On one line, with escapes, only the beginning is known.
    let text = text.split("value: |").next().unwrap().to_owned()
        + "value: \"{\\\"mode\\\": \\\"gatway\\\"}\"\n";
    let (_, told) = check(&text);
    assert!(told.contains("<stdin>:5:12: error: mode: `gatway`"), "{told}");
}

#[test]
fn yaml_in_a_string_value_is_refused_as_the_filter_refuses_it() {
    let text = "x:\n  root_id: meshgate\n  configuration:\n    \"@type\": type.googleapis.com/google.protobuf.StringValue\n    value: |\n      mode: gatway\n";
    let (code, told) = check(text);
    assert_eq!(code, 1);
    assert!(told.contains("<stdin>:6:7: error: the filter reads a text as JSON"), "{told}");
    assert!(told.contains("<stdin>:6:7: error: mode: `gatway`"), "{told}");
}

#[test]
fn without_the_secrets_stand_ins_are_checked_and_the_names_are_told() {
    let secrets = "\
sharing: {key: '${env:SHARING}'}
revocation: {feed: {uri: https://a/, cluster: a, headers: {authorization: 'Bearer ${env:FEED}'}}}
txn_token: {issue: {issuer: g, audience: m, key: '${env:TXN}', kid: k, alg: ES256}}
";
    let text = format!("{GOOD}{secrets}");
    let (code, told) = check(&text);
    assert_eq!(
        (code, told.as_str()),
        (
            0,
            "<stdin>:1:1: note: the VM must be given `FEED`, `SHARING`, `TXN`, by `vm_config.environment_variables` (Istio: `vmConfig.env`); not set here, so that a stand-in was checked: `FEED`, `SHARING`, `TXN`\n1 config: 0 errors, 0 warnings\n"
        )
    );
    // A value that is set is checked, and not shown.
    let ran = meshgate(&["check", "-"], &[("SHARING", "hush"), ("TXN", "hush")], &text);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("<stdin>:9:11: error: sharing.key: must be 16"), "{}", ran.stdout);
    assert!(ran.stdout.contains("error: txn_token.issue.key: is not a JWK"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("hush") && !ran.stderr.contains("hush"));
}

#[test]
fn a_variable_that_the_vm_is_not_given_is_an_error() {
    let config = GOOD.replace("user:", "sharing: {key: '${env:SHARING}'}\nuser:");
    let istio = |env: &str| {
        let config = indented(&config, 4);
        format!(
            "kind: WasmPlugin\nmetadata: {{name: meshgate}}\nspec:\n  {env}\n  pluginConfig:\n{config}"
        )
    };
    for (env, code) in [
        ("vmConfig: {env: [{name: SHARING, valueFrom: HOST}]}", 0),
        ("vmConfig: {env: [{name: SHARING, value: sixteen bytes or more}]}", 0),
        ("vmConfig: {env: [{name: SHARING, value: few bytes}]}", 1),
        ("vmConfig: {env: [{name: OTHER, valueFrom: HOST}]}", 1),
        ("url: oci://a/meshgate", 1),
    ] {
        let ran = meshgate(&["check", "-"], &[("SHARING", "sixteen bytes or more")], &istio(env));
        assert_eq!(ran.code, code, "{env}: {}", ran.stdout);
        let missing = ran
            .stdout
            .contains("12:15: error: sharing.key: the VM has no environment variable `SHARING`");
        assert_eq!(missing, env.contains("OTHER") || env.contains("url"), "{}", ran.stdout);
    }
}

#[test]
fn what_stands_around_a_filter_is_warned_of() {
    let authz = "- name: envoy.filters.http.ext_authz\n    ";
    let cors = "- name: envoy.filters.http.cors\n    ";
    for (text, warning) in [
        (bootstrap("", "failure_policy: FAIL_CLOSED", TLS), ""),
        (bootstrap(cors, "failure_policy: FAIL_RELOAD", TLS), ""),
        (bootstrap("", "failure_policy: FAIL_OPEN", TLS), "<stdin>:9:27: warning: a module that"),
        (bootstrap("", "fail_open: true", TLS), "<stdin>:9:22: warning: a module that"),
        (bootstrap("", "fail_open: false", TLS), ""),
        (bootstrap(authz, "", TLS), "<stdin>:5:7: warning: `ext_authz` stands before meshgate"),
        (
            bootstrap("", "", "[{name: idb}]"),
            "providers.idp.remote_jwks.cluster: this Envoy has no cluster `idp`, there are `idb`",
        ),
        (
            bootstrap("", "", "[{name: idp}]"),
            "providers.idp.remote_jwks.cluster: the URI is `https:` but the cluster `idp` speaks no TLS",
        ),
        // Clusters may come from a control plane.
        (bootstrap("", "", "[{name: idb}]") + "dynamic_resources: {cds_config: {}}\n", ""),
        (
            format!(
                "kind: WasmPlugin\nspec:\n  failStrategy: FAIL_OPEN\n  pluginConfig: {{{}}}\n",
                "mode: gateway"
            ),
            "<stdin>:3:17: warning: a module that cannot be loaded, or traps, lets every request through unchecked, write `failStrategy: FAIL_CLOSE`",
        ),
    ] {
        let (_, told) = check(&text);
        if warning.is_empty() {
            assert_eq!(told, "1 config: 0 errors, 0 warnings\n", "{text}");
        } else {
            assert!(told.contains(warning), "{warning}\n{told}");
            assert_eq!(told.matches(" warning: ").count(), 1, "{told}");
        }
    }
}

#[test]
fn several_files_are_told_apart() {
    let dir = directory("several");
    let one = dir.join("one.yaml");
    let two = dir.join("two.md");
    fs::write(&one, GOOD).unwrap();
    fs::write(&two, format!("# Two\n\n```yaml\n{}```\n", GOOD.replace("claims", "clams"))).unwrap();
    let ran = meshgate(&["check", one.to_str().unwrap(), two.to_str().unwrap()], &[], "");
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stdout,
        format!(
            "{}:10:8: error: user.source: `clams` is not a source, write `lookup` or `claims`\n2 configs: 1 error, 0 warnings\n",
            two.display()
        )
    );
}
