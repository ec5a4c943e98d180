//! Whether a good token was revoked.

use meshgate::config::OnUnavailable;
use meshgate::denial::Code;
use meshgate::revocation::blacklist::Names;
use meshgate::revocation::{Entry, Revocations, Terms};
use meshgate::token::VerifiedToken;
use serde_json::Value;

use super::super::show;
use super::{Walk, Way};

impl Walk<'_> {
    pub(super) fn revoked(&mut self, token: &VerifiedToken) -> Way {
        let config = self.config;
        let revocation = &config.revocation;
        let mut lines = Vec::new();
        if revocation.feed.is_some() {
            match self.feed(token) {
                Ok(None) => lines.push("no entry of the feed means it".to_owned()),
                Ok(Some(entry)) => {
                    let line = format!("an entry of the feed means it: {entry}");
                    return self.refuse("revocation", Code::TokenRevoked, vec![line]);
                }
                Err(why) => self.unknown_if_revoked(why, &mut lines)?,
            }
        }
        if let Some(blacklist) = &revocation.blacklist {
            if Names::of(blacklist, token.claims()).is_none() {
                let line =
                    "it has none of the claims by which the blacklist knows tokens".to_owned();
                return self.refuse("revocation", Code::TokenMalformed, vec![line]);
            }
            match self.question.is_listed {
                Some(false) => lines.push("it is not on the blacklist".to_owned()),
                Some(true) => {
                    let line = "it is on the blacklist".to_owned();
                    return self.refuse("revocation", Code::TokenRevoked, vec![line]);
                }
                None => {
                    let call = self.wanted("whether the token is on the blacklist");
                    let why = format!("no --blacklist was given; {call}");
                    self.unknown_if_revoked(why, &mut lines)?;
                }
            }
        }
        if !lines.is_empty() {
            self.pass("revocation", lines);
        }
        Ok(())
    }

    fn unknown_if_revoked(&mut self, why: String, lines: &mut Vec<String>) -> Way {
        match self.config.revocation.on_unavailable {
            OnUnavailable::Deny => {
                self.refuse("revocation", Code::RevocationUnavailable, vec![why])
            }
            OnUnavailable::Allow => {
                lines.push(format!("{why}; `on_unavailable: allow` lets it pass"));
                Ok(())
            }
        }
    }

    /// The entry of the feed that means a token.
    fn feed(&self, token: &VerifiedToken) -> Result<Option<String>, String> {
        let Some(body) = &self.question.feed else {
            let call = self.wanted("what is revoked");
            return Err(format!("no --feed FILE was given; {call}"));
        };
        let terms = Terms::of(self.config);
        let document: Value =
            serde_json::from_slice(body).map_err(|_| "the feed is not JSON".to_owned())?;
        let entries = document.get("entries").cloned().unwrap_or_default();
        let entries: Vec<Entry> = serde_json::from_value(entries).map_err(|_| {
            "the feed has an entry that is not understood, which makes all of it void".to_owned()
        })?;
        let at = self.question.at;
        for entry in entries {
            let shown = serde_json::to_string(&entry).unwrap_or_default();
            let list =
                Revocations::new(vec![entry], terms, at).map_err(|error| error.to_string())?;
            if list.cover(token, at) {
                return Ok(Some(show::plain(&shown)));
            }
        }
        Ok(None)
    }
}
