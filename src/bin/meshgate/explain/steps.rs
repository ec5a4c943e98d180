//! The request's way, told step by step by the functions that decide on it.
//!
//! The filter's own run is the verdict. This retells it; where it comes to another end, it says that it
//! cannot tell why.

mod claims;
mod mesh;
mod revoked;

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use meshgate::callout::Answer;
use meshgate::config::{
    Config, FromHeader, KeySource, Lookup, Mode, Places, Provider, TokenKind, UserSource,
    ValueSource,
};
use meshgate::context::{ContextError, UserContext, texts};
use meshgate::denial::Code;
use meshgate::headers::{Edit, Stripped};
use meshgate::jwks::{Key, KeySet, Origin};
use meshgate::request::authz::{Asked, Unclear};
use meshgate::rules::{Demand, Grants, Lacking, Level, Reading, Requirement, Target};
use meshgate::signature::Crypto;
use meshgate::token::claims::Claims;
use meshgate::token::compact::CompactJws;
use meshgate::token::introspection::{self, Said};
use meshgate::token::{ProviderId, TokenError, UnverifiedToken, VerifiedToken, extract};
use meshgate::user::{self, Known, UserKey, UserRecord};
use serde_json::{Map, Value};

use super::world::{Made, Run};
use super::{Question, show};

/// What there is to tell.
pub struct Told {
    /// The steps, up to the one that ended the request.
    pub steps: Vec<Step>,
    /// Whether they lead to the verdict.
    pub agrees: bool,
}

/// One step.
pub struct Step {
    /// What was looked at.
    pub name: &'static str,
    /// Why the request ends here, where it does.
    pub refused: Option<Code>,
    /// What was found.
    pub lines: Vec<String>,
}

/// Retells a run.
pub fn tell(run: &Run, question: &Question) -> Told {
    let config = &*run.config;
    let mut walk =
        Walk { run, question, config, head: &run.head, targets: Vec::new(), steps: Vec::new() };
    let asked = match &config.mode {
        Mode::Authz(authz) => Some(Asked::of(&run.head, &question.hop, authz)),
        Mode::Gateway | Mode::Service(_) | Mode::Egress(_) => None,
    };
    walk.strip();
    let told = match &asked {
        None => {
            walk.targets.push(target(&run.head));
            walk.all().err()
        }
        Some(Ok(asked)) => {
            walk.head = &asked.head;
            walk.targets = asked.targets();
            walk.all().err()
        }
        Some(Err(Unclear(code, why))) => {
            walk.refuse::<()>("asked about", *code, vec![(*why).to_owned()]).err()
        }
    };
    let decided = run.denial();
    let agrees = told == decided.map(|denial| denial.code);
    if !agrees {
        let detail = decided.and_then(|denial| denial.detail);
        let lines = [
            "the filter decides otherwise than these steps tell, for a reason that they do not know",
        ];
        walk.steps.push(Step {
            name: "verdict",
            refused: decided.map(|denial| denial.code),
            lines: lines.into_iter().chain(detail).map(str::to_owned).collect(),
        });
    }
    Told { steps: walk.steps, agrees }
}

struct Walk<'a> {
    run: &'a Run,
    question: &'a Question,
    config: &'a Config,
    /// The head of the request that is decided on.
    head: &'a Stripped,
    /// What it may be: one request, unless another proxy asks about it.
    targets: Vec<Target<'a>>,
    steps: Vec<Step>,
}

/// The request ends with this.
type Way<T = ()> = Result<T, Code>;

/// Whose token is looked at.
#[derive(Clone, Copy)]
enum Whose {
    User,
    /// One that counts only if this provider issued it.
    Of(ProviderId),
}

impl Walk<'_> {
    fn pass(&mut self, name: &'static str, lines: Vec<String>) {
        self.steps.push(Step { name, refused: None, lines });
    }

    fn refuse<T>(&mut self, name: &'static str, code: Code, lines: Vec<String>) -> Way<T> {
        self.steps.push(Step { name, refused: Some(code), lines });
        Err(code)
    }

    fn refuse_token<T>(
        &mut self,
        name: &'static str,
        error: TokenError,
        mut lines: Vec<String>,
    ) -> Way<T> {
        if let TokenError::Malformed(why) = error {
            lines.push(why.to_owned());
        }
        self.refuse(name, error.into(), lines)
    }

    fn all(&mut self) -> Way {
        let config = self.config;
        if let Mode::Egress(egress) = &config.mode {
            return self.exit(egress);
        }
        let method = self.head.value(":method").unwrap_or_default().to_vec();
        let target = self.head.value(":path").unwrap_or_default();
        let published = config.txn_token.as_ref().and_then(|txn| txn.published.as_ref());
        if published.is_some_and(|published| published.is_at(target)) {
            let line = vec!["`txn_token.jwks_path`: the filter answers this itself".to_owned()];
            return match method.as_slice() {
                b"GET" | b"HEAD" => {
                    self.pass("own path", line);
                    Ok(())
                }
                _ => self.refuse("own path", Code::MethodNotAllowed, line),
            };
        }
        let demand = config.rules.demand(&self.targets, config.context.forward_token);
        self.rule(&demand)?;
        if demand.level == Level::Anonymous {
            self.pass("user", vec!["none is asked for: a token is not looked at".to_owned()]);
            return Ok(());
        }
        match &config.mode {
            Mode::Service(boundary) => self.door(boundary, &demand),
            Mode::Gateway | Mode::Authz(_) | Mode::Egress(_) => {
                let found = extract::find(self.head, of_kind(config, TokenKind::User));
                let found = found.map(|text| text.map(Cow::into_owned));
                self.user(found, &demand)
            }
        }
    }

    fn strip(&mut self) {
        let names: Vec<&str> = self.run.strip.iter().map(name_of).collect();
        let line = if names.is_empty() {
            "the client sent none of the headers that only meshgate may set".to_owned()
        } else {
            format!("taken off, since only meshgate may set them: {}", show::list(names))
        };
        self.pass("strip", vec![line]);
    }

    fn rule(&mut self, demand: &Demand) -> Way {
        let config = self.config;
        let mut lines: Vec<String> = Vec::new();
        for target in &self.targets {
            let Some(readings) = config.rules.readings(target) else {
                let line =
                    "there are too many ways to read the path: escapes, dots, `;`, double slashes";
                return self.refuse("rule", Code::PathRefused, vec![line.to_owned()]);
            };
            lines.extend(readings.iter().map(said_by));
        }
        lines.dedup();
        if lines.len() > 1 {
            lines.push("it can be read in all of these ways, and each must be allowed".to_owned());
        }
        if demand.level != Level::Anonymous && demand.forward_token {
            lines.push("the token is forwarded".to_owned());
        }
        self.pass("rule", lines);
        Ok(())
    }

    /// The user's own token, and then who the user is.
    fn user(&mut self, found: Result<Option<Vec<u8>>, TokenError>, demand: &Demand) -> Way {
        let text = match found {
            Ok(Some(text)) => text,
            Ok(None) => return self.nobody(demand),
            Err(error) => {
                let line = "there are different tokens, or other credentials beside one";
                return self.refuse_token("token", error, vec![line.to_owned()]);
            }
        };
        let places = self.places_of(&text, TokenKind::User);
        self.pass("token", vec![format!("{} bytes, in {places}", text.len())]);
        let token = self.verified(&text, Whose::User)?;
        self.known(&token, demand)
    }

    fn nobody(&mut self, demand: &Demand) -> Way {
        let mut looked: Vec<String> = Vec::new();
        for provider in of_kind(self.config, TokenKind::User) {
            looked.extend(places(&provider.places).into_iter().map(|(name, _)| name));
        }
        looked.dedup();
        let line = format!("none; looked for in {}", looked.join(", "));
        match demand.level {
            Level::Optional | Level::Anonymous => {
                self.pass("token", vec![line, "the request goes on without a user".to_owned()]);
                Ok(())
            }
            Level::User | Level::Nobody => self.refuse("token", Code::TokenMissing, vec![line]),
        }
    }

    fn places_of(&self, text: &[u8], kind: TokenKind) -> String {
        let mut found: Vec<String> = of_kind(self.config, kind)
            .flat_map(|provider| places(&provider.places))
            .filter(|(_, place)| extract::stands_in(self.head, place, text))
            .map(|(name, _)| name)
            .collect();
        found.dedup();
        found.join(" and ")
    }

    /// A token from its text to where nothing speaks against it.
    fn verified(&mut self, text: &[u8], whose: Whose) -> Way<VerifiedToken> {
        let config = self.config;
        let read = UnverifiedToken::parse(text, config.limits.max_token_bytes, &config.providers);
        let lines = header_lines(text);
        let token = match read {
            Ok(token) => {
                let Some(provider) = token.provider.pick(&config.providers) else {
                    return self.refuse("read", Code::InternalError, lines);
                };
                self.is_in_place(&token, provider, text, whose, &lines)?;
                if provider.trust.keys.is_some() {
                    self.signed(token, provider, text, lines)?
                } else {
                    if let Err(error) = token.check_type(provider) {
                        return self.refuse_token("read", error, lines);
                    }
                    self.pass("read", lines);
                    self.asked(token.provider, text)?
                }
            }
            Err(error @ TokenError::Malformed(_))
                if text.len() <= config.limits.max_token_bytes =>
            {
                let mut all = ProviderId::all(config.providers.len());
                let asks = |id: &ProviderId| {
                    id.pick(&config.providers).is_some_and(|provider| {
                        provider.kind == TokenKind::User
                            && provider.trust.introspection.is_some()
                            && extract::stands_in(self.head, &provider.places, text)
                    })
                };
                match all.find(|id| matches!(whose, Whose::User) && asks(id)) {
                    Some(id) => {
                        self.pass("read", vec!["it is no JWT: its issuer is asked".to_owned()]);
                        self.asked(id, text)?
                    }
                    None => return self.refuse_token("read", error, lines),
                }
            }
            Err(error) => {
                let mut lines = lines;
                lines.extend(self.why_not_ours(error, text));
                return self.refuse_token("read", error, lines);
            }
        };
        self.revoked(&token)?;
        Ok(token)
    }

    fn is_in_place(
        &mut self,
        token: &UnverifiedToken,
        provider: &Provider,
        text: &[u8],
        whose: Whose,
        lines: &[String],
    ) -> Way {
        let stands = || extract::stands_in(self.head, &provider.places, text);
        let fits = match whose {
            Whose::User => provider.kind == TokenKind::User && stands(),
            Whose::Of(id) => token.provider == id,
        };
        if fits {
            return Ok(());
        }
        let why = match whose {
            Whose::User if provider.kind == TokenKind::User => {
                "whose tokens do not count in this place"
            }
            Whose::User => "whose tokens are not of users",
            Whose::Of(_) => "which is not the one that is asked for here",
        };
        let name = show::quoted(&provider.name);
        let line = format!("its issuer is that of provider {name}, {why}");
        let lines = lines.iter().cloned().chain([line]).collect();
        self.refuse("read", Code::IssuerUnknown, lines)
    }

    /// What the providers are, where a token is none of theirs.
    fn why_not_ours(&self, error: TokenError, text: &[u8]) -> Option<String> {
        let providers = &self.config.providers;
        match error {
            TokenError::IssuerUnknown => {
                let issuers = providers.iter().map(|provider| provider.issuer.as_str());
                Some(format!("the config has the issuers {}", show::list(issuers)))
            }
            TokenError::AlgorithmNotAllowed => {
                let jws = CompactJws::parse(text).ok()?;
                let issuer = jws.claims.text("iss")?;
                let provider = providers.iter().find(|provider| provider.issuer == issuer)?;
                let names = provider.algorithms.iter().map(|algorithm| algorithm.name());
                Some(format!("{} allows {}", show::quoted(&provider.name), show::list(names)))
            }
            _ => None,
        }
    }

    /// A token held against its issuer's keys and terms.
    fn signed(
        &mut self,
        token: UnverifiedToken,
        provider: &Provider,
        text: &[u8],
        mut lines: Vec<String>,
    ) -> Way<VerifiedToken> {
        let name = show::quoted(&provider.name);
        lines.push(format!("its issuer is that of provider {name}"));
        self.pass("read", lines);
        let set = match &provider.trust.keys {
            Some(KeySource::Local(set)) => Rc::clone(set),
            Some(KeySource::Remote(_)) | None => match self.question.jwks.get(&provider.name) {
                None => {
                    let call = self.wanted(&format!("the keys of `{}`", provider.name));
                    let line = format!("no --jwks {}=FILE was given; {call}", provider.name);
                    return self.refuse("keys", Code::KeysUnavailable, vec![line]);
                }
                Some(document) => match KeySet::parse(document, Origin::Remote) {
                    Ok(set) => Rc::new(set),
                    Err(error) => {
                        return self.refuse("keys", Code::KeysUnavailable, vec![error.to_string()]);
                    }
                },
            },
        };
        let mut lines = vec![format!("{name} has {}", keys_of(&set))];
        if set.skipped > 0 {
            lines.push(format!(
                "{} more cannot be used: of another kind or use, or broken",
                set.skipped
            ));
        }
        let at = self.question.at;
        let about = self.claim_lines(text, provider);
        match token
            .check_type(provider)
            .and_then(|()| token.verify(provider, &set, &Crypto::Module, at))
        {
            Ok(token) => {
                self.pass("keys", lines);
                let by =
                    token.kid().map_or_else(|| "a key without a name".to_owned(), show::quoted);
                self.pass("signature", vec![format!("made by {by}")]);
                self.pass("claims", about);
                Ok(token)
            }
            Err(error @ TokenError::Malformed(why))
                if why.contains("`typ`") || why.contains("transaction token") =>
            {
                self.refuse_token("type", error, Vec::new())
            }
            Err(error @ TokenError::KeyUnknown) => {
                lines.push("none of them is named as the token says and fits its `alg`".to_owned());
                self.refuse_token("keys", error, lines)
            }
            Err(error @ TokenError::SignatureInvalid) => {
                self.pass("keys", lines);
                let line = "no key that fits made it: the token was altered, or signed by a key of the same name";
                self.refuse_token("signature", error, vec![line.to_owned()])
            }
            Err(error) => {
                self.pass("keys", lines);
                self.pass("signature", vec!["good".to_owned()]);
                self.refuse_token("claims", error, about)
            }
        }
    }

    /// A token of which its issuer is asked.
    fn asked(&mut self, id: ProviderId, text: &[u8]) -> Way<VerifiedToken> {
        let Some(provider) = id.pick(&self.config.providers) else {
            return self.refuse("introspection", Code::InternalError, Vec::new());
        };
        if text.is_empty() || !text.iter().all(u8::is_ascii_graphic) {
            let line = "it is not made of visible ASCII, so nobody can be asked about it";
            return self.refuse("introspection", Code::TokenMalformed, vec![line.to_owned()]);
        }
        let Some(body) = self.question.introspection.clone() else {
            let call = self.wanted(&format!("the word of `{}` on the token", provider.name));
            let line = format!("no --introspection FILE was given; {call}");
            return self.refuse("introspection", Code::IntrospectionUnavailable, vec![line]);
        };
        match introspection::read_answer(&response(200, body)) {
            Ok(Said::Inactive) => {
                let line = "the issuer says that it is not active".to_owned();
                self.refuse_token("introspection", TokenError::Inactive, vec![line])
            }
            Ok(Said::Active(claims)) => {
                let lines = self.claims(&claims, provider);
                match VerifiedToken::introspected(id, provider, claims, self.question.at) {
                    Ok(token) => {
                        self.pass(
                            "introspection",
                            vec!["the issuer says that it is active".to_owned()],
                        );
                        self.pass("claims", lines);
                        Ok(token)
                    }
                    Err(error) => self.refuse_token("claims", error, lines),
                }
            }
            Err(_) => {
                let line = "the answer is no JSON object with a clear `active`".to_owned();
                self.refuse("introspection", Code::IntrospectionUnavailable, vec![line])
            }
        }
    }

    /// The user of a good token, and what the user may.
    fn known(&mut self, token: &VerifiedToken, demand: &Demand) -> Way {
        let config = self.config;
        let (record, from) = match &config.user {
            UserSource::Claims => {
                self.pass("user", vec!["the token's claims are the record".to_owned()]);
                (UserRecord::new(token.claims().members().clone()), "the token")
            }
            UserSource::Lookup(lookup) => (self.looked_up(lookup, token)?, "the record"),
            UserSource::Unsaid => {
                let line = "the config does not say where users come from".to_owned();
                return self.refuse("user", Code::InternalError, vec![line]);
            }
        };
        let issuer = token.provider().pick(&config.providers);
        let skew = issuer.map(|issuer| issuer.clock_skew).unwrap_or_default();
        self.admitted(demand, record.members(), Some(token.claims()), skew, from)?;
        match UserContext::assemble(&config.context, token.claims(), &record) {
            Ok(context) => {
                self.context(&context);
                Ok(())
            }
            Err(error) => {
                let code = match (error, &config.user) {
                    (ContextError::Record, UserSource::Lookup(_)) => Code::UserLookupUnavailable,
                    (ContextError::Record | ContextError::Claim, _) => Code::TokenMalformed,
                };
                let lines = self.wanted_headers(error == ContextError::Claim);
                self.refuse("context", code, lines)
            }
        }
    }

    fn looked_up(&mut self, lookup: &Lookup, token: &VerifiedToken) -> Way<UserRecord> {
        let claims = token.claims();
        let Some(key) = UserKey::of(lookup, token.provider(), claims) else {
            let names = show::list(lookup.key.iter().map(String::as_str));
            let line = format!(
                "the token has none of the claims that name the user ({names}), or not as a text"
            );
            return self.refuse("user", Code::TokenMalformed, vec![line]);
        };
        let named = lookup.key.iter().find_map(|name| Some((name, claims.text(name)?)));
        let mut lines: Vec<String> = named
            .map(|(name, value)| format!("looked up by `{name}`: {}", show::quoted(value)))
            .into_iter()
            .collect();
        let Some((status, body)) = self.question.user.clone() else {
            lines.push(format!("no --user FILE was given; {}", self.wanted("the user's record")));
            return self.refuse("user", Code::UserLookupUnavailable, lines);
        };
        match user::read_answer(lookup, &key, &response(status, body)) {
            Ok(Known::Record(record)) => {
                if !record.is_active(lookup.active.as_ref()) {
                    let active = lookup.active.as_ref();
                    lines.extend(active.map(|active| {
                        let found = active.field.find(record.members());
                        let found = found.map_or_else(|| "not there".to_owned(), show::json);
                        format!(
                            "{} is {found}, and must be {}",
                            active.field.as_str(),
                            show::json(&active.equals)
                        )
                    }));
                    return self.refuse("user", Code::UserDisabled, lines);
                }
                lines.push("the users service knows them".to_owned());
                self.pass("user", lines);
                Ok(UserRecord::clone(&record))
            }
            Ok(Known::Unknown) => {
                lines.push(format!("the users service answered {status}: there is no such user"));
                self.refuse("user", Code::UserUnknown, lines)
            }
            Err(error) => {
                lines.push(error.to_string());
                self.refuse("user", Code::UserLookupUnavailable, lines)
            }
        }
    }

    /// What the user has, held against the rules of all readings.
    fn admitted(
        &mut self,
        demand: &Demand,
        members: &Map<String, Value>,
        claims: Option<&Claims>,
        clock_skew: Duration,
        from: &str,
    ) -> Way {
        let config = self.config;
        let mut lines = Vec::new();
        let readings = self.targets.iter().filter_map(|target| config.rules.readings(target));
        for (_, rule) in readings.flatten().flat_map(|reading| reading.rules) {
            let Requirement::User(needs) = &rule.requirement else {
                continue;
            };
            if !needs.roles.is_empty() {
                let (wants, has) = (list(&needs.roles), show::list(texts(members, "role")));
                lines.push(format!("one of the roles {wants} is asked for; {from} has {has}"));
            }
            if !needs.permissions.is_empty() {
                let has = |one: &&str| texts(members, "permissions").any(|own| own == *one);
                let lacks = needs.permissions.iter().map(String::as_str).filter(|one| !has(one));
                let lacks = show::list(lacks);
                let wants = list(&needs.permissions);
                lines.push(format!("the permissions {wants} are asked for; {from} lacks {lacks}"));
            }
            lines.extend(self.of_the_token(needs, claims));
        }
        lines.dedup();
        let grants = Grants { record: members, claims, clock_skew };
        match config.rules.admit(demand, &grants, self.question.at) {
            Ok(()) if lines.is_empty() => Ok(()),
            Ok(()) => {
                self.pass("rights", lines);
                Ok(())
            }
            Err(lacking) => {
                let code = match lacking {
                    Lacking::Role => Code::RoleRequired,
                    Lacking::Permission => Code::PermissionRequired,
                    Lacking::Scope(_) => Code::ScopeRequired,
                    Lacking::Claim => Code::ClaimRequired,
                    Lacking::Authentication(_) => Code::AuthenticationTooOld,
                };
                self.refuse("rights", code, lines)
            }
        }
    }

    fn context(&mut self, context: &UserContext) {
        let set = context.headers().filter_map(|(name, value)| {
            Some(format!("{}: {}", name.as_str(), show::plain(value?)))
        });
        let lines = set.collect();
        self.pass("context", lines);
    }

    /// Where the headers of one kind of source look.
    fn wanted_headers(&self, of_claims: bool) -> Vec<String> {
        let headers = self.config.context.headers.iter().filter_map(|header| {
            let (pointer, place) = match &header.source {
                ValueSource::Claim(pointer) if of_claims => (pointer, "claims"),
                ValueSource::User(pointer) if !of_claims => (pointer, "record"),
                ValueSource::Claim(_) | ValueSource::User(_) => return None,
            };
            let required = if header.required { ", required" } else { "" };
            Some(format!(
                "{} from {} in the {place}{required}",
                header.name.as_str(),
                show::quoted(pointer.as_str())
            ))
        });
        let why = "one of these is missing though required, or no header can carry it".to_owned();
        std::iter::once(why).chain(headers).collect()
    }

    /// The call that was wanted for this, in words.
    fn wanted(&self, purpose: &str) -> String {
        let wanted = |made: &&Made| made.purpose.contains(purpose);
        match self.run.calls.iter().find(wanted) {
            Some(made) => format!("it would be asked for by {}", made.request),
            // What is found in two steps is not even looked for after the first one failed.
            None => "it would be asked for".to_owned(),
        }
    }
}

fn of_kind(config: &Config, kind: TokenKind) -> impl Iterator<Item = &Provider> {
    config.providers.iter().filter(move |provider| provider.kind == kind)
}

fn name_of(edit: &Edit) -> &str {
    match edit {
        Edit::Set(name, _) | Edit::Remove(name) => name,
    }
}

fn list(texts: &[String]) -> String {
    show::list(texts.iter().map(String::as_str))
}

fn response(status: u16, body: Vec<u8>) -> Answer {
    Answer::Response { status, max_age: None, etag: None, body }
}

/// Each place by itself, with its name.
fn places(all: &Places) -> Vec<(String, Places)> {
    let header = |header: &FromHeader| {
        let place = Places { headers: vec![header.clone()], ..Places::default() };
        (format!("the header `{}`", header.name.as_str()), place)
    };
    let cookie = |name: &String| {
        let place = Places { cookies: vec![name.clone()], ..Places::default() };
        (format!("the cookie {}", show::quoted(name)), place)
    };
    let param = |name: &String| {
        let place = Places { params: vec![name.clone()], ..Places::default() };
        (format!("the query parameter {}", show::quoted(name)), place)
    };
    let headers = all.headers.iter().map(header);
    headers.chain(all.cookies.iter().map(cookie)).chain(all.params.iter().map(param)).collect()
}

fn target(head: &Stripped) -> Target<'_> {
    Target {
        method: head.value(":method").unwrap_or_default(),
        host: head.value(":authority").unwrap_or_default(),
        path: head.value(":path").unwrap_or_default(),
    }
}

fn said_by(reading: &Reading<'_>) -> String {
    let mut said: Vec<String> = reading
        .rules
        .iter()
        .map(|(place, rule)| format!("`rules[{place}]` asks for {}", asked_for(&rule.requirement)))
        .collect();
    if !reading.is_certain {
        said.push("no rule certainly matches, so a user is required".to_owned());
    }
    format!("{}: {}", show::quoted(&reading.path), said.join("; "))
}

fn asked_for(requirement: &Requirement) -> String {
    match requirement {
        Requirement::Anonymous => "nothing".to_owned(),
        Requirement::Optional => "a user or none".to_owned(),
        Requirement::Service => "a service".to_owned(),
        Requirement::User(needs) => {
            let some = |what: &str, texts: &[String]| {
                (!texts.is_empty()).then(|| format!("{what} {}", list(texts)))
            };
            let names: Vec<String> = needs.claims.iter().map(|(name, _)| name.clone()).collect();
            let age = needs
                .max_age
                .map(|age| format!("an authentication of the last {}", show::span(age)));
            let parts = [
                some("one of the roles", &needs.roles),
                some("the permissions", &needs.permissions),
                some("the scopes", &needs.scopes),
                some("the claims", &names),
                age,
            ];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            if parts.is_empty() {
                "a user".to_owned()
            } else {
                format!("a user with {}", parts.join(" and "))
            }
        }
    }
}

/// What a token's header says, where it can be read.
fn header_lines(text: &[u8]) -> Vec<String> {
    let Ok(jws) = CompactJws::parse(text) else {
        return Vec::new();
    };
    let text = |value: Option<&str>| value.map_or_else(|| "none".to_owned(), show::quoted);
    vec![
        format!(
            "alg: `{}`, kid: {}, typ: {}",
            jws.algorithm.name(),
            text(jws.kid.as_deref()),
            text(jws.typ.as_deref())
        ),
        format!("iss: {}", text(jws.claims.text("iss"))),
    ]
}

fn keys_of(set: &KeySet) -> String {
    let name = |key: &Key| {
        let kid = key.kid().map_or_else(|| "one without a name".to_owned(), show::quoted);
        format!("{kid} ({:?})", key.public_key())
    };
    let names: Vec<String> = set.keys().map(name).collect();
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{} key{plural}: {}", names.len(), names.join(", "))
}
