//! The words in which refusals are told: to programs, to scripts of other sites, and to people.
//!
//! Nothing here is looked at for a request that is let through. What an answer depends on in the request is
//! read when the answer is made: until then Envoy keeps the head.

pub mod body;
pub mod cors;
pub mod login;
pub mod origin;

use crate::denial::{Denial, Reply};
use crate::headers::Stripped;
use body::Customs;
use cors::Cors;
use login::Login;

/// How refusals are answered.
#[derive(Debug, Default)]
pub struct Answers {
    /// The words of the answer itself.
    pub words: Words,
    /// Which sites' scripts may read it.
    pub cors: Option<Cors>,
    /// Where people are sent who should sign in.
    pub login: Option<Login>,
}

/// The words of an answer.
#[derive(Debug)]
pub struct Words {
    /// The realm of challenges; a text that needs no escapes in quotes.
    pub realm: String,
    /// What stands before the code in the `type` of a problem document.
    pub type_prefix: String,
    /// The answers of the operator's own.
    pub customs: Customs,
}

impl Default for Words {
    fn default() -> Self {
        Self {
            realm: "meshgate".to_owned(),
            type_prefix: "urn:meshgate:error:".to_owned(),
            customs: Customs::default(),
        }
    }
}

impl Answers {
    /// Whether an answer depends on the head of the request, which then must be read once more.
    #[must_use]
    pub fn need_head(&self) -> bool {
        self.cors.is_some() || self.login.is_some()
    }

    /// What the client is answered whose request had this head.
    #[must_use]
    pub fn reply(&self, denial: &Denial, head: &Stripped) -> Reply {
        let login = self.login.as_ref().and_then(|login| login.redirect(denial, head));
        let mut reply = login.unwrap_or_else(|| denial.reply(&self.words));
        if let Some(cors) = &self.cors {
            reply.headers.extend(cors.headers(head));
        }
        reply
    }
}
