//! The real nginx: that it runs the config it is given, and who it says has called.

use harness::nginx::Nginx;
use harness::server::{Answer, Server};
use harness::skip;

const CONFIG: &str = "
    upstream behind { server 127.0.0.1:9001; }
    server {
        listen 127.0.0.1:8080;
        location = /who { return 200 $remote_addr; }
        location / { proxy_pass http://behind; }
    }";

#[test]
fn it_runs_on_a_port_of_its_own_and_leads_where_it_is_told() {
    let behind = Server::start(|_| Answer::problem(418, "here"));
    let start = || Nginx::start(CONFIG, &[("127.0.0.1:9001", behind.address())]);
    let Some(first) = skip::require("a real nginx", start()) else { return };
    let second = start().expect("another nginx");
    assert_ne!(first.address(), second.address());
    for nginx in [&first, &second] {
        assert_eq!(nginx.get("/x").send().status, 418);
    }
    assert_eq!(behind.requests(), 2);
    let address = first.address();
    drop(first);
    assert!(std::net::TcpStream::connect(address).is_err(), "it is gone with its handle");
}

#[test]
fn a_client_comes_from_the_address_it_chooses() {
    let nginx = Nginx::start(CONFIG, &[]);
    let Some(nginx) = skip::require("a real nginx", nginx) else { return };
    for source in [[127, 0, 0, 1], [127, 0, 0, 2]] {
        let said = nginx.get("/who").from(source).send().text();
        assert_eq!(said, std::net::Ipv4Addr::from(source).to_string());
    }
}
