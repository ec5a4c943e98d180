//! What stands around a config in Envoy's or Istio's file and does not go with it.

use meshgate::config::{Config, Mode};

use super::document::{Plugin, Site, either};
use super::yaml::{Node, Place};

/// Something to be told.
pub struct Remark {
    /// Where, if not in the config.
    pub at: Option<Place>,
    /// The path in the config; empty where it is not about a part of that.
    pub path: String,
    /// What.
    pub message: String,
}

/// All that is to be told of what stands around a config. `config` is `None` where it has problems.
pub fn remarks(document: &Node, site: &Site<'_>, config: Option<&Config>) -> Vec<Remark> {
    let mut all = Vec::new();
    failure(site.plugin, &mut all);
    if let Some(config) = config {
        order(site, config, &mut all);
        clusters(document, config, &mut all);
    }
    all
}

/// `FAIL_RELOAD` is not told: it loads the module anew, and fails closed where that fails.
fn failure(plugin: Plugin<'_>, all: &mut Vec<Remark>) {
    let (value, closed) = match plugin {
        Plugin::Envoy(plugin) => (
            either(plugin, "failure_policy", "failurePolicy")
                .filter(|policy| policy.text() == Some("FAIL_OPEN"))
                .or_else(|| {
                    let open = either(plugin, "fail_open", "failOpen")?;
                    (open.to_json(&mut Vec::new()) == true).then_some(open)
                }),
            "failure_policy: FAIL_CLOSED",
        ),
        Plugin::Istio(spec) => (
            spec.get("failStrategy").filter(|strategy| strategy.text() == Some("FAIL_OPEN")),
            "failStrategy: FAIL_CLOSE",
        ),
        Plugin::Bare => return,
    };
    if let Some(value) = value {
        all.push(Remark {
            at: Some(value.at),
            path: String::new(),
            message: format!(
                "a module that cannot be loaded, or traps, lets every request through unchecked, write `{closed}`"
            ),
        });
    }
}

/// Filters that act on headers see, before meshgate, what a client forged.
fn order(site: &Site<'_>, config: &Config, all: &mut Vec<Remark>) {
    /// By the last part of their names; Envoy goes by the type, which has the same words.
    const ACT_ON_HEADERS: [&str; 6] =
        ["ext_authz", "rbac", "lua", "ratelimit", "local_ratelimit", "ext_proc"];
    match config.mode {
        Mode::Gateway | Mode::Service(_) => {}
        // Where the headers are the service's own, or reach no upstream.
        Mode::Egress(_) | Mode::Authz(_) => return,
    }
    for filter in site.before {
        let kind = filter.find(&["typed_config", "@type"]).and_then(Node::text).unwrap_or_default();
        let name = filter.get("name").and_then(Node::text).unwrap_or_default();
        let is = |word: &&&str| {
            kind.contains(&format!(".http.{word}.")) || name == format!("envoy.filters.http.{word}")
        };
        if let Some(word) = ACT_ON_HEADERS.iter().find(is) {
            all.push(Remark {
                at: Some(filter.at),
                path: String::new(),
                message: format!(
                    "`{word}` stands before meshgate and sees context headers that a client forged, put it behind"
                ),
            });
        }
    }
}

/// Clusters that a whole bootstrap does not have, or that speak no TLS to an `https:` URI.
fn clusters(document: &Node, config: &Config, all: &mut Vec<Remark>) {
    let Some(resources) = either(document, "static_resources", "staticResources") else {
        return;
    };
    // Clusters may come from elsewhere, too.
    if either(document, "dynamic_resources", "dynamicResources").is_some() {
        return;
    }
    let defined = resources.get("clusters").map(Node::items).unwrap_or_default();
    for callee in config.callees() {
        let cluster = callee.cluster.as_str();
        let is_it = |one: &&Node| one.get("name").and_then(Node::text) == Some(cluster);
        let path = format!("{}.cluster", callee.path);
        match defined.iter().find(is_it) {
            None => {
                let names: Vec<&str> =
                    defined.iter().filter_map(|one| one.get("name")?.text()).collect();
                all.push(Remark {
                    at: None,
                    path,
                    message: format!(
                        "this Envoy has no cluster `{cluster}`, there are `{}`",
                        names.join("`, `")
                    ),
                });
            }
            Some(found) => {
                let secure = [
                    "transport_socket",
                    "transportSocket",
                    "transport_socket_matches",
                    "transportSocketMatches",
                ];
                if callee.uri.is_some_and(|uri| uri.scheme == "https")
                    && !secure.iter().any(|name| found.get(name).is_some())
                {
                    all.push(Remark {
                        at: None,
                        path,
                        message: format!(
                            "the URI is `https:` but the cluster `{cluster}` speaks no TLS, give it a `transport_socket`"
                        ),
                    });
                }
            }
        }
    }
}
