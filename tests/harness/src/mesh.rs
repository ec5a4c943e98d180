//! A mesh of real Envoys: the edge's gateway, and over mTLS the inbound sidecar of the service `videos`; and, where
//! a test wants it, the exit of `videos` in that same Envoy, and the service `channels` behind it.
//!
//! ```no_run
//! use harness::mesh::{Mesh, spiffe};
//!
//! let mesh = Mesh::videos().start();
//! // A client's way, through the gateway; and a service's own, straight to the sidecar.
//! mesh.get("/api/videos/1").send();
//! let channels = mesh.ca.issue(&spiffe("default", "channels-service"));
//! mesh.call(&channels, "/videos/1").header("x-user-id", "u-1001").send();
//! assert_eq!(mesh.app.take().len(), 2);
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::client::Request;
use crate::envoy::{Envoy, Launch, StartError};
use crate::idp::{Idp, Key, SERVICE_AUDIENCE, SERVICE_ISSUER, service_claims};
use crate::pki::{Ca, Identity};
use crate::server::{Answer, Behavior, Seen, Server};
use crate::testbed::{filter_config, load_module, point, shipped, shipped_with};
use crate::upstream::Upstream;
use crate::users::Users;

/// The header that carries service tokens, where [`Builder::service_tokens`] are on.
pub const SERVICE_TOKEN: &str = "X-Service-Authorization";

/// The SPIFFE id of a workload of this mesh.
pub fn spiffe(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

/// The `client_secret` of the exit.
pub const CLIENT_SECRET: &str = "a-secret-for-tests-alone";

/// Everything a request meets. The Envoys end first.
#[derive(Debug)]
pub struct Mesh {
    /// `envoy/gateway.yaml`, and its config. Its cluster `videos` is the sidecar.
    gateway: Option<(Envoy, Value)>,
    /// `envoy/sidecar.yaml`, with the listeners of `envoy/egress.yaml` where there is a way on.
    pub sidecar: Envoy,
    /// The way on: what [`Builder::exit`] starts.
    beyond: Option<(Envoy, Beyond)>,
    /// The cluster `clerk` of both.
    pub idp: Idp,
    /// The cluster `users` of both.
    pub users: Users,
    /// The cluster `app` of the sidecar: the service itself.
    pub app: Upstream,
    /// Vouches for the workloads.
    pub ca: Ca,
    /// Signs service tokens.
    pub service_key: Key,
    /// Where the context is signed.
    signed: Option<Signed>,
}

/// What [`Mesh::signed`] adds.
#[derive(Debug)]
struct Signed {
    key: Key,
    edge: Upstream,
}

/// The parts of the shipped configs with which the gateway signs the context, and a sidecar believes it.
const SIGNING: [&str; 2] = ["environment_variables:", "txn_token:"];
const BELIEVING: [&str; 3] = ["gateway:", "txn_token:", "- name: edge"];

impl Mesh {
    /// gateway -> videos.
    #[track_caller]
    pub fn videos() -> Builder {
        Mesh::between(shipped("gateway.yaml"), shipped("sidecar.yaml"))
    }

    /// [`Mesh::videos`], with what the shipped configs have for signed context. Sidecars fetch the gateway's
    /// keys from the gateway, so it cannot be left out.
    #[track_caller]
    pub fn signed() -> Builder {
        let gateway = shipped_with("gateway.yaml", &SIGNING);
        let mut sidecar = shipped_with("sidecar.yaml", &BELIEVING);
        let edge = Upstream::start();
        // The gateway starts when the sidecar runs.
        edge.behave(Behavior::Hold);
        fetch_keys(&mut sidecar, &edge);
        let mut builder = Mesh::between(gateway, sidecar);
        builder.mesh.signed = Some(Signed { key: Key::es256("g1"), edge });
        builder
    }

    #[track_caller]
    fn between(mut gateway: Value, mut sidecar: Value) -> Builder {
        let (idp, users, app) = (Idp::start(), Users::start(), Upstream::start());
        let ca = Ca::new("the mesh");

        for bootstrap in [&mut gateway, &mut sidecar] {
            assert!(point(bootstrap, "clerk", idp.address()), "no cluster `clerk`");
            assert!(point(bootstrap, "users", users.address()), "no cluster `users`");
        }
        assert!(point(&mut sidecar, "app", app.address()), "no cluster `app`");

        let videos = spiffe("default", "videos");
        certify(&mut sidecar, &ca, &ca.issue(&videos));
        let mut tls = ca.tls_context(&ca.issue(&spiffe("edge", "gateway")));
        tls["validation_context"]["match_typed_subject_alt_names"] =
            json!([{"san_type": "URI", "matcher": {"exact": videos}}]);
        let clusters = gateway["static_resources"]["clusters"].as_array_mut();
        let cluster = clusters.into_iter().flatten().find(|cluster| cluster["name"] == "videos");
        cluster.expect("a cluster `videos`")["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": tls,
            },
        });
        Builder {
            gateway: Some(gateway),
            sidecar,
            exit: None,
            binary: None,
            mesh: Parts { idp, users, app, ca, service_key: Key::es256("mesh-1"), signed: None },
        }
    }

    /// The gateway, where [`Builder::without_gateway`] has not left it out.
    #[track_caller]
    pub fn gateway(&self) -> &Envoy {
        &self.gateway.as_ref().expect("a mesh with its gateway").0
    }

    /// One more gateway before the same sidecar, with its filter configured in another way.
    #[track_caller]
    pub fn another_gateway(&self, change: impl FnMut(&mut Value)) -> Envoy {
        let mut bootstrap = self.gateway.as_ref().expect("a mesh with its gateway").1.clone();
        filter_config(&mut bootstrap, change);
        launch(bootstrap, self.signed.as_ref()).start()
    }

    /// The cluster `edge` of the sidecars: fetches the gateway's keys for them.
    #[track_caller]
    pub fn edge(&self) -> &Upstream {
        &self.signed.as_ref().expect("a mesh of signed context").edge
    }

    /// The key that the gateway signs the context with.
    #[track_caller]
    pub fn txn_key(&self) -> &Key {
        &self.signed.as_ref().expect("a mesh of signed context").key
    }

    /// Has [`Mesh::edge`] fetch this gateway's keys from now on.
    #[track_caller]
    pub fn publish_keys_of(&self, gateway: &Envoy) {
        publish(self.edge(), gateway);
    }

    /// A client's GET, to the gateway.
    #[track_caller]
    pub fn get(&self, target: impl AsRef<[u8]>) -> Request {
        Request::get(self.gateway().address(), target)
    }

    /// A GET to the sidecar, past the gateway, over TLS with this certificate.
    pub fn call(&self, identity: &Identity, target: impl AsRef<[u8]>) -> Request {
        Request::get(self.inbound(), target).tls(&self.ca.client(Some(identity)))
    }

    /// Where the sidecar takes mTLS connections.
    pub fn inbound(&self) -> SocketAddr {
        self.sidecar.address_of("inbound")
    }

    /// A GET of the service `videos` itself, on its way out to the host `channels`.
    #[track_caller]
    pub fn outbound(&self, target: impl AsRef<[u8]>) -> Request {
        Request::get(self.sidecar.address_of("outbound"), target).header("Host", "channels")
    }

    /// What is behind the exit.
    #[track_caller]
    pub fn beyond(&self) -> &Beyond {
        &self.beyond.as_ref().expect("a mesh with an exit").1
    }

    /// A good token of this service.
    pub fn service_token(&self, service: &str, permissions: &[&str]) -> String {
        self.service_key.token(&service_claims(service, permissions))
    }

    /// Panics if a module has trapped, whichever it was.
    #[track_caller]
    pub fn no_traps(&self) {
        let channels = self.beyond.iter().map(|(envoy, _)| envoy);
        let gateway = self.gateway.iter().map(|(envoy, _)| envoy);
        gateway.chain([&self.sidecar]).chain(channels).for_each(Envoy::no_traps);
    }
}

/// What the exit of `videos` leads to.
#[derive(Debug)]
pub struct Beyond {
    /// The service `channels`, behind a sidecar of its own.
    pub channels: Upstream,
    /// The cluster `thumbnails`: somebody else's, in no destination.
    pub thumbnails: Upstream,
    /// The cluster `mesh-auth`: answers every request with a token of `videos`, for five minutes.
    pub token_endpoint: Server,
}

#[derive(Debug)]
struct Exit {
    egress: Value,
    channels: Value,
    beyond: Beyond,
}

/// A mesh in the making: everything but the Envoys runs already.
#[must_use]
#[derive(Debug)]
pub struct Builder {
    gateway: Option<Value>,
    sidecar: Value,
    exit: Option<Exit>,
    mesh: Parts,
    binary: Option<PathBuf>,
}

#[derive(Debug)]
struct Parts {
    idp: Idp,
    users: Users,
    app: Upstream,
    ca: Ca,
    service_key: Key,
    signed: Option<Signed>,
}

impl Builder {
    /// Runs this Envoy everywhere: see [`Launch::binary`].
    pub fn binary(mut self, envoy: &Path) -> Builder {
        self.binary = Some(envoy.into());
        self
    }

    /// Leaves the gateway out, for tests that go past it: starting an Envoy takes seconds on a busy machine.
    pub fn without_gateway(mut self) -> Builder {
        self.gateway = None;
        self
    }

    /// Changes the gateway's Envoy config, in which ports and clusters are filled in.
    #[track_caller]
    pub fn gateway(mut self, change: impl FnOnce(&mut Value)) -> Builder {
        change(self.gateway.as_mut().expect("a mesh with its gateway"));
        self
    }

    /// Changes the sidecar's Envoy config, in which ports, clusters and certificates are filled in.
    pub fn sidecar(mut self, change: impl FnOnce(&mut Value)) -> Builder {
        change(&mut self.sidecar);
        self
    }

    /// Changes the config of the gateway's filter.
    #[track_caller]
    pub fn gateway_config(self, change: impl FnMut(&mut Value)) -> Builder {
        self.gateway(|bootstrap| filter_config(bootstrap, change))
    }

    /// Changes the config of the sidecar's filter.
    #[track_caller]
    pub fn sidecar_config(self, change: impl FnMut(&mut Value)) -> Builder {
        self.sidecar(|bootstrap| filter_config(bootstrap, change))
    }

    /// Gives `videos` a way out, `envoy/egress.yaml` in the sidecar's Envoy, and beyond it the service
    /// `channels`, whose sidecar asks for `internal:read` in service tokens.
    #[track_caller]
    pub fn exit(mut self) -> Builder {
        let Parts { idp, users, ca, service_key, signed, .. } = &self.mesh;
        let signer = service_key.clone();
        let token_endpoint = Server::start(move |_: &Seen| {
            let token = signer.token(&service_claims("videos", &["internal:read"]));
            let grant = json!({"access_token": token, "token_type": "Bearer", "expires_in": 300});
            Answer::json(200, &grant)
        });
        let (app, thumbnails) = (Upstream::start(), Upstream::start());

        let mut egress = shipped("egress.yaml");
        assert!(point(&mut egress, "thumbnails", thumbnails.address()), "no cluster `thumbnails`");
        let asked = point(&mut egress, "mesh-auth", token_endpoint.address());
        assert!(asked, "no cluster `mesh-auth`");
        certify(&mut egress, ca, &ca.issue(&spiffe("default", "videos")));

        let mut channels = match signed {
            None => shipped("sidecar.yaml"),
            Some(Signed { edge, .. }) => {
                let mut channels = shipped_with("sidecar.yaml", &BELIEVING);
                fetch_keys(&mut channels, edge);
                channels
            }
        };
        for (name, address) in
            [("clerk", idp.address()), ("users", users.address()), ("app", app.address())]
        {
            assert!(point(&mut channels, name, address), "no cluster `{name}`");
        }
        certify(&mut channels, ca, &ca.issue(&spiffe("default", "channels")));
        filter_config(&mut channels, |config| config["service"]["name"] = json!("channels"));
        let rules = json!({"permissions": ["internal:read"], "bind_to_peer": true});
        take_service_tokens(&mut channels, service_key, &rules);

        let beyond = Beyond { channels: app, thumbnails, token_endpoint };
        self.exit = Some(Exit { egress, channels, beyond });
        self
    }

    /// Changes the exit's Envoy config, in which ports, clusters and certificates are filled in.
    #[track_caller]
    pub fn egress(mut self, change: impl FnOnce(&mut Value)) -> Builder {
        change(&mut self.exit.as_mut().expect("a mesh with an exit").egress);
        self
    }

    /// Changes the config of the exit's filter.
    #[track_caller]
    pub fn egress_config(self, change: impl FnMut(&mut Value)) -> Builder {
        self.egress(|bootstrap| filter_config(bootstrap, change))
    }

    /// Changes the config of the filter at the door of `channels`.
    #[track_caller]
    pub fn channels_config(mut self, change: impl FnMut(&mut Value)) -> Builder {
        filter_config(&mut self.exit.as_mut().expect("a mesh with an exit").channels, change);
        self
    }

    /// Prepares what is behind the exit before an Envoy starts.
    #[track_caller]
    pub fn beyond(self, prepare: impl FnOnce(&Beyond)) -> Builder {
        prepare(&self.exit.as_ref().expect("a mesh with an exit").beyond);
        self
    }

    /// The key that signs service tokens, which the doors know.
    pub fn service_key(&self) -> &Key {
        &self.mesh.service_key
    }

    /// The key that the gateway signs the context with, where it does.
    #[track_caller]
    pub fn txn_key(&self) -> &Key {
        &self.mesh.signed.as_ref().expect("a mesh of signed context").key
    }

    /// Has the sidecar take service tokens in [`SERVICE_TOKEN`]: `rules` is `boundary.service_tokens` but
    /// for its `provider`.
    #[track_caller]
    pub fn service_tokens(mut self, rules: &Value) -> Builder {
        take_service_tokens(&mut self.sidecar, &self.mesh.service_key, rules);
        self
    }

    /// Starts the Envoys, after building the module.
    #[track_caller]
    pub fn start(self) -> Mesh {
        self.try_start().unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`Builder::start`], for configs that may be refused.
    #[track_caller]
    pub fn try_start(mut self) -> Result<Mesh, StartError> {
        let binary = self.binary;
        let run = |launch: Launch| match &binary {
            None => launch.try_start(),
            Some(binary) => launch.binary(binary).try_start(),
        };
        let beyond = match self.exit {
            None => None,
            Some(Exit { mut egress, mut channels, beyond }) => {
                load_module(&mut channels);
                let envoy = run(Launch::new(channels))?;
                let inbound = envoy.address_of("inbound");
                assert!(point(&mut egress, "channels", inbound), "no cluster `channels`");
                join(&mut self.sidecar, &mut egress);
                Some((envoy, beyond))
            }
        };
        load_module(&mut self.sidecar);
        let sidecar = Launch::new(self.sidecar)
            .env("MESH_CLIENT_SECRET", CLIENT_SECRET)
            .env("MESHGATE_SHARING_KEY", "a-key-for-this-test-alone");
        let sidecar = run(sidecar)?;
        let gateway = match self.gateway {
            None => None,
            Some(mut bootstrap) => {
                load_module(&mut bootstrap);
                let inbound = sidecar.address_of("inbound");
                assert!(point(&mut bootstrap, "videos", inbound), "no cluster `videos`");
                let envoy = run(launch(bootstrap.clone(), self.mesh.signed.as_ref()))?;
                if let Some(Signed { edge, .. }) = &self.mesh.signed {
                    publish(edge, &envoy);
                    edge.release();
                }
                Some((envoy, bootstrap))
            }
        };
        let Parts { idp, users, app, ca, service_key, signed } = self.mesh;
        Ok(Mesh { gateway, sidecar, beyond, idp, users, app, ca, service_key, signed })
    }
}

/// A gateway, with its key if it signs.
fn launch(bootstrap: Value, signed: Option<&Signed>) -> Launch {
    let launch = Launch::new(bootstrap);
    match signed {
        None => launch,
        Some(Signed { key, .. }) => launch.env("TXN_KEY", &key.private_jwk().to_string()),
    }
}

/// Has `edge` pass requests on to this gateway.
fn publish(edge: &Upstream, gateway: &Envoy) {
    let gateway = gateway.address();
    edge.calls(move |seen| Request::new(gateway, &seen.method, &seen.path));
}

/// Has a sidecar fetch the gateway's keys, and wait for them until there is a gateway.
#[track_caller]
fn fetch_keys(bootstrap: &mut Value, edge: &Upstream) {
    assert!(point(bootstrap, "edge", edge.address()), "no cluster `edge`");
    filter_config(bootstrap, |config| {
        config["providers"]["gateway"]["remote_jwks"]["timeout"] = json!("60s");
    });
}

/// Fills in the workload's certificate.
#[track_caller]
fn certify(bootstrap: &mut Value, ca: &Ca, identity: &Identity) {
    let files = [
        ("/etc/certs/cert.pem", identity.certificate()),
        ("/etc/certs/key.pem", identity.key()),
        ("/etc/certs/ca.pem", ca.file()),
    ];
    for (placeholder, file) in files {
        let found = replace(bootstrap, placeholder, &json!(file));
        assert!(found > 0, "the config names no {placeholder}");
    }
}

#[track_caller]
fn take_service_tokens(bootstrap: &mut Value, key: &Key, rules: &Value) {
    filter_config(bootstrap, |config| {
        config["providers"]["mesh"] = json!({
            "type": "service", "issuer": SERVICE_ISSUER, "audiences": [SERVICE_AUDIENCE],
            "local_jwks": {"keys": [key.jwk()]},
            "from_headers": [{"name": SERVICE_TOKEN.to_ascii_lowercase(), "value_prefix": "Bearer "}],
        });
        config["boundary"]["service_tokens"] = rules.clone();
        config["boundary"]["service_tokens"]["provider"] = json!("mesh");
    });
}

/// Puts the listeners and clusters of `other` into `bootstrap`, behind its own.
fn join(bootstrap: &mut Value, other: &mut Value) {
    for kind in ["listeners", "clusters"] {
        let more = other["static_resources"][kind].as_array_mut().map(std::mem::take);
        let all = bootstrap["static_resources"][kind].as_array_mut();
        all.expect("a list of them").extend(more.unwrap_or_default());
    }
}

/// Puts `new` wherever the text `old` stands, and says in how many places it did.
fn replace(value: &mut Value, old: &str, new: &Value) -> usize {
    match value {
        Value::String(text) if text == old => {
            *value = new.clone();
            1
        }
        Value::Object(members) => {
            members.values_mut().map(|member| replace(member, old, new)).sum()
        }
        Value::Array(items) => items.iter_mut().map(|item| replace(item, old, new)).sum(),
        _ => 0,
    }
}
