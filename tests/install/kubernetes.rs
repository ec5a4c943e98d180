//! As much of a Kubernetes API server as istiod reads its resources from.
//!
//! It has these resources and no others; in its watches nothing happens, and nothing can be made.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

/// Starts one that has `resources`; it ends with the test's process.
pub fn start(resources: &[Value]) -> SocketAddr {
    let resources: Arc<[Value]> = resources.into();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let resources = Arc::clone(&resources);
            thread::spawn(move || serve(&connection, &resources));
        }
    });
    address
}

/// The file that says where it is.
pub fn config(address: SocketAddr) -> String {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "empty",
        "clusters": [{"name": "empty", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "empty", "context": {"cluster": "empty", "user": "nobody"}}],
    });
    config.to_string()
}

/// Answers one request after another.
fn serve(connection: &TcpStream, resources: &[Value]) -> Option<()> {
    let mut input = BufReader::new(connection);
    let mut output = connection;
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let (method, rest) = line.split_once(' ')?;
        let target = rest.split(' ').next()?;
        let (mut length, mut partial) = (0, false);
        loop {
            let mut field = String::new();
            input.read_line(&mut field).ok()?;
            let field = field.trim().to_ascii_lowercase();
            if field.is_empty() {
                break;
            }
            if let Some(value) = field.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            partial |= field.contains("as=partialobjectmetadatalist");
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body).ok()?;
        let Some((status, answer)) = answer(method, target, partial, resources) else {
            // A watch in which nothing happens. It is over when the other side goes.
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            output.write_all(head.as_bytes()).ok()?;
            return input.read_line(&mut String::new()).ok().map(drop);
        };
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        output.write_all(head.as_bytes()).ok()?;
        output.write_all(answer.as_bytes()).ok()?;
    }
}

/// `None` is a watch.
fn answer(method: &str, target: &str, partial: bool, resources: &[Value]) -> Option<(u16, Value)> {
    let refusal = |code: u16, reason: &str| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code});
        Some((code, status))
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match (method, path) {
        ("GET", "/version") => {
            Some((200, json!({"major": "1", "minor": "34", "gitVersion": "v1.34.0"})))
        }
        // A newer way to list, which clients can do without.
        ("GET", _) if query.contains("sendInitialEvents=true") => refusal(422, "Invalid"),
        ("GET", _) if query.contains("watch=true") || query.contains("watch=1") => None,
        ("GET", _) if query.contains('=') => {
            let items: Vec<Value> = if path.ends_with("/customresourcedefinitions") {
                resources.iter().map(definition).collect()
            } else {
                resources.iter().filter(|one| path.ends_with(&place(one))).cloned().collect()
            };
            // A list of whole objects is what it was asked for as.
            let mut list = json!({"metadata": {"resourceVersion": "1"}, "items": items});
            if partial {
                list["kind"] = json!("PartialObjectMetadataList");
                list["apiVersion"] = json!("meta.k8s.io/v1");
            }
            Some((200, list))
        }
        ("GET", _) => refusal(404, "NotFound"),
        (_, _) => refusal(403, "Forbidden"),
    }
}

/// `/apis/GROUP/VERSION/PLURAL`, of a resource.
fn place(resource: &Value) -> String {
    let text = |name: &str| resource[name].as_str().unwrap_or_default();
    format!("/apis/{}/{}", text("apiVersion"), plural(text("kind")))
}

fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    let stem = kind.strip_suffix('y').filter(|stem| !stem.ends_with('a'));
    stem.map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"))
}

/// That there is such a kind of resource.
fn definition(resource: &Value) -> Value {
    let text = |name: &str| resource[name].as_str().unwrap_or_default();
    let group = text("apiVersion").split('/').next().unwrap_or_default();
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": format!("{}.{group}", plural(text("kind"))), "resourceVersion": "1"},
    })
}
