//! How answers, logs and other filters speak of a request.

use super::Step;
use crate::account::Who;
use crate::config::Mode;
use crate::denial::{Code, Denial};
use crate::headers::{Edit, Field, Stripped, are_alike};
use crate::worker::Shared;

/// A request's id, whom it is about, and the language of its client.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(super) request_id: String,
    /// What leaves the upstream this id and no other.
    edits: Vec<Edit>,
    grpc: bool,
    pub(super) who: Who,
}

impl Reference {
    pub(super) fn of(head: &Stripped, shared: &mut Shared) -> Self {
        let (request_id, edits) = one_request_id(head, shared);
        // Who asks about a request reads the HTTP status, whatever the request's client speaks.
        let grpc = !matches!(shared.config.mode, Mode::Authz(_))
            && head.value("content-type").is_some_and(|kind| {
                kind == b"application/grpc" || kind.starts_with(b"application/grpc+")
            });
        Self { request_id, edits, grpc, who: Who::default() }
    }

    /// The id.
    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Lets the request go on with these edits, and with what leaves the upstream one id.
    pub(super) fn forward(self, mut edits: Vec<Edit>) -> Step {
        edits.extend(self.edits);
        Step::Forward(edits, self.who)
    }

    pub(super) fn denial(self, code: Code, detail: Option<&'static str>) -> Denial {
        let Self { request_id, edits: id_edits, grpc, who } = self;
        Denial { code, detail, request_id, id_edits, grpc, wanted: None, who }
    }
}

/// The request's id, new where it has none or a bad one, and what takes others off: by the one that the
/// service reads, the exit knows whose request it serves.
fn one_request_id(head: &Stripped, shared: &mut Shared) -> (String, Vec<Edit>) {
    let alike = |field: &&Field| are_alike(&field.name, REQUEST_ID);
    let (ids, others): (Vec<&Field>, Vec<&Field>) =
        head.fields().filter(alike).partition(|field| field.name == REQUEST_ID);
    let mut edits: Vec<Edit> =
        others.into_iter().map(|field| Edit::Remove(field.name.clone())).collect();
    let sent = ids.first().and_then(|field| request_id(&field.value));
    let is_told = sent.is_some() && ids.len() == 1;
    let id = sent.unwrap_or_else(|| shared.new_request_id());
    if !is_told {
        edits.push(Edit::Set(REQUEST_ID.to_owned(), id.clone().into_bytes()));
    }
    (id, edits)
}

/// The header that names a request.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// Longest request id that is taken from a client, in bytes: three UUIDs.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// A client's request id, where it can be repeated in a log line and an answer without harm.
fn request_id(value: &[u8]) -> Option<String> {
    let fits = !value.is_empty() && value.len() <= MAX_REQUEST_ID_BYTES;
    (fits && value.iter().all(u8::is_ascii_graphic))
        .then(|| String::from_utf8_lossy(value).into_owned())
}
