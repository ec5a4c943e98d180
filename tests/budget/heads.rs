//! The heads of requests, as Envoy hands them over.

/// Names and values, in order.
pub type Headers = Vec<(String, Vec<u8>)>;

/// What Chrome's `fetch` sends, and a listener at the edge adds.
const BROWSER: [(&str, &str); 15] = [
    (":authority", "www.example.com"),
    (":path", "/api/channels/ch-2001/videos?page=2&sort=newest"),
    (":method", "GET"),
    (":scheme", "https"),
    ("accept", "application/json, text/plain, */*"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-GB,en;q=0.9,de;q=0.8"),
    ("referer", "https://www.example.com/watch?v=dQw4w9WgXcQ"),
    ("sec-fetch-dest", "empty"),
    ("sec-fetch-mode", "cors"),
    ("sec-fetch-site", "same-origin"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 Safari/537.36",
    ),
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-proto", "https"),
    ("x-request-id", "8c1f0a52-5b1e-4d5e-9d43-0f6a1c2b3d4e"),
];

/// A browser's request without a token.
pub fn browser() -> Headers {
    with(Headers::new(), &BROWSER)
}

/// The same with one.
pub fn bearing(token: &str) -> Headers {
    with(browser(), &[("authorization", &format!("Bearer {token}"))])
}

/// `head` with the context that a gateway sets.
pub fn asserting(head: Headers) -> Headers {
    let context = [
        ("x-user-id", "u-2001"),
        ("x-user-clerk-id", "user_2abc"),
        ("x-user-role", "USER"),
        ("x-user-channel-id", "ch-2001"),
    ];
    with(head, &context)
}

/// `head` with these headers behind it.
pub fn with(mut head: Headers, more: &[(&str, &str)]) -> Headers {
    head.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())));
    head
}

/// `head` for another path.
pub fn to(mut head: Headers, path: &str) -> Headers {
    head.iter_mut().find(|(name, _)| name == ":path").unwrap().1 = path.into();
    head
}
