//! What a real istiod makes of the resources under `envoy/istio`, in a plain Envoy that it configures over xDS.
//!
//! No cluster: a small API server has the resources, and services are `ServiceEntry`s that lead to the testbed's. What
//! only Istio's own proxy has is left out: its telemetry filters, and its agent, which fetches `oci://` and makes the
//! certificates of mTLS.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::client::Request;
use harness::envoy::{Envoy, Launch};
use harness::idp::{Idp, seed_claims};
use harness::process::{Process, scratch};
use harness::skip::require;
use harness::upstream::Upstream;
use harness::users::Users;
use harness::{go, module};
use serde_json::{Value, json};

use crate::kubernetes;

const START: Duration = Duration::from_secs(60);

/// What the resources name, on this machine.
struct Services {
    idp: Idp,
    users: Users,
    videos: Upstream,
    channels: Upstream,
}

impl Services {
    fn start() -> Self {
        Self {
            idp: Idp::start(),
            users: Users::start(),
            videos: Upstream::start(),
            channels: Upstream::start(),
        }
    }

    /// In the place of Kubernetes' services, and of the issuer that `support/issuer.yaml` leads to.
    fn entries(&self) -> Vec<Value> {
        let entry = |host: &str, port: u16, address: SocketAddr| {
            json!({
                "apiVersion": "networking.istio.io/v1",
                "kind": "ServiceEntry",
                "metadata": {"name": host.replace('.', "-"), "namespace": "istio-system"},
                "spec": {
                    "hosts": [host],
                    "ports": [{"number": port, "name": "http", "protocol": "HTTP"}],
                    "resolution": "STATIC",
                    "endpoints": [{"address": address.ip().to_string(), "ports": {"http": address.port()}}],
                },
            })
        };
        vec![
            entry("clerk.example.com", 443, self.idp.address()),
            // Somebody else's, in no destination.
            entry("thumbnails.example.com", 80, self.idp.address()),
            entry("users.default.svc.cluster.local", 80, self.users.address()),
            entry("videos.default.svc.cluster.local", 80, self.videos.address()),
            entry("channels.default.svc.cluster.local", 80, self.channels.address()),
        ]
    }

    fn token(&self) -> String {
        let mut claims = seed_claims("user_2abc");
        claims["iss"] = json!("https://clerk.example.com");
        self.idp.token(claims)
    }
}

/// The resources of a kind in a file of `envoy/istio`, with the module that is built here.
fn shipped(file: &str, kind: &str) -> Vec<Value> {
    let path = module::workspace().join("envoy/istio").join(file);
    let text = fs::read_to_string(path).unwrap();
    let documents = text.split("\n---\n").map(|text| yaml_serde::from_str::<Value>(text).unwrap());
    let url = format!("file://{}", module::build().display());
    documents
        .filter(|one| one["kind"] == kind)
        .map(|mut one| {
            let at = if kind == "TrafficExtension" { "/spec/wasm/url" } else { "/spec/url" };
            *one.pointer_mut(at).unwrap() = json!(url);
            one
        })
        .collect()
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A running istiod.
struct Istiod {
    process: Process,
    xds: SocketAddr,
}

impl Istiod {
    fn start(program: &Path, resources: &[Value]) -> Self {
        let dir = scratch();
        let mesh = dir.path().join("mesh.yaml");
        fs::write(&mesh, "defaultConfig: {}\naccessLogFile: /dev/stdout\n").unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        fs::write(&kubeconfig, kubernetes::config(kubernetes::start(resources))).unwrap();
        let xds = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut command = Command::new(program);
        command
            .args(["discovery", "--secureGRPCAddr=", "--httpsAddr=", "--ctrlz_port=0"])
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--grpcAddr={xds}"))
            .arg(format!("--httpAddr=127.0.0.1:{}", free_port()))
            .arg(format!("--monitoringAddr=127.0.0.1:{}", free_port()))
            .arg(format!("--meshConfig={}", mesh.display()))
            // Filters that only Istio's proxy has.
            .env("PILOT_ENABLE_METADATA_EXCHANGE", "false")
            .env("PILOT_ENABLE_ALPN_FILTER", "false")
            .env("PILOT_ENABLE_QUIC_LISTENERS", "false")
            // What it would look for in Kubernetes.
            .env("PILOT_ENABLE_GATEWAY_API", "false")
            .env("PILOT_ENABLE_WORKLOAD_ENTRY_AUTOREGISTRATION", "false")
            // Nobody here asks for certificates.
            .env("ENABLE_CA_SERVER", "false")
            .current_dir(dir.path());
        let process = Process::start(&command, dir).unwrap();
        process.wait_for_log("All controller caches have been synced up", START);
        Self { process, xds }
    }

    /// An Envoy that it configures: `kind` and `name` as Istio's proxies say them, with the pod's labels;
    /// ready once it has plugins of these modes.
    fn proxy(&self, kind: &str, name: &str, labels: &Value, modes: &[&str]) -> Envoy {
        let namespace = name.rsplit('.').next().unwrap();
        let version = json!({"resource_api_version": "V3", "ads": {}});
        let launch = Launch::new(json!({
            "node": {
                "id": format!("{kind}~10.1.1.1~{name}~{namespace}.svc.cluster.local"),
                "cluster": name,
                "metadata": {
                    "NAMESPACE": namespace, "LABELS": labels, "ISTIO_VERSION": "1.31.0",
                    "CLUSTER_ID": "Kubernetes", "INTERCEPTION_MODE": "NONE",
                },
            },
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "dynamic_resources": {
                "lds_config": version, "cds_config": version,
                "ads_config": {
                    "api_type": "GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
                },
            },
            "static_resources": {"clusters": [{
                "name": "xds-grpc", "type": "STATIC", "connect_timeout": "1s",
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    },
                },
                "load_assignment": {"cluster_name": "xds-grpc", "endpoints": [{"lb_endpoints": [{"endpoint": {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": self.xds.port()}},
                }}]}]},
            }]},
        }));
        let envoy = launch
            .env("USERS_API_KEY", "not a secret but a test's")
            .env("MESHGATE_SHARING_KEY", "0123456789abcdef0123456789abcdef")
            .try_start()
            .unwrap_or_else(|error| panic!("{error}\nistiod:\n{}", self.process.log()));
        // The listeners come when istiod has read all resources.
        for mode in modes {
            envoy.wait_for_log(&format!("configured, mode={mode}"), START);
        }
        envoy
    }
}

fn code(response: &harness::client::Response) -> String {
    response.json()["code"].as_str().unwrap_or_default().to_owned()
}

/// A gateway for one host, and what it leads to.
fn ingress(port: u16) -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"name": "edge", "namespace": "istio-system"},
            "spec": {
                "selector": {"istio": "ingressgateway"},
                "servers": [{"hosts": ["*"], "port": {"number": port, "name": "http", "protocol": "HTTP"}}],
            },
        }),
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "api", "namespace": "istio-system"},
            "spec": {
                "hosts": ["*"], "gateways": ["edge"],
                "http": [{"route": [{"destination": {"host": "videos.default.svc.cluster.local", "port": {"number": 80}}}]}],
            },
        }),
    ]
}

fn gateway_behaves(kind: &str, file: &str) {
    let Some(program) = require("istiod", go::istiod()) else { return };
    let services = Services::start();
    let port = free_port();
    let plugins =
        shipped(file, kind).into_iter().filter(|one| one["metadata"]["name"] == "meshgate");
    let resources: Vec<Value> =
        services.entries().into_iter().chain(ingress(port)).chain(plugins).collect();
    let istiod = Istiod::start(&program, &resources);
    let envoy = istiod.proxy(
        "router",
        "gateway.istio-system",
        &json!({"istio": "ingressgateway"}),
        &["gateway"],
    );
    let get = |path: &str| Request::get(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path);

    let response = get("/api/comments").send();
    assert_eq!(
        (response.status, code(&response).as_str()),
        (401, "token_missing"),
        "{}",
        envoy.log()
    );
    let response =
        get("/api/comments").bearer(&services.token()).header("x_user_role", "ADMIN").send();
    assert_eq!(response.status, 200, "{}", response.text());
    let response = get("/api/videos").header("X-User-Id", "forged").send();
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = services.videos.take();
    let shown: Vec<_> = seen
        .iter()
        .map(|seen| {
            ["x-user-id", "x-user-role", "authorization", "x_user_role"]
                .map(|name| seen.header(name))
        })
        .collect();
    assert_eq!(shown, [[Some(&b"u-1001"[..]), Some(b"USER"), None, None], [None; 4]]);
    let asked = services.users.seen();
    assert_eq!(asked[0].header("authorization"), Some(&b"Bearer not a secret but a test's"[..]));
    envoy.no_traps();
}

#[test]
#[ignore = "builds istiod: cargo test --test install -- --ignored"]
fn the_plugin_for_an_ingress_gateway_is_what_istiod_configures() {
    gateway_behaves("WasmPlugin", "ingressgateway.yaml");
}

#[test]
#[ignore = "builds istiod: cargo test --test install -- --ignored"]
fn a_traffic_extension_is_as_good_as_a_wasm_plugin() {
    gateway_behaves("TrafficExtension", "trafficextension.yaml");
}

/// Without mTLS nobody has an identity, so the door believes nobody; the exit needs none.
#[test]
#[ignore = "builds istiod: cargo test --test install -- --ignored"]
fn the_plugins_for_a_sidecar_stand_at_the_door_and_at_the_exit() {
    let Some(program) = require("istiod", go::istiod()) else { return };
    let services = Services::start();
    let (inbound, outbound) = (free_port(), free_port());
    let mut resources = services.entries();
    resources.extend(shipped("sidecar.yaml", "WasmPlugin"));
    resources.push(json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "default"}, "spec": {"mtls": {"mode": "DISABLE"}},
    }));
    // Ports of their own: there are no iptables here that lead all others to Envoy.
    resources.push(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
        "metadata": {"name": "videos", "namespace": "default"},
        "spec": {
            "workloadSelector": {"labels": {"app": "videos"}},
            "ingress": [{
                "port": {"number": inbound, "name": "http", "protocol": "HTTP"}, "bind": "127.0.0.1",
                "captureMode": "NONE", "defaultEndpoint": format!("127.0.0.1:{}", services.videos.address().port()),
            }],
            "egress": [{
                "port": {"number": outbound, "name": "http-out", "protocol": "HTTP_PROXY"}, "bind": "127.0.0.1",
                "captureMode": "NONE", "hosts": ["*/*"],
            }],
        },
    }));
    let istiod = Istiod::start(&program, &resources);
    let envoy = istiod.proxy(
        "sidecar",
        "videos.default",
        &json!({"app": "videos"}),
        &["service", "egress"],
    );
    let get =
        |port: u16, path: &str| Request::get(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path);

    let response = get(inbound, "/videos").method("POST").header("x-user-id", "u-1").send();
    assert_eq!(
        (response.status, code(&response).as_str()),
        (403, "untrusted_peer"),
        "{}",
        envoy.log()
    );
    assert_eq!(get(inbound, "/healthz").header("x-user-id", "u-1").send().status, 200);
    let seen = services.videos.take();
    assert_eq!((seen.len(), seen[0].header("x-user-id")), (1, None));

    let response = get(outbound, "http://channels.default.svc.cluster.local/channels")
        .header("x-user-id", "u-1")
        .header("x-user-role", "USER")
        .bearer(&services.token())
        .send();
    assert_eq!(response.status, 200, "{}\n{}", response.text(), envoy.log());
    let seen = services.channels.take();
    let shown = ["x-user-id", "x-service-name", "authorization"].map(|name| seen[0].header(name));
    assert_eq!(shown, [Some(&b"u-1"[..]), Some(b"videos"), None]);

    // A host of no destination, outside the mesh.
    let response = get(outbound, "http://thumbnails.example.com/.well-known/jwks.json")
        .header("x-user-id", "u-1")
        .bearer(&services.token())
        .send();
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = services.idp.seen();
    let last = seen.last().unwrap();
    assert_eq!(
        ["x-user-id", "x-service-name", "authorization"].map(|name| last.header(name)),
        [None; 3]
    );
    envoy.no_traps();
}
