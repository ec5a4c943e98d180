//! People are sent to sign in where a program is told 401.

use super::origin::Origins;
use crate::config::Places;
use crate::config::names::percent_encode;
use crate::denial::{Code, Denial, Reply};
use crate::headers::{Edit, Stripped};
use crate::token::extract::Removals;

/// Longest path and query that one comes back to, in bytes. Encoded it is up to three times as long, and
/// browsers and servers are known to take 8 KiB of URL.
const MAX_TARGET_BYTES: usize = 2_048;

/// Where people sign in.
#[derive(Debug)]
pub struct Login {
    /// The page: what stands before `{original_url}`, and what behind it, where that has a place.
    pub uri: LoginUri,
    /// The origins under which this site is known.
    pub origins: Vec<Origins>,
    /// The refusals that signing in mends.
    pub codes: Vec<Code>,
    /// Where tokens may stand: none goes along to the page.
    pub places: Vec<Places>,
}

/// The URI of the page where people sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginUri {
    /// The same for all.
    Plain(String),
    /// With the URL that was asked for between these two.
    Back(String, String),
}

impl LoginUri {
    fn start(&self) -> &str {
        match self {
            Self::Plain(start) | Self::Back(start, _) => start,
        }
    }

    /// The page itself, without query and fragment.
    fn page(&self) -> &str {
        self.start().split(['?', '#']).next().unwrap_or_default()
    }
}

impl Login {
    /// The refusals that signing in surely mends. With others, a page where somebody is signed in already
    /// would send them straight back, and so on for ever.
    pub const CODES: [Code; 3] = [Code::TokenMissing, Code::TokenExpired, Code::TokenRevoked];

    /// The way to the page, for a person who asked for a page. Programs get the refusal itself.
    #[must_use]
    pub fn redirect(&self, denial: &Denial, head: &Stripped) -> Option<Reply> {
        if denial.grpc || !self.codes.contains(&denial.code) || !is_navigation(head) {
            return None;
        }
        let target = self.target(head)?;
        let authority = std::str::from_utf8(head.value(":authority")?).ok()?;
        let origin = self.origins.iter().find_map(|origins| origins.of_authority(authority));
        if self.is_page(origin.as_deref(), &target) {
            // It would lead from itself to itself for ever.
            return None;
        }
        let location = match &self.uri {
            LoginUri::Plain(uri) => uri.clone(),
            LoginUri::Back(before, behind) => {
                // The authority is the client's word. Of a site that is not ours nothing is built: the
                // page would send people there once they have signed in.
                let mut location = before.clone();
                percent_encode(&(origin? + &target), &mut location);
                location + behind
            }
        };
        // 303, not 302 (RFC 9110 section 15.4.4): the page is no other place of what was asked for, and is
        // fetched by GET whatever the method was, which nobody may read otherwise.
        let headers =
            vec![("location".into(), location), ("cache-control".into(), "no-store".to_owned())];
        Some(Reply { status: 303, grpc_status: None, headers, body: String::new() })
    }

    /// The path and query that were asked for, without tokens.
    fn target(&self, head: &Stripped) -> Option<String> {
        let edits = Removals::of(head, &self.places.iter()).read;
        let bare = edits.iter().find_map(|edit| match edit {
            Edit::Set(name, value) if name == ":path" => Some(value.as_slice()),
            Edit::Set(..) | Edit::Remove(_) => None,
        });
        let target = bare.or_else(|| head.value(":path"))?;
        if !target.starts_with(b"/") {
            return None;
        }
        let fits = target.len() <= MAX_TARGET_BYTES && target.iter().all(u8::is_ascii_graphic);
        Some(if fits { String::from_utf8_lossy(target).into_owned() } else { "/".to_owned() })
    }

    /// Whether the page itself was asked for.
    fn is_page(&self, origin: Option<&str>, target: &str) -> bool {
        let path = target.split('?').next().unwrap_or_default();
        let page = self.uri.page();
        let here = origin.and_then(|origin| page.strip_prefix(origin)).unwrap_or(page);
        here == path || (here.is_empty() && path == "/")
    }
}

/// Whether a browser asks for a page to show. It says so itself (Fetch Metadata); one that does not is told
/// by its wish for HTML, and by having no token to send, which only a script could set.
fn is_navigation(head: &Stripped) -> bool {
    if !matches!(head.value(":method"), Some(b"GET" | b"HEAD")) {
        return false;
    }
    match head.value("sec-fetch-mode") {
        Some(mode) => mode == b"navigate",
        None => {
            head.value("authorization").is_none() && head.value("accept").is_some_and(prefers_html)
        }
    }
}

/// Whether HTML is named in this `accept`, and JSON is not wanted as much (RFC 9110 section 12.5.1).
fn prefers_html(accept: &[u8]) -> bool {
    let accept = String::from_utf8_lossy(accept).to_ascii_lowercase();
    let mut html = 0.0;
    let mut json = 0.0;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let weight: f32 = weight.map_or(1.0, |text| text.parse().unwrap_or(0.0));
        if matches!(kind, "text/html" | "application/xhtml+xml") {
            html = weight.max(html);
        } else if kind.ends_with("/json") || kind.ends_with("+json") {
            json = weight.max(json);
        }
    }
    html > json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_must_be_named_and_wanted_more_than_json() {
        for (accept, html) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("Text/HTML", true),
            ("application/json;q=0.5, text/html", true),
            ("*/*", false),
            ("text/*", false),
            ("application/json, text/html", false),
            ("application/json, text/html;q=0.9", false),
            ("application/problem+json, text/html;q=0.9", false),
            ("text/html;q=0", false),
            ("text/html;q=x", false),
            ("text/html;q=nan", false),
            ("text/htmlx", false),
            ("", false),
        ] {
            assert_eq!(prefers_html(accept.as_bytes()), html, "{accept}");
        }
    }
}
