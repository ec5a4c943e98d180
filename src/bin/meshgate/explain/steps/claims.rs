//! What a token claims, next to what is asked of it.

use std::time::Duration;

use meshgate::config::{Provider, TokenKind};
use meshgate::rules::Needs;
use meshgate::token::claims::{Claims, NumericDate};
use meshgate::token::compact::CompactJws;
use serde_json::Value;

use super::super::show;
use super::{Walk, list};

impl Walk<'_> {
    /// The claims of a token, as far as they are the business of the config.
    pub(super) fn claim_lines(&self, text: &[u8], provider: &Provider) -> Vec<String> {
        CompactJws::parse(text).map(|jws| self.claims(&jws.claims, provider)).unwrap_or_default()
    }

    pub(super) fn claims(&self, claims: &Claims, provider: &Provider) -> Vec<String> {
        let now = self.question.at;
        let found = |name: &str| claims.members().get(name);
        let mut lines = Vec::new();
        let mut line = |name: &str, more: String| {
            let value = found(name).map_or_else(|| "none".to_owned(), show::json);
            lines.push(format!("{name}: {value}{more}"));
        };
        match &provider.audiences {
            Some(audiences) => line("aud", format!(", accepted: {}", list(audiences))),
            None => line("aud", ", any is accepted".to_owned()),
        }
        if let Some(parties) = &provider.authorized_parties {
            line("azp", format!(", accepted: {}", list(parties)));
        }
        for name in ["exp", "nbf", "iat"] {
            let Some(date) = found(name).and_then(Value::as_f64) else {
                if name == "exp" {
                    let asked =
                        if provider.require_expiration { ", and one is asked for" } else { "" };
                    line(name, asked.to_owned());
                }
                continue;
            };
            let date = NumericDate::from_secs(date).to_unix();
            let when = show::relative(date, now);
            let word = match name {
                "exp" if date <= now => format!("expired {when}"),
                "exp" => format!("expires {when}"),
                "nbf" => format!("valid from {when}"),
                _ => format!("issued {when}"),
            };
            line(name, format!(", {}: {word}", show::time(date)));
        }
        if provider.clock_skew > Duration::ZERO {
            let skew = show::span(provider.clock_skew);
            line("sub", String::new());
            lines.push(format!("clock_skew: {skew} are allowed for"));
        } else {
            line("sub", String::new());
        }
        lines.extend(self.named_claims(claims, provider));
        lines
    }

    /// What a rule asks of the token itself.
    pub(super) fn of_the_token(&self, needs: &Needs, claims: Option<&Claims>) -> Vec<String> {
        let found = |name: &str| {
            let value = claims.and_then(|claims| claims.members().get(name));
            value.map_or_else(|| "none".to_owned(), show::json)
        };
        let mut lines = Vec::new();
        if !needs.scopes.is_empty() {
            let has = |scope: &&String| claims.is_some_and(|claims| claims.has_scope(scope));
            let lacks = needs.scopes.iter().filter(|scope| !has(scope)).map(String::as_str);
            let (wants, lacks) = (list(&needs.scopes), show::list(lacks));
            lines.push(format!("the scopes {wants} are asked for; the token lacks {lacks}"));
        }
        for (name, values) in &needs.claims {
            let wanted: Vec<String> = values.iter().map(show::json).collect();
            let wanted =
                if wanted.is_empty() { "anything".to_owned() } else { wanted.join(" or ") };
            let name = show::plain(name);
            lines.push(format!("{name}: {}, the rule asks for {wanted}", found(&name)));
        }
        if let Some(age) = needs.max_age {
            let at = claims.and_then(|claims| claims.members().get("auth_time"));
            let at = at.and_then(Value::as_f64).map(|secs| NumericDate::from_secs(secs).to_unix());
            let when = at.map_or_else(
                || "the token has no `auth_time`".to_owned(),
                |at| format!("it was {}", show::relative(at, self.question.at)),
            );
            let age = show::span(age);
            lines.push(format!("an authentication of the last {age} is asked for; {when}"));
        }
        lines
    }

    /// The other claims that the config names.
    fn named_claims(&self, claims: &Claims, provider: &Provider) -> Vec<String> {
        let found = |name: &str| claims.members().get(name);
        let show = |name: &str| found(name).map_or_else(|| "none".to_owned(), show::json);
        let mut lines = Vec::new();
        if let Some(longest) = provider.max_lifetime {
            lines.push(format!("max_lifetime: `exp` may be {} ahead", show::span(longest)));
        }
        for (name, values) in &provider.required_claims {
            let wanted: Vec<String> = values.iter().map(show::json).collect();
            let wanted =
                if wanted.is_empty() { "anything".to_owned() } else { wanted.join(" or ") };
            lines.push(format!("{}: {}, required: {wanted}", show::plain(name), show(name)));
        }
        for (name, value) in &provider.refused_claims {
            lines.push(format!(
                "{}: {}, refused: {}",
                show::plain(name),
                show(name),
                show::json(value)
            ));
        }
        if found("type").is_some() || provider.kind == TokenKind::Service {
            lines.push(format!(
                "type: {}, the provider's tokens are of a {}",
                show("type"),
                provider.kind.name()
            ));
        }
        let keys = self.config.user.lookup().into_iter().flat_map(|lookup| &lookup.key);
        for name in keys.filter(|name| name.as_str() != "sub" && found(name).is_some()) {
            lines.push(format!("{}: {}", show::plain(name), show(name)));
        }
        lines
    }
}
