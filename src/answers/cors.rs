//! What a browser lets scripts of other sites do and read (the CORS protocol of the WHATWG's Fetch standard).

use super::origin::Origins;
use crate::denial::{Header, Reply};
use crate::headers::{Edit, Stripped, canonical};

/// The sites whose scripts may call, and what they may read of refusals.
#[derive(Debug)]
pub struct Cors {
    /// The sites.
    pub allow_origins: Vec<Origins>,
    /// Whether their scripts may send cookies along. Never with [`Origins::Any`] or [`Origins::Null`].
    pub allow_credentials: bool,
    /// The headers of a refusal that their scripts may read, as one list.
    pub expose_headers: String,
    /// What becomes of preflights.
    pub preflight: Preflight,
}

/// What becomes of a browser's question whether a script may make a request.
#[derive(Debug)]
pub enum Preflight {
    /// It is answered here, and nothing reaches the upstream.
    Answer(Permission),
    /// The upstream answers it, for nobody.
    Pass,
}

/// What a preflight is answered.
#[derive(Debug)]
pub struct Permission {
    /// `access-control-allow-methods`.
    pub methods: String,
    /// `access-control-allow-headers`.
    pub headers: String,
    /// `access-control-max-age`, in seconds.
    pub max_age: u64,
}

impl Cors {
    /// What lets a script of the request's origin read the answer; nothing where it may not.
    #[must_use]
    pub fn headers(&self, head: &Stripped) -> Vec<Header> {
        let Some(mut headers) = self.allowed(head) else {
            return Vec::new();
        };
        if !self.expose_headers.is_empty() {
            headers.push(("access-control-expose-headers".into(), self.expose_headers.clone()));
        }
        headers
    }

    /// Whether the request is an allowed site's preflight, as Fetch makes them ("CORS-preflight fetch"): an
    /// `OPTIONS` with an origin and the method to come, without a body, and no way to another protocol, on which
    /// nobody here would see what is said. One of another site is a request like any other, so that the rules
    /// alone say what becomes of it.
    #[must_use]
    pub fn is_preflight(&self, head: &Stripped) -> bool {
        head.value(":method") == Some(b"OPTIONS")
            && only(head, "access-control-request-method").is_some_and(|method| !method.is_empty())
            && head.value("content-length").is_none_or(|length| length == b"0")
            && head.value("transfer-encoding").is_none()
            && head.value("upgrade").is_none()
            && self.allowed(head).is_some()
    }

    /// What an allowed site's preflight is answered here. The browser compares, so it is the same for all.
    #[must_use]
    pub fn answer(&self, permission: &Permission, head: &Stripped) -> Reply {
        let mut headers = self.allowed(head).unwrap_or_default();
        headers.push(("access-control-allow-methods".into(), permission.methods.clone()));
        headers.push(("access-control-allow-headers".into(), permission.headers.clone()));
        headers.push(("access-control-max-age".into(), permission.max_age.to_string()));
        Reply { status: 204, grpc_status: None, headers, body: String::new() }
    }

    fn allowed(&self, head: &Stripped) -> Option<Vec<Header>> {
        let origin = only(head, "origin")?;
        let allowed = self.allow_origins.iter().find(|origins| origins.hold(origin))?;
        // An origin that came through as one of these is visible ASCII, but for `*`, which shows none.
        let shown = match allowed {
            Origins::Any => "*".to_owned(),
            Origins::Null | Origins::One(_) | Origins::Below { .. } => {
                String::from_utf8_lossy(origin).into_owned()
            }
        };
        let mut headers = vec![
            ("access-control-allow-origin".into(), shown),
            ("vary".into(), "origin".to_owned()),
        ];
        if self.allow_credentials {
            headers.push(("access-control-allow-credentials".into(), "true".to_owned()));
        }
        Some(headers)
    }
}

/// What a preflight never has (Fetch sends it without credentials), and an upstream might act on: who the
/// user is, and that the request be taken for one of another method.
const NOT_IN_PREFLIGHTS: [&str; 5] =
    ["authorization", "cookie", "x-http-method", "x-http-method-override", "x-method-override"];

/// The edits that leave of what passes for a preflight no more than one is.
#[must_use]
pub fn bare_preflight(head: &Stripped) -> Vec<Edit> {
    head.fields()
        .filter(|field| NOT_IN_PREFLIGHTS.contains(&canonical(&field.name).as_str()))
        .map(|field| Edit::Remove(field.name.clone()))
        .collect()
}

/// The value of the one field called `name`. Where there are more, a browser sent none of them.
fn only<'a>(head: &'a Stripped, name: &str) -> Option<&'a [u8]> {
    let mut fields = head.fields().filter(|field| field.name == name);
    match (fields.next(), fields.next()) {
        (Some(field), None) => Some(&field.value),
        (_, _) => None,
    }
}
