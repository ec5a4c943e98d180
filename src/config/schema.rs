//! The JSON Schema of the config, for editors.
//!
//! What there is and what it means comes from the types and comments of `raw`; what a word may be is
//! said here once more, as far as a schema can say it. `meshgate check` knows more: the bounds of
//! durations, and names that must be there elsewhere in the config.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::raw;
use crate::account::Fact;

/// The top of the schema, which has no name among its definitions.
const TOP: &str = "Config";

/// `${env:NAME}`, which is read in secrets only.
const VARIABLE: &str = r"\$\{env:";

/// The characters of a header's name (`tchar` of RFC 9110 section 5.6.2).
const HEADER_NAME: &str = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// Visible ASCII and, between it, spaces and tabs.
const HEADER_VALUE: &str = "^[!-~]([ \\t!-~]*[!-~])?$";

/// The schema, of draft 2020-12.
#[must_use]
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut whole = generator.into_root_schema_for::<raw::Config>().to_value();
    plain(&mut whole);
    let mut schema = Schema { whole };
    schema.name_the_kinds_of_text();
    schema.say_what_texts_are();
    schema.say_what_is_required();
    schema.say_what_goes_together();
    schema.say_what_a_provider_needs();
    schema.say_what_modes_have();
    schema.refuse_variables_elsewhere();
    schema.whole
}

/// Takes out what serde allows and nobody should write (`null`), and what Rust knows and nobody asks
/// for (the widths of numbers).
fn plain(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::Array(types)) = members.get_mut("type") {
                types.retain(|one| one != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    members.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = members.get("anyOf") {
                let one = choices.iter().find_map(|choice| choice.get("$ref")).cloned();
                if let Some(one) = one {
                    members.remove("anyOf");
                    members.insert("$ref".to_owned(), one);
                }
            }
            members.remove("format");
            if let Some(Value::String(text)) = members.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            members.values_mut().for_each(plain);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

struct Schema {
    whole: Value,
}

impl Schema {
    /// A struct of `raw`, or a kind of text.
    fn definition(&mut self, name: &str) -> Option<&mut Map<String, Value>> {
        let found = match name {
            TOP => Some(&mut self.whole),
            name => self.whole.get_mut("$defs")?.get_mut(name),
        };
        found.and_then(Value::as_object_mut)
    }

    /// Adds a definition.
    fn define(&mut self, name: &str, definition: Value) {
        if let Some(Value::Object(all)) = self.whole.get_mut("$defs") {
            all.insert(name.to_owned(), definition);
        }
    }

    /// Adds `members` to a property. A property that is not there is a slip in this file, which the
    /// tests find.
    fn property(&mut self, owner: &str, name: &str, members: Value) {
        let found = self.definition(owner).and_then(|one| one.get_mut("properties")?.get_mut(name));
        debug_assert!(found.is_some(), "there is no {owner}.{name}");
        let (Some(Value::Object(property)), Value::Object(members)) = (found, members) else {
            return;
        };
        for (name, member) in members {
            match (property.get_mut(&name), member) {
                // Items and members keep what they are, and are more.
                (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
                (_, member) => {
                    property.insert(name, member);
                }
            }
        }
        if property.contains_key("$ref") {
            // Said there, and better.
            property.remove("type");
            property.remove("additionalProperties");
        }
    }

    /// Adds a condition to a struct.
    fn condition(&mut self, owner: &str, condition: Value) {
        let Some(definition) = self.definition(owner) else {
            debug_assert!(false, "there is no {owner}");
            return;
        };
        let all = definition.entry("allOf").or_insert_with(|| json!([]));
        if let Value::Array(all) = all {
            all.push(condition);
        }
    }

    #[expect(clippy::too_many_lines, reason = "a table")]
    fn name_the_kinds_of_text(&mut self) {
        let text = |description: &str, pattern: &str| json!({"description": description, "type": "string", "pattern": pattern, "not": {"pattern": VARIABLE}});
        let kinds = [
            ("Text", text("A text that is not empty.", r"[\s\S]")),
            (
                "Duration",
                text(
                    "A number and a unit: `250ms`, `1.5s`, `10m`, `24h`, `2d`.",
                    r"^([0-9]+\.?[0-9]*|\.[0-9]+)(ms|s|m|h|d)$",
                ),
            ),
            (
                "Uri",
                text(
                    "An absolute `http` or `https` URI, without user information.",
                    r#"^https?://[A-Za-z0-9._~:\[\]%!$&'()*+,;=-]+(/[!-"$-~]*)?$"#,
                ),
            ),
            ("Cluster", text("The name of an Envoy cluster.", r"^\S+$")),
            (
                "Authority",
                text("A host and, where needed, a port.", r"^[A-Za-z0-9._~:\[\]%!$&'()*+,;=-]+$"),
            ),
            ("Pointer", text("A JSON Pointer (RFC 6901): `/a/b`.", "^(/([^~/]|~[01])*)+$")),
            (
                "Path",
                text(
                    "A plain path: no query, no escapes, no `//`, `.` or `..`.",
                    r"^(?=/)(/(?!\.\.?(/|$))[^/?#%;\\]+)*/?$",
                ),
            ),
            (
                "PathTemplate",
                text(
                    "A path with places: `{key}` and `{claim:/name}`.",
                    r#"^/([!-"$-z|~]|\{key\}|\{claim:(/([^~/{}]|~[01])*)+\})*$"#,
                ),
            ),
            (
                "KeyTemplate",
                text(
                    "A key in Redis with claims in braces: `revoked:{jti}`.",
                    r"^([^{]*\{[^}]+\})+[^{}]*$",
                ),
            ),
            (
                "SpiffePattern",
                text(
                    "A SPIFFE id, in which `*` is one whole segment of the path.",
                    r"^spiffe://(?!\.\.?/)[A-Za-z0-9._-]+(/(\*|(?!\.\.?(/|$))[A-Za-z0-9._-]+))+$",
                ),
            ),
            (
                "Template",
                text(
                    "A plain path with places: `{name}` for any segment, `**` for all that follows.",
                    r"^(?=/)(/(?!\.\.?(/|$))([^/?#%;\\{}*]+|\{[A-Za-z0-9_]+\}))*(/\*\*|/)?$",
                ),
            ),
            (
                "Host",
                text(
                    "A host: `api.example.com`, `*.example.com`, `localhost:8080`.",
                    r"^(\*\.)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?$",
                ),
            ),
            ("Scope", text("A scope (RFC 6749 section 3.3).", r"^[!#-\[\]-~]+$")),
            (
                "Origin",
                text(
                    "An origin: `https://www.example.com`, `https://*.example.com`, `null` or `*`.",
                    r"^(\*|null|https?://[^/\s]+)$",
                ),
            ),
            (
                "Network",
                text("An IP address, or a range of them.", r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"),
            ),
            ("HeaderName", text("The name of a header.", HEADER_NAME)),
            ("HeaderValue", text("Visible ASCII with spaces inside.", HEADER_VALUE)),
            (
                "Secret",
                json!({
                    "description": "A secret; `${env:NAME}` reads the VM's environment.",
                    "type": "string",
                    "minLength": 1,
                    "not": {"pattern": r"\$\{env:[^}]*$"},
                }),
            ),
            (
                "PrivateKey",
                json!({
                    "description": "A private JWK as JSON text; `${env:NAME}` reads the VM's environment.",
                    "type": "string",
                    "pattern": r"^\s*\{|\$\{env:[^}]*\}",
                    "not": {"pattern": r"\$\{env:[^}]*$"},
                }),
            ),
            (
                "CallHeaders",
                json!({
                    "type": "object",
                    "propertyNames": {"pattern": HEADER_NAME},
                    "additionalProperties": {
                        "type": "string",
                        "pattern": HEADER_VALUE,
                        "not": {"pattern": r"\$\{env:[^}]*$"},
                    },
                }),
            ),
        ];
        if let Some(Value::Object(definitions)) = self.whole.get_mut("$defs") {
            definitions.extend(kinds.map(|(name, kind)| (name.to_owned(), kind)));
        }
    }

    fn say_what_texts_are(&mut self) {
        let kinds = [
            ("Duration", "ClientCredentials.timeout Sign.ttl TxnIssue.ttl TxnIssue.reuse"),
            ("Duration", "Provider.clock_skew Provider.max_lifetime Introspection.timeout"),
            ("Duration", "Introspection.cache_ttl RemoteJwks.timeout RemoteJwks.cache_duration"),
            ("Duration", "RemoteJwks.max_stale RemoteJwks.unknown_kid_cooldown Lookup.timeout"),
            ("Duration", "Cache.ttl Cache.negative_ttl Cache.stale_while_revalidate"),
            ("Duration", "Cache.stale_if_error RedisCache.timeout Feed.timeout Feed.interval"),
            ("Duration", "Feed.max_age Blacklist.timeout Blacklist.cache_ttl Rule.max_age"),
            ("Duration", "Cors.max_age"),
            ("Uri", "ClientCredentials.uri RemoteJwks.uri Introspection.uri Feed.uri"),
            ("Cluster", "ClientCredentials.cluster RemoteJwks.cluster Introspection.cluster"),
            ("Cluster", "Lookup.cluster RedisCache.cluster Feed.cluster Blacklist.cluster"),
            ("Authority", "Lookup.authority RedisCache.authority Blacklist.authority"),
            ("Pointer", "Lookup.record Lookup.key_field Active.field"),
            ("Pointer", "ContextHeader.user ContextHeader.claim"),
            ("Path", "Match.path Match.path_prefix TxnToken.jwks_path"),
            ("PathTemplate", "Lookup.path"),
            ("Template", "Match.path_template"),
            ("SpiffePattern", "Peer.spiffe_id AuthzPeer.spiffe_id"),
            ("Network", "AuthzPeer.address"),
            ("HeaderName", "FromHeader.name"),
            ("HeaderValue", "Service.name Peer.service_name"),
            ("Secret", "ClientCredentials.client_secret Introspection.client_secret Sharing.key"),
            ("PrivateKey", "Sign.key TxnIssue.key"),
            ("CallHeaders", "Lookup.headers RedisCache.headers Feed.headers Blacklist.headers"),
            ("Text", "ClientCredentials.client_id Introspection.client_id Provider.issuer"),
            ("Text", "Sign.issuer Sign.audience TxnIssue.issuer TxnIssue.audience TxnIssue.kid"),
            ("Text", "ServiceTokens.provider AcceptedTxnToken.provider Login.uri"),
        ];
        for (kind, places) in kinds {
            for (owner, name) in places.split(' ').filter_map(|place| place.split_once('.')) {
                self.property(owner, name, json!({"$ref": format!("#/$defs/{kind}")}));
            }
        }
        for (owner, name, kind) in [
            ("Sign", "permissions", "Text"),
            ("ServiceTokens", "permissions", "Text"),
            ("ForwardedClientCert", "from", "SpiffePattern"),
            ("Destination", "clusters", "Cluster"),
            ("Provider", "audiences", "Text"),
            ("Provider", "authorized_parties", "Text"),
            ("Provider", "algorithms", "Algorithm"),
            ("Provider", "from_headers", "FromHeader"),
            ("Provider", "from_cookies", "Text"),
            ("Provider", "from_params", "Text"),
            ("User", "key", "Text"),
            ("Blacklist", "keys", "KeyTemplate"),
            ("Rule", "roles", "Text"),
            ("Rule", "permissions", "Text"),
            ("Rule", "scopes", "Scope"),
            ("Match", "hosts", "Host"),
            ("Authz", "original_uri", "HeaderName"),
            ("Authz", "original_method", "HeaderName"),
            ("Authz", "original_host", "HeaderName"),
            ("Cors", "allow_origins", "Origin"),
            ("Login", "origins", "Origin"),
            ("Login", "codes", "Text"),
        ] {
            // Not merged into what the items were.
            self.property(owner, name, json!({"items": true, "minItems": 1}));
            let items = json!({"$ref": format!("#/$defs/{kind}")});
            self.property(owner, name, json!({"items": items}));
        }
        self.property("Blacklist", "keys", json!({"maxItems": 8}));
        let facts = Fact::ALL.map(|fact| fact.state().trim_start_matches("meshgate."));
        self.property("AccessLog", "facts", json!({"items": {"enum": facts}}));
        // RFC 9110 section 9.1: case counts, and no method that is used has small letters.
        let method = json!({"minItems": 1, "items": {"minLength": 1, "pattern": "^[^a-z]+$"}});
        self.property("Match", "methods", method);

        for (owner, name, words) in [
            ("Config", "mode", "gateway service egress authz"),
            ("Config", "crypto", "auto host module"),
            ("Destination", "user_token", "strip forward"),
            ("Destination", "context", "strip forward"),
            ("Boundary", "otherwise", "authenticate reject strip"),
            ("Provider", "type", "user service transaction"),
            ("Provider", "preset", "clerk"),
            ("User", "source", "lookup claims"),
            ("Revocation", "on_unavailable", "deny allow"),
            ("Rule", "require", "anonymous optional user service"),
            ("Cors", "preflight", "answer pass"),
            ("Sign", "alg", "EdDSA ES256"),
            ("TxnIssue", "alg", "EdDSA ES256"),
        ] {
            self.property(owner, name, json!({"enum": words.split(' ').collect::<Vec<_>>()}));
        }
        let algorithms: Vec<&str> = "RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 ES256K EdDSA Ed25519 HS256 HS384 HS512 ML-DSA-44 ML-DSA-65 ML-DSA-87".split(' ').collect();
        self.define("Algorithm", json!({"type": "string", "enum": algorithms}));

        for (owner, name, least, most) in [
            ("Body", "status", 400, 599),
            ("Cache", "max_entries", 2, 1_000_000),
            ("Limits", "max_token_bytes", 256, 65_536),
            ("Limits", "max_cached_tokens", 2, 1_000_000),
            ("Limits", "max_waiters", 1, 1_000_000),
            ("Limits", "max_inflight_callouts", 1, 100_000),
            ("Limits", "max_jwks_bytes", 256, 4_194_304),
            ("Limits", "max_user_bytes", 16, 4_194_304),
            ("Limits", "max_feed_bytes", 256, 16_777_216),
            ("Limits", "max_revocations", 1, 1_000_000),
        ] {
            self.property(owner, name, json!({"minimum": least, "maximum": most}));
        }
    }

    fn say_what_is_required(&mut self) {
        for (owner, names) in [
            ("Config", "mode providers"),
            ("Service", "name"),
            ("Destination", "clusters"),
            ("ClientCredentials", "uri cluster client_id client_secret"),
            ("Sign", "key issuer audience"),
            ("Propagation", "by_request_id"),
            ("Peer", "spiffe_id"),
            ("ServiceTokens", "provider"),
            ("AcceptedTxnToken", "provider"),
            ("ForwardedClientCert", "from"),
            ("TxnToken", "issue"),
            ("TxnIssue", "issuer audience key kid"),
            ("Introspection", "uri cluster client_id client_secret"),
            ("RemoteJwks", "uri cluster"),
            ("FromHeader", "name"),
            ("User", "source"),
            ("Lookup", "cluster path"),
            ("RedisCache", "cluster"),
            ("Feed", "uri cluster"),
            ("Blacklist", "cluster"),
            ("Active", "field equals"),
            ("Rule", "match require"),
            ("Cors", "allow_origins"),
            ("Login", "uri"),
            ("Sharing", "key"),
        ] {
            let names: Vec<&str> = names.split(' ').collect();
            if let Some(definition) = self.definition(owner) {
                definition.insert("required".to_owned(), json!(names));
            }
        }
        for (owner, names) in [
            ("OwnToken", "client_credentials sign"),
            ("ContextHeader", "user claim"),
            ("Match", "path path_prefix path_template"),
            ("AuthzPeer", "address spiffe_id"),
        ] {
            let one: Vec<Value> =
                names.split(' ').map(|name| json!({"required": [name]})).collect();
            self.condition(owner, json!({"oneOf": one}));
        }
    }

    fn say_what_goes_together(&mut self) {
        self.property(
            "Sharing",
            "key",
            json!({"anyOf": [{"minLength": 16}, {"pattern": r"\$\{env:[^}]*\}"}]}),
        );
        self.condition(
            "Peer",
            json!({
                "if": {"properties": {"service_name": {"const": "*"}}, "required": ["service_name"]},
                "then": {"properties": {"spiffe_id": {"pattern": r"^[^*]*\*[^*]*$"}}},
            }),
        );
        self.condition(
            "Lookup",
            json!({"anyOf": [
                {"properties": {"path": {"pattern": r"\{key\}"}}},
                {"required": ["body"]},
            ]}),
        );

        self.condition(
            "Rule",
            json!({
                "if": {"anyOf": [
                    {"required": ["roles"]}, {"required": ["permissions"]}, {"required": ["scopes"]},
                    {"required": ["claims"]}, {"required": ["max_age"]},
                ]},
                "then": {"properties": {"require": {"const": "user"}}},
            }),
        );
        self.condition(
            "Body",
            json!({
                "anyOf": [{"required": ["json"]}, {"required": ["text"]}, {"required": ["status"]}],
                "not": {"required": ["json", "text"]},
                "properties": {"status": {"not": {"const": 401}}},
            }),
        );
        self.condition(
            "Cors",
            json!({
                "if": {"required": ["allow_credentials"], "properties": {"allow_credentials": {"const": true}}},
                "then": {"properties": {"allow_origins": {"items": {"not": {"enum": ["*", "null"]}}}}},
            }),
        );
        self.condition(
            "Login",
            json!({
                "if": {"properties": {"uri": {"pattern": r"\{original_url\}"}}},
                "then": {"required": ["origins"]},
            }),
        );
        let values =
            json!({"additionalProperties": {"type": ["boolean", "number", "string", "array"]}});
        self.property("Rule", "claims", values);
        self.condition(
            "User",
            json!({
                "if": {"properties": {"source": {"const": "claims"}}, "required": ["source"]},
                "then": {"properties": {"key": false, "lookup": false, "active": false}},
                "else": {"required": ["lookup"]},
            }),
        );
        self.condition("TxnToken", json!({"dependentRequired": {"also_publish": ["jwks_path"]}}));
        // The members of private and symmetric keys (RFC 7518 sections 6.2.2, 6.3.2 and 6.4).
        let public = json!({
            "type": "object",
            "required": ["kty", "kid"],
            "properties": {
                "kid": {"type": "string", "minLength": 1},
                "d": false, "p": false, "q": false, "dp": false, "dq": false, "qi": false,
                "oth": false, "k": false, "priv": false,
            },
        });
        self.property("TxnToken", "also_publish", json!({"items": public}));
        let taken: Vec<&str> = "host connection content-length content-type transfer-encoding te trailer upgrade keep-alive authorization cookie x-request-id x-forwarded-client-cert x-service-name txn-token".split(' ').collect();
        self.property(
            "Context",
            "headers",
            json!({
                "minProperties": 1,
                "propertyNames": {
                    "pattern": HEADER_NAME,
                    "not": {"anyOf": [{"enum": taken}, {"pattern": "^x-envoy-"}]},
                },
            }),
        );
    }

    fn say_what_a_provider_needs(&mut self) {
        self.property(
            "Provider",
            "required_claims",
            json!({"additionalProperties": {"type": ["boolean", "number", "string", "array"]}}),
        );
        let set = json!({
            "type": ["object", "string"],
            "properties": {"keys": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["kty"]}}},
            "required": ["keys"],
        });
        self.property("Provider", "local_jwks", set);
        let needs = json!({
            "description": "What a provider needs whose tokens are verified.",
            "required": ["issuer"],
            "allOf": [
                {"oneOf": [
                    {"required": ["audiences"], "properties": {"allow_any_audience": {"const": false}}},
                    {
                        "required": ["allow_any_audience"],
                        "properties": {"allow_any_audience": {"const": true}, "audiences": false},
                    },
                ]},
                {"oneOf": [
                    {"required": ["remote_jwks"]},
                    {"required": ["discovery"]},
                    {"required": ["local_jwks"]},
                    {
                        "required": ["introspection"],
                        "properties": {"remote_jwks": false, "discovery": false, "local_jwks": false},
                    },
                ]},
                {
                    "if": {
                        "required": ["algorithms"],
                        "anyOf": [{"required": ["remote_jwks"]}, {"required": ["discovery"]}],
                    },
                    "then": {"properties": {"algorithms": {"contains": {"not": {"pattern": "^HS"}}}}},
                },
                {
                    "if": {"required": ["type"], "properties": {"type": {"const": "service"}}},
                    "then": {"properties": {"introspection": false}},
                },
                {
                    "if": {"required": ["type"], "properties": {"type": {"const": "transaction"}}},
                    "then": {"properties": {
                        "preset": false,
                        "allow_any_audience": {"const": false},
                        "require_expiration": {"const": true},
                        "token_type": false,
                        "introspection": false,
                        "from_headers": false,
                        "from_cookies": false,
                        "from_params": false,
                        "algorithms": {"items": {"not": {"pattern": "^HS"}}},
                    }},
                },
            ],
        });
        self.define("Verified", needs);
    }

    fn say_what_modes_have(&mut self) {
        let mode = |words: &[&str]| json!({"properties": {"mode": {"enum": words}}});
        let verified = json!({"$ref": "#/$defs/Verified"});
        let users = json!({"allOf": [verified, {"properties": {"type": {"const": "user"}}}]});
        let door_to_all = json!({
            "required": ["boundary"],
            "properties": {"boundary": {
                "required": ["otherwise"],
                "properties": {"otherwise": {"enum": ["reject", "strip"]}},
            }},
        });
        for condition in [
            json!({
                "if": mode(&["gateway"]),
                "then": {
                    "required": ["user"],
                    "properties": {
                        "service": false, "boundary": false, "destinations": false,
                        "service_tokens": false, "propagation": false, "authz": false,
                        "providers": {"minProperties": 1, "additionalProperties": users},
                        "rules": {"items": {"properties": {
                            "require": {"enum": ["anonymous", "optional", "user"]},
                        }}},
                    },
                },
            }),
            json!({
                "if": mode(&["authz"]),
                "then": {
                    "required": ["user"],
                    "properties": {
                        "service": false, "boundary": false, "destinations": false,
                        "service_tokens": false, "propagation": false, "cors": false,
                        "login": false,
                        "txn_token": {"properties": {"jwks_path": false}},
                        "providers": {"minProperties": 1, "additionalProperties": users},
                        "rules": {"items": {"properties": {
                            "require": {"enum": ["anonymous", "optional", "user"]},
                        }}},
                    },
                },
            }),
            json!({
                "if": mode(&["service"]),
                "then": {
                    "required": ["service"],
                    "properties": {
                        "destinations": false, "service_tokens": false, "txn_token": false,
                        "authz": false,
                        "providers": {"minProperties": 1, "additionalProperties": verified},
                    },
                    "if": {"not": door_to_all},
                    "then": {"required": ["user"]},
                },
            }),
            json!({
                "if": mode(&["egress"]),
                "then": {
                    "required": ["service", "destinations"],
                    "properties": {
                        "boundary": false, "txn_token": false, "user": false, "revocation": false,
                        "rules": false, "crypto": false, "authz": false, "cors": false,
                        "login": false,
                        "context": {"properties": {"forward_token": false}},
                    },
                },
            }),
            json!({
                "if": {"anyOf": [
                    {"required": ["propagation"], "properties": {"propagation": {
                        "required": ["by_request_id"],
                        "properties": {"by_request_id": {"const": true}},
                    }}},
                    {"required": ["user"], "properties": {"user": {
                        "required": ["lookup"],
                        "properties": {"lookup": {"required": ["redis"]}},
                    }}},
                ]},
                "then": {"required": ["sharing"]},
            }),
        ] {
            self.condition(TOP, condition);
        }
        if let Some(top) = self.definition(TOP) {
            top.insert("title".to_owned(), json!("meshgate"));
        }
    }

    /// Texts of no kind may be any text without a variable in it.
    fn refuse_variables_elsewhere(&mut self) {
        fn refuse(value: &mut Value) {
            match value {
                Value::Object(members) => {
                    let text = members.get("type").is_some_and(|kind| kind == "string");
                    if text
                        && !["pattern", "enum", "not"].iter().any(|it| members.contains_key(*it))
                    {
                        members.insert("not".to_owned(), json!({"pattern": VARIABLE}));
                    }
                    members.values_mut().for_each(refuse);
                }
                Value::Array(items) => items.iter_mut().for_each(refuse),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        refuse(&mut self.whole);
    }
}
