//! A mesh of real Envoys: the edge's gateway, and over mTLS the inbound sidecar of the service `videos`.
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

use serde_json::{Value, json};

use crate::client::Request;
use crate::envoy::{Envoy, Launch, StartError};
use crate::idp::{Idp, Key, SERVICE_AUDIENCE, SERVICE_ISSUER, service_claims};
use crate::pki::{Ca, Identity};
use crate::testbed::{filter_config, load_module, point, shipped};
use crate::upstream::Upstream;
use crate::users::Users;

/// The header that carries service tokens, where [`Builder::service_tokens`] are on.
pub const SERVICE_TOKEN: &str = "X-Service-Authorization";

/// The SPIFFE id of a workload of this mesh.
pub fn spiffe(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

/// Everything a request meets. The Envoys end first.
#[derive(Debug)]
pub struct Mesh {
    /// `envoy/gateway.yaml`. Its cluster `videos` is the sidecar.
    gateway: Option<Envoy>,
    /// `envoy/sidecar.yaml`.
    pub sidecar: Envoy,
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
}

impl Mesh {
    /// gateway -> videos.
    #[track_caller]
    pub fn videos() -> Builder {
        let (idp, users, app) = (Idp::start(), Users::start(), Upstream::start());
        let ca = Ca::new("the mesh");

        let mut gateway = shipped("gateway.yaml");
        let mut sidecar = shipped("sidecar.yaml");
        for bootstrap in [&mut gateway, &mut sidecar] {
            assert!(point(bootstrap, "clerk", idp.address()), "no cluster `clerk`");
            assert!(point(bootstrap, "users", users.address()), "no cluster `users`");
        }
        assert!(point(&mut sidecar, "app", app.address()), "no cluster `app`");

        let videos = spiffe("default", "videos");
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
        let identity = ca.issue(&videos);
        let files = [
            ("/etc/certs/cert.pem", identity.certificate()),
            ("/etc/certs/key.pem", identity.key()),
            ("/etc/certs/ca.pem", ca.file()),
        ];
        for (placeholder, file) in files {
            let found = replace(&mut sidecar, placeholder, &json!(file));
            assert!(found > 0, "envoy/sidecar.yaml names no {placeholder}");
        }
        Builder {
            gateway: Some(gateway),
            sidecar,
            mesh: Parts { idp, users, app, ca, service_key: Key::es256("mesh-1") },
        }
    }

    /// The gateway, where [`Builder::without_gateway`] has not left it out.
    #[track_caller]
    pub fn gateway(&self) -> &Envoy {
        self.gateway.as_ref().expect("a mesh with its gateway")
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

    /// A good token of this service.
    pub fn service_token(&self, service: &str, permissions: &[&str]) -> String {
        self.service_key.token(&service_claims(service, permissions))
    }

    /// Panics if a module has trapped, whichever it was.
    #[track_caller]
    pub fn no_traps(&self) {
        self.gateway.iter().chain([&self.sidecar]).for_each(Envoy::no_traps);
    }
}

/// A mesh in the making: everything but the Envoys runs already.
#[must_use]
#[derive(Debug)]
pub struct Builder {
    gateway: Option<Value>,
    sidecar: Value,
    mesh: Parts,
}

#[derive(Debug)]
struct Parts {
    idp: Idp,
    users: Users,
    app: Upstream,
    ca: Ca,
    service_key: Key,
}

impl Builder {
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

    /// Has the sidecar take service tokens in [`SERVICE_TOKEN`]: `rules` is `boundary.service_tokens` but
    /// for its `provider`.
    #[track_caller]
    pub fn service_tokens(self, rules: &Value) -> Builder {
        let jwk = self.mesh.service_key.jwk();
        self.sidecar_config(|config| {
            config["providers"]["mesh"] = json!({
                "type": "service", "issuer": SERVICE_ISSUER, "audiences": [SERVICE_AUDIENCE],
                "local_jwks": {"keys": [jwk]},
                "from_headers": [{"name": SERVICE_TOKEN.to_ascii_lowercase(), "value_prefix": "Bearer "}],
            });
            config["boundary"]["service_tokens"] = rules.clone();
            config["boundary"]["service_tokens"]["provider"] = json!("mesh");
        })
    }

    /// Starts the Envoys, after building the module.
    #[track_caller]
    pub fn start(self) -> Mesh {
        self.try_start().unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`Builder::start`], for configs that may be refused.
    #[track_caller]
    pub fn try_start(mut self) -> Result<Mesh, StartError> {
        load_module(&mut self.sidecar);
        let sidecar = Launch::new(self.sidecar).try_start()?;
        let gateway = match self.gateway {
            None => None,
            Some(mut bootstrap) => {
                load_module(&mut bootstrap);
                let inbound = sidecar.address_of("inbound");
                assert!(point(&mut bootstrap, "videos", inbound), "no cluster `videos`");
                Some(Launch::new(bootstrap).try_start()?)
            }
        };
        let Parts { idp, users, app, ca, service_key } = self.mesh;
        Ok(Mesh { gateway, sidecar, idp, users, app, ca, service_key })
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
