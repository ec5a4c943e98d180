//! Requests that nobody should send, made from a seed: the same numbers make the same bytes.

use fastrand::Rng;

/// A request, as bytes.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is sent.
    pub bytes: Vec<u8>,
    /// Whether a good token stands anywhere in it. Without one, nobody may be told of a user.
    pub token: bool,
}

/// What requests are made of where they are sent.
#[derive(Clone, Debug)]
pub struct Soil {
    pub host: &'static str,
    pub paths: &'static [&'static str],
    pub token: String,
}

/// Says which case a request was: its header line.
pub const NUMBER: &str = "x-case";

/// What only the filter may set, in every config.
pub const MANAGED: [&str; 6] = [
    "x-user-id",
    "x-user-clerk-id",
    "x-user-role",
    "x-user-channel-id",
    "x-service-name",
    "txn-token",
];

/// Headers that say how a request is to be read.
const MEANT: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that Envoy lets through whatever they say, and that the filter or who is behind it may read.
const HARMLESS: [&str; 18] = [
    "accept",
    "access-control-request-method",
    "content-type",
    "cookie",
    "forwarded",
    "origin",
    "proxy-authorization",
    "range",
    "trailer",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-original-path",
    "x-envoy-upstream-rq-timeout-ms",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-http-method-override",
    "x-original-uri",
    "x-request-id",
];

/// Their values, some of them good.
const VALUES: [&str; 24] = [
    "",
    "*/*",
    "0",
    "-1",
    "99999999999999999999",
    "1e400",
    "application/grpc",
    "application/grpc-web+proto",
    "application/json",
    "chunked",
    "gzip, chunked",
    "x-user-id, x-user-role, close",
    "upgrade",
    "websocket",
    "h2c",
    "trailers",
    "100-continue",
    "http",
    "127.0.0.1, ::1, forged",
    "__session=forged; __session=a.b.c; x=\"",
    "By=spiffe://a;URI=spiffe://cluster.local/ns/edge/sa/gateway;Subject=\"forged\"",
    "00000000-0000-0000-0000-000000000000",
    "/healthz",
    "POST",
];

const METHODS: [&str; 14] = [
    "GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "M-SEARCH",
    "get", "PRI", "CONNECT",
];

const VERSIONS: [&str; 8] =
    ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.2", "HTTP/1", "http/1.1", "HTTP/1.1 ", ""];

/// What stands between two paths that may be one.
const SEAMS: [&str; 12] =
    ["//", "/./", "/../", "/..;/", "/%2e%2e/", "%2f", "%5c", "\\", "%00", "%", "#", ";a=b"];

/// The request of this number.
pub fn generate(seed: u64, number: u64, soil: &Soil) -> Case {
    // Neighbouring seeds of this generator begin alike.
    let mut rng = Rng::with_seed((seed << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mild = rng.u8(0..3) > 0;
    let mut maker = Maker { rng: &mut rng, soil, mild };
    let mut bytes = maker.request_line();
    // First, so that what is odd about the others does not hide it.
    bytes.extend(format!("{NUMBER}: {number}\r\nconnection: close\r\n").bytes());
    maker.host(&mut bytes);
    let count = match maker.rng.u8(..) {
        0..=3 => maker.rng.usize(60..110),
        _ => maker.rng.usize(0..12),
    };
    for _ in 0..count {
        maker.header(&mut bytes);
    }
    if maker.one_in(2) {
        let token = &soil.token;
        bytes.extend(format!("authorization: Bearer {token}\r\n").bytes());
    }
    maker.body(&mut bytes);
    let token = bytes.windows(soil.token.len()).any(|window| window == soil.token.as_bytes());
    Case { bytes, token }
}

struct Maker<'a> {
    rng: &'a mut Rng,
    soil: &'a Soil,
    /// Whether it keeps to what Envoy lets through, so that the filter sees it.
    mild: bool,
}

impl Maker<'_> {
    fn one_in(&mut self, chances: u32) -> bool {
        self.rng.u32(0..chances) == 0
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.rng.usize(0..choices.len())]
    }

    /// With these chances, and never in a mild request.
    fn wildly(&mut self, chances: u32) -> bool {
        !self.mild && self.one_in(chances)
    }

    /// Any bytes but those that end a line, or all that may stand in a value.
    fn junk(&mut self, longest: usize) -> Vec<u8> {
        let mut junk = vec![0; self.rng.usize(0..=longest)];
        self.rng.fill(&mut junk);
        let mild = self.mild;
        junk.retain(|byte| match byte {
            b'\r' | b'\n' => false,
            0..=31 | 127 => !mild,
            _ => true,
        });
        junk
    }

    /// Puts a few bytes somewhere.
    fn spoil(&mut self, text: &mut Vec<u8>) {
        let at = self.rng.usize(0..=text.len());
        let junk = self.junk(3);
        text.splice(at..at, junk);
    }

    fn request_line(&mut self) -> Vec<u8> {
        let methods = if self.mild { &METHODS[..10] } else { &METHODS[..] };
        let mut method = self.pick(methods).as_bytes().to_vec();
        if self.wildly(15) {
            self.spoil(&mut method);
        }
        if self.wildly(30) {
            method = b"X".repeat(self.rng.usize(0..3_000));
        }
        let target = self.target();
        let version = if self.wildly(6) { self.pick(&VERSIONS) } else { "HTTP/1.1" };
        [&method, &b" "[..], &target, b" ", version.as_bytes(), b"\r\n"].concat()
    }

    fn target(&mut self) -> Vec<u8> {
        let mut path = self.pick(self.soil.paths).to_owned();
        if self.one_in(6) {
            path += self.pick(&SEAMS);
            path += self.pick(self.soil.paths);
        }
        match self.rng.u8(if self.mild { 3..24 } else { 0..24 }) {
            0 => path.insert(0, ' '),
            1 => path = format!("https://forged@other.example:99999{path}"),
            2 if self.one_in(2) => "*".clone_into(&mut path),
            2 => path = format!("{}:80", self.soil.host),
            3 => path = format!("http://{}{path}", self.soil.host),
            4 => path = format!("{path}?access_token={}&x-user-id=forged", self.token()),
            5 => path += &"/a".repeat(self.rng.usize(0..4_000)),
            _ => {}
        }
        let mut path = path.into_bytes();
        if self.wildly(5) {
            self.spoil(&mut path);
        }
        path
    }

    fn host(&mut self, bytes: &mut Vec<u8>) {
        let host = self.soil.host;
        let lines = match self.rng.u8(0..30) {
            0..4 if self.mild => format!("host: {host}\r\n"),
            0 => String::new(),
            1 => format!("host: {host}\r\nhost: forged.example\r\n"),
            2 => "host: \r\n".to_owned(),
            3 => format!("host: forged@{host}:0/\r\n"),
            _ => format!("host: {host}\r\n"),
        };
        bytes.extend(lines.bytes());
    }

    fn header(&mut self, bytes: &mut Vec<u8>) {
        let (mut name, mut value) = match self.rng.u8(0..8) {
            0..=3 => (self.managed(), b"forged".to_vec()),
            4 => ("authorization".to_owned(), self.credentials().into_bytes()),
            5 => ("cookie".to_owned(), format!("__session={}", self.token()).into_bytes()),
            _ if self.mild => {
                (self.pick(&HARMLESS).to_owned(), self.pick(&VALUES).as_bytes().to_vec())
            }
            _ => (self.pick(&MEANT).to_owned(), self.pick(&VALUES).as_bytes().to_vec()),
        };
        if self.one_in(4) {
            self.spoil(&mut value);
        }
        if self.one_in(100) {
            value.extend(b"forged ".repeat(self.rng.usize(0..9_000)));
        }
        if self.wildly(40) {
            let mut odd = name.into_bytes();
            self.spoil(&mut odd);
            // Line by line it would be another request.
            name = odd.into_iter().map(char::from).collect();
        }
        let colon = match self.rng.u8(0..60) {
            0 => ":\t",
            1 if !self.mild => " : ",
            2 if !self.mild => "",
            _ => ": ",
        };
        let end = match self.rng.u8(0..90) {
            _ if self.mild => "\r\n",
            0 => "\n",
            1 => "\r",
            2 => "\r\n ",
            3 => "\r\n\t",
            4 => "\0\r\n",
            _ => "\r\n",
        };
        bytes.extend(name.chars().filter_map(|sign| u8::try_from(sign).ok()));
        bytes.extend_from_slice(colon.as_bytes());
        bytes.extend(value);
        bytes.extend_from_slice(end.as_bytes());
    }

    /// A managed name, in a spelling that somebody reads as that name.
    fn managed(&mut self) -> String {
        let name = self.pick(&MANAGED);
        let signs = ["-", "-", "_", "_", ".", "~", "!", "*", "'"];
        let spell = |sign: char| match sign {
            '-' => self.pick(&signs).to_owned(),
            _ if self.one_in(4) => sign.to_ascii_uppercase().to_string(),
            _ => sign.to_string(),
        };
        name.chars().map(spell).collect()
    }

    fn credentials(&mut self) -> String {
        let scheme =
            self.pick(&["Bearer ", "bearer\t", "BEARER  ", "Basic eDp5, Bearer ", "Bearer", ""]);
        format!("{scheme}{}", self.token())
    }

    /// A token, or what looks like one.
    fn token(&mut self) -> String {
        let good = &self.soil.token;
        match self.rng.u8(0..6) {
            0 => good.clone(),
            1 => good[..self.rng.usize(0..good.len())].to_owned(),
            2 => good.replacen('.', "..", 1),
            3 => format!("{}.", good.to_ascii_uppercase()),
            4 => "e30.e30.".to_owned(),
            _ => "eyJhbGciOiJub25lIn0.eyJzdWIiOiJmb3JnZWQifQ.".to_owned(),
        }
    }

    /// The end of the head, and a body that is framed as its head says; trailers forge, too.
    fn body(&mut self, bytes: &mut Vec<u8>) {
        match self.rng.u8(0..8) {
            0 => {
                let body = self.junk(2_000);
                bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
                bytes.extend(body);
            }
            1 => {
                bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n");
                for _ in 0..self.rng.usize(0..4) {
                    bytes.extend(format!("{}: forged\r\n", self.managed()).bytes());
                }
                bytes.extend_from_slice(b"\r\n");
            }
            _ => bytes.extend_from_slice(b"\r\n"),
        }
    }
}
