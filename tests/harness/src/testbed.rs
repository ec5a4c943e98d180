//! Envoy with a shipped config between an issuer, a users service and an upstream.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Request;
use crate::envoy::{Envoy, Launch, StartError};
use crate::idp::Idp;
use crate::module;
use crate::upstream::Upstream;
use crate::users::Users;

/// Where the shipped configs expect the module.
const MODULE: &str = "target/wasm32-wasip1/release/meshgate.wasm";

/// Everything a request meets. Envoy ends first.
#[derive(Debug)]
pub struct Testbed {
    /// The proxy under test.
    pub envoy: Envoy,
    /// The cluster `clerk`.
    pub idp: Idp,
    /// The cluster `users`.
    pub users: Users,
    /// The cluster `videos`.
    pub upstream: Upstream,
}

impl Testbed {
    /// `envoy/gateway.yaml`.
    #[track_caller]
    pub fn gateway() -> Builder {
        Testbed::config("gateway.yaml")
    }

    /// A file of `envoy/`: with free ports, the clusters above, and the built module.
    #[track_caller]
    pub fn config(file: &str) -> Builder {
        let bed = Builder {
            launch: Launch::new(Value::Null),
            bootstrap: shipped(file),
            idp: Idp::start(),
            users: Users::start(),
            upstream: Upstream::start(),
        };
        let clusters = [
            ("clerk", bed.idp.address()),
            ("users", bed.users.address()),
            ("videos", bed.upstream.address()),
        ];
        bed.bootstrap(|bootstrap| {
            for (name, address) in clusters {
                // A cluster that the file lacks is not made up for.
                point(bootstrap, name, address);
            }
        })
    }

    /// A GET through Envoy's first listener.
    pub fn get(&self, target: impl AsRef<[u8]>) -> Request {
        Request::get(self.envoy.address(), target)
    }

    /// Panics if the module has trapped, wherever that was.
    #[track_caller]
    pub fn no_traps(&self) {
        self.envoy.no_traps();
    }
}

/// An Envoy that stands in front of another one: a file of `envoy/` that loads no module, on free ports, with its
/// clusters at these addresses. `change` makes it another one.
#[track_caller]
pub fn edge(file: &str, clusters: &[(&str, SocketAddr)], change: impl FnOnce(&mut Value)) -> Envoy {
    let mut bootstrap = bootstrap(file, clusters);
    change(&mut bootstrap);
    Launch::new(bootstrap).start()
}

/// A file of `envoy/`, on free ports, with its clusters at these addresses.
#[track_caller]
pub fn bootstrap(file: &str, clusters: &[(&str, SocketAddr)]) -> Value {
    let mut bootstrap = shipped(file);
    for (name, address) in clusters {
        assert!(point(&mut bootstrap, name, *address), "no cluster `{name}`");
    }
    bootstrap
}

/// A testbed in the making: everything but Envoy runs already.
#[must_use]
#[derive(Debug)]
pub struct Builder {
    launch: Launch,
    bootstrap: Value,
    idp: Idp,
    users: Users,
    upstream: Upstream,
}

impl Builder {
    /// Changes how Envoy is started.
    pub fn launch(mut self, change: impl FnOnce(Launch) -> Launch) -> Builder {
        self.launch = change(self.launch);
        self
    }

    /// The number of Envoy's workers; one unless set.
    pub fn concurrency(mut self, workers: u32) -> Builder {
        self.launch = self.launch.concurrency(workers);
        self
    }

    /// Sets a variable of Envoy's environment.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.launch = self.launch.env(name, value);
        self
    }

    /// See [`Launch::component_log_level`].
    pub fn component_log_level(mut self, levels: &str) -> Builder {
        self.launch = self.launch.component_log_level(levels);
        self
    }

    /// See [`Launch::drain_time`].
    pub fn drain_time(mut self, time: Duration) -> Builder {
        self.launch = self.launch.drain_time(time);
        self
    }

    /// Prepares the issuer before Envoy starts.
    pub fn idp(self, prepare: impl FnOnce(&Idp)) -> Builder {
        prepare(&self.idp);
        self
    }

    /// Prepares the users service before Envoy starts.
    pub fn users(self, prepare: impl FnOnce(&Users)) -> Builder {
        prepare(&self.users);
        self
    }

    /// Prepares the upstream before Envoy starts.
    pub fn upstream(self, prepare: impl FnOnce(&Upstream)) -> Builder {
        prepare(&self.upstream);
        self
    }

    /// Changes Envoy's config, in which ports and clusters are filled in.
    pub fn bootstrap(mut self, change: impl FnOnce(&mut Value)) -> Builder {
        change(&mut self.bootstrap);
        self
    }

    /// Points the cluster of this name at an address; adds it where there is none.
    #[track_caller]
    pub fn with_cluster(self, name: &str, address: SocketAddr) -> Builder {
        self.bootstrap(|bootstrap| {
            if point(bootstrap, name, address) {
                return;
            }
            let clusters = bootstrap["static_resources"]["clusters"].as_array_mut();
            clusters.expect("a config with clusters").push(json!({
                "name": name, "type": "STATIC", "connect_timeout": "1s",
                "load_assignment": {"cluster_name": name},
            }));
            point(bootstrap, name, address);
        })
    }

    /// Changes the filter's own config.
    #[track_caller]
    pub fn filter_config(self, change: impl FnMut(&mut Value)) -> Builder {
        self.bootstrap(|bootstrap| filter_config(bootstrap, change))
    }

    /// Starts Envoy, after building the module.
    #[track_caller]
    pub fn start(self) -> Testbed {
        self.try_start().unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`Builder::start`], for configs that may be refused.
    #[track_caller]
    pub fn try_start(mut self) -> Result<Testbed, StartError> {
        load_module(&mut self.bootstrap);
        let Builder { launch, bootstrap, idp, users, upstream } = self;
        let envoy = launch.bootstrap(bootstrap).try_start()?;
        Ok(Testbed { envoy, idp, users, upstream })
    }
}

/// A file of `envoy/`, with free ports.
#[track_caller]
pub(crate) fn shipped(file: &str) -> Value {
    shipped_with(file, &[])
}

/// [`shipped`], with these of its parts that are commented out.
#[track_caller]
pub(crate) fn shipped_with(file: &str, parts: &[&str]) -> Value {
    let path = module::workspace().join("envoy").join(file);
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let mut bootstrap: Value = yaml_serde::from_str(&with_parts(&text, parts))
        .unwrap_or_else(|error| panic!("{} is not YAML: {error}", path.display()));
    free_ports(&mut bootstrap);
    bootstrap
}

/// A YAML file's text with these of its parts that are commented out: each is a line that begins so behind
/// `# `, and what is indented below it. Panics where there is not exactly one.
#[track_caller]
pub fn with_parts(text: &str, parts: &[&str]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for part in parts {
        let begins = |line: &String| {
            let commented = line.trim_start().strip_prefix("# ");
            commented.is_some_and(|line| line.starts_with(part))
        };
        let found: Vec<usize> = (0..lines.len()).filter(|at| begins(&lines[*at])).collect();
        let [first] = found[..] else {
            panic!("`# {part}` stands in {} places", found.len());
        };
        let column = lines[first].find('#').unwrap_or_default();
        let below = format!("{}#   ", " ".repeat(column));
        for (at, line) in lines.iter_mut().enumerate().skip(first) {
            if at > first && !line.starts_with(&below) {
                break;
            }
            line.replace_range(column..column + 2, "");
        }
    }
    lines.join("\n")
}

/// Changes the config of every filter of ours.
#[track_caller]
pub(crate) fn filter_config(bootstrap: &mut Value, mut change: impl FnMut(&mut Value)) {
    let mut found = false;
    wasm_filters(bootstrap, &mut |wasm| {
        found = true;
        let config = &mut wasm["config"]["configuration"]["value"];
        // A `StringValue` holds the text, a `Struct` the document itself.
        let text = config.as_str().map(str::to_owned);
        if let Some(text) = &text {
            *config = yaml_serde::from_str(text).expect("a config in JSON or YAML");
        }
        change(config);
        if text.is_some() {
            *config = json!(config.to_string());
        }
    });
    assert!(found, "the config has no wasm filter to configure");
}

/// Builds the module, and has every filter load it that a test has not given another.
#[track_caller]
pub fn load_module(bootstrap: &mut Value) {
    wasm_filters(bootstrap, &mut |wasm| {
        let filename = &mut wasm["config"]["vm_config"]["code"]["local"]["filename"];
        if filename == MODULE {
            *filename = json!(module::build());
        }
    });
}

/// Points the cluster of this name at an address; false if there is none.
pub fn point(bootstrap: &mut Value, name: &str, address: SocketAddr) -> bool {
    let clusters = bootstrap["static_resources"]["clusters"].as_array_mut();
    let cluster = clusters.into_iter().flatten().find(|cluster| cluster["name"] == name);
    let found = cluster.is_some();
    if let Some(cluster) = cluster {
        let socket =
            json!({"socket_address": {"address": address.ip(), "port_value": address.port()}});
        cluster["load_assignment"]["endpoints"] =
            json!([{"lb_endpoints": [{"endpoint": {"address": socket}}]}]);
    }
    found
}

fn free_ports(bootstrap: &mut Value) {
    let free = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
    bootstrap["admin"]["address"] = free.clone();
    for listener in bootstrap["static_resources"]["listeners"].as_array_mut().into_iter().flatten()
    {
        listener["address"] = free.clone();
    }
}

/// Calls `visit` with the typed config of every wasm filter, wherever it stands.
fn wasm_filters(value: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    let kind = value.get("@type").and_then(Value::as_str).unwrap_or_default();
    if kind.ends_with("/envoy.extensions.filters.http.wasm.v3.Wasm") {
        return visit(value);
    }
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(|member| wasm_filters(member, visit))
        }
        Value::Array(items) => items.iter_mut().for_each(|item| wasm_filters(item, visit)),
        _ => {}
    }
}
