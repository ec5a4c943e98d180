//! A service's door and its exit.

use std::borrow::Cow;
use std::time::Duration;

use meshgate::boundary::destination::{Destination, Passage};
use meshgate::boundary::{self, AssertedContext, Distrust, Peer, service_token, txn_token};
use meshgate::config::{
    Boundary, Config, Egress, Otherwise, Propagation, TokenKind, TokenSource, UserSource,
};
use meshgate::context::UserContext;
use meshgate::denial::Code;
use meshgate::headers::Stripped;
use meshgate::rules::Demand;
use meshgate::token::{ProviderId, TokenError, UnverifiedToken, extract};

use super::super::{Question, show};
use super::{Walk, Way, Whose, list, of_kind, response};

/// The tokens that came to a service's door.
struct Shown {
    service: Option<Vec<u8>>,
    signed: Option<(Vec<u8>, ProviderId)>,
    user: Result<Option<Vec<u8>>, TokenError>,
}

impl Walk<'_> {
    /// The tokens that came to a service's door.
    fn shown(&mut self, boundary: &Boundary) -> Way<Shown> {
        let config = self.config;
        let tokens = boundary.service_tokens.as_ref();
        let issuer = tokens.and_then(|tokens| tokens.provider.pick(&config.providers));
        let owned = |found: Result<Option<Cow<'_, [u8]>>, TokenError>| {
            found.map(|text| text.map(Cow::into_owned))
        };
        let mut service = owned(extract::find(self.head, issuer.into_iter()));
        let mut user = owned(extract::find(self.head, of_kind(config, TokenKind::User)));
        if let (Ok(Some(one)), Ok(Some(other))) = (&service, &user)
            && one == other
        {
            let max = config.limits.max_token_bytes;
            let of_service = UnverifiedToken::parse(one, max, &config.providers)
                .is_ok_and(|token| is_of(config, token.provider, TokenKind::Service));
            if of_service {
                user = Ok(None);
            } else {
                service = Ok(None);
            }
        }
        let signed = match boundary.txn_token {
            Some(provider) => {
                txn_token::sent(self.head.asserted()).map(|sent| sent.zip(Some(provider)))
            }
            None => Ok(None),
        };
        let (service, signed) = match (service, signed) {
            (Ok(service), Ok(signed)) => (service, signed),
            (Err(error), _) => return self.refuse_token("service token", error, Vec::new()),
            (_, Err(error)) => return self.refuse_token("Txn-Token", error, Vec::new()),
        };
        let signed = signed.map(|(text, provider)| (text.to_vec(), provider));
        Ok(Shown { service, signed, user })
    }

    /// A service's door: who calls, and whether it may say who the user is.
    pub(super) fn door(&mut self, boundary: &Boundary, demand: &Demand) -> Way {
        let config = self.config;
        let tokens = boundary.service_tokens.as_ref();
        let Shown { service, signed, user } = self.shown(boundary)?;
        let peer =
            Peer::of(boundary, &self.question.hop, forwarded_certificates(self.head).as_deref());
        self.pass("hop", hop_lines(self.question, &peer));
        let service = match service.zip(tokens) {
            Some((text, tokens)) => {
                let place = self.places_of(&text, TokenKind::Service);
                self.pass("service token", vec![format!("{} bytes, in {place}", text.len())]);
                Some(self.verified(&text, Whose::Of(tokens.provider))?)
            }
            None => None,
        };
        let signed = match signed {
            Some((text, provider)) => {
                self.pass("Txn-Token", vec![format!("{} bytes", text.len())]);
                Some(self.verified(&text, Whose::Of(provider))?)
            }
            None => None,
        };
        let asserted = self.head.asserted();
        let caller = match boundary::identify(&peer, tokens.zip(service.as_ref()), asserted) {
            Ok(caller) => caller,
            Err(Distrust::Untrusted) => {
                let line =
                    "certificate, service token and `x-service-name` do not name one service"
                        .to_owned();
                return self.refuse("caller", Code::UntrustedPeer, vec![line]);
            }
            Err(Distrust::Permission) => {
                let wanted = tokens.map_or(&[][..], |tokens| &tokens.permissions);
                let line = format!("its service token must have the permissions {}", list(wanted));
                return self.refuse("caller", Code::PermissionRequired, vec![line]);
            }
            Err(Distrust::Nameless) => {
                let line = "its service token has no `sub` that could name a service".to_owned();
                return self.refuse("caller", Code::TokenMalformed, vec![line]);
            }
        };
        let named = caller.service.as_deref().map_or_else(
            || "no service proved who it is".to_owned(),
            |name| format!("the service {}", show::quoted(name)),
        );
        let may = if caller.may_assert_user { "may" } else { "may not" };
        let lines = vec![named, format!("it {may} say who the user is")];
        if demand.service && caller.service.is_none() {
            return self.refuse("caller", Code::ServiceRequired, lines);
        }
        self.pass("caller", lines);
        if let Some(token) = signed {
            return match txn_token::context(&config.context, &token) {
                Ok(context) => self.asserted(&context, demand),
                Err(error) => self.refuse_token("context", error, Vec::new()),
            };
        }
        let said = AssertedContext::read(&config.context, asserted);
        if caller.may_assert_user {
            return match said {
                Ok(Some(context)) => self.asserted(&context, demand),
                Ok(None) if matches!(config.user, UserSource::Unsaid) => self.nobody(demand),
                Ok(None) => self.user(user, demand),
                Err(_) => {
                    let line =
                        "what it says of the user is incomplete, doubled, or no legal header"
                            .to_owned();
                    self.refuse("context", Code::UntrustedPeer, vec![line])
                }
            };
        }
        match boundary.otherwise {
            Otherwise::Authenticate => self.user(user, demand),
            Otherwise::Reject if demand.service && said == Ok(None) => self.nobody(demand),
            Otherwise::Reject => {
                let line = "`boundary.otherwise: reject`: it may not call here".to_owned();
                self.refuse("boundary", Code::UntrustedPeer, vec![line])
            }
            Otherwise::Strip => self.nobody(demand),
        }
    }

    fn asserted(&mut self, said: &AssertedContext, demand: &Demand) -> Way {
        let config = self.config;
        let record = said.record(&config.context);
        self.admitted(demand, record.members(), None, Duration::ZERO, "the context")?;
        self.context(&UserContext::asserted(&config.context, said));
        Ok(())
    }

    /// A service's exit: where the request goes, and what may go along.
    pub(super) fn exit(&mut self, egress: &Egress) -> Way {
        let config = self.config;
        let cluster = self.question.hop.cluster.as_deref();
        let destination = Destination::of(&egress.destinations, cluster);
        let mut lines = vec![match (cluster, destination) {
            (None, _) => "no --cluster was given: it goes nowhere that is named".to_owned(),
            (Some(cluster), None) => format!("no destination names {}", show::bytes(cluster)),
            (Some(cluster), Some(_)) => format!("{} is a destination", show::bytes(cluster)),
        }];
        let word = |passage: Option<Passage>| match passage {
            Some(Passage::Forward) => "goes along",
            Some(Passage::Strip) | None => "stays behind",
        };
        let context = destination.map(|destination| destination.context);
        lines.push(format!("the user's context {}", word(context)));
        lines.push(format!("the user's token {}", word(destination.map(|d| d.user_token))));
        self.pass("destination", lines);
        if context == Some(Passage::Forward) {
            self.carried()?;
        }
        let Some(own) = destination
            .and_then(|destination| destination.service_token)
            .and_then(|id| id.pick(&egress.service_tokens))
        else {
            return Ok(());
        };
        let name = show::quoted(&own.name);
        let why = match &own.source {
            TokenSource::Sign(_) => None,
            TokenSource::ClientCredentials(_) => match self.question.token_endpoint.clone() {
                None => {
                    let call = self.wanted("the service's own token");
                    Some(format!("no --token-endpoint FILE was given; {call}"))
                }
                Some(body) => {
                    let answer = response(200, body);
                    let at = self.question.at;
                    match service_token::read_answer(&answer, &config.limits, at, at) {
                        Ok(_) => None,
                        Err(error) => Some(error.to_string()),
                    }
                }
            },
        };
        match why {
            None => {
                self.pass("service token", vec![format!("{name} is shown")]);
                Ok(())
            }
            Some(why) => self.refuse("service token", Code::ServiceTokenUnavailable, vec![why]),
        }
    }

    /// What the service says of the user, on its way out.
    fn carried(&mut self) -> Way {
        let (config, fields) = (self.config, self.head.asserted());
        let signed = match txn_token::sent(fields) {
            Ok(signed) => signed,
            Err(error) => {
                let why = match error {
                    TokenError::Malformed(why) => why,
                    _ => "there is more than one `txn-token`",
                };
                return self.refuse("context", Code::UntrustedPeer, vec![why.to_owned()]);
            }
        };
        let said = match config.propagation {
            Propagation::ByService => AssertedContext::read(&config.context, fields),
            Propagation::ByRequestId => AssertedContext::part(&config.context, fields).map(Some),
        };
        let Ok(said) = said else {
            let line =
                "what the service says of the user is incomplete, doubled, or no legal header";
            return self.refuse("context", Code::UntrustedPeer, vec![line.to_owned()]);
        };
        let said = said.unwrap_or_default();
        if config.propagation == Propagation::ByRequestId && !(said.is_empty() && signed.is_none())
        {
            let line = "what the service was told by this request id is not known here, so what it says contradicts it";
            return self.refuse("context", Code::ContextMismatch, vec![line.to_owned()]);
        }
        self.context(&UserContext::asserted(&config.context, &said));
        Ok(())
    }
}

fn is_of(config: &Config, id: ProviderId, kind: TokenKind) -> bool {
    id.pick(&config.providers).is_some_and(|provider| provider.kind == kind)
}

fn hop_lines(question: &Question, peer: &Peer) -> Vec<String> {
    let Some(san) = &question.hop.uri_san else {
        return vec!["no client certificate (--peer)".to_owned()];
    };
    let mut lines = vec![format!("client certificate of {}", show::bytes(san))];
    lines.push(match &peer.service {
        Some(name) => format!("`boundary.peers`: it is the service {}", show::quoted(name)),
        None if peer.may_assert_user => {
            "`boundary.peers` has it, without a service's name".to_owned()
        }
        None => "`boundary.peers` gives it no name and no rights".to_owned(),
    });
    lines
}

fn forwarded_certificates(head: &Stripped) -> Option<Vec<u8>> {
    let named = head.fields().filter(|field| field.name == "x-forwarded-client-cert");
    let values: Vec<&[u8]> = named.map(|field| field.value.as_slice()).collect();
    (!values.is_empty()).then(|| values.join(&b','))
}
