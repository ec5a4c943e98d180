//! What to do about a refusal.

use meshgate::denial::Code;

/// The remedy for each code.
pub const fn of(code: Code) -> &'static str {
    match code {
        Code::TokenMissing => {
            "send a token in one of the places that are looked at, or make the path `optional` or `anonymous` in `rules`"
        }
        Code::TokenMalformed => {
            "the client has to get another token; where all tokens are like this one, the provider's terms do not fit the issuer"
        }
        Code::AlgorithmNotAllowed => {
            "add the algorithm to the provider's `algorithms`, or have the issuer sign with one that is there"
        }
        Code::KeyUnknown => {
            "compare the token's `kid` with the issuer's JWKS: the issuer may have rotated its keys, or the token is of another environment"
        }
        Code::SignatureInvalid => {
            "the token was altered, or signed with another key of that name: is it of another environment?"
        }
        Code::IssuerUnknown => {
            "`iss` must be a provider's `issuer` byte for byte: mind a slash at its end, `http` and `https`"
        }
        Code::AudienceMismatch => {
            "ask the issuer for a token with one of these audiences, or add the token's to `audiences`"
        }
        Code::AuthorizedPartyMismatch => {
            "add the client's `azp` to `authorized_parties`, if it may call here"
        }
        Code::ClaimMismatch => {
            "compare the token's claims with `required_claims`, and its `type` with the provider's"
        }
        Code::TokenExpired => {
            "the client has to get a new token; if it just did, compare the clocks (`clock_skew`)"
        }
        Code::TokenNotYetValid => {
            "the issuer's clock is ahead of this one by more than `clock_skew`, or the token is for later"
        }
        Code::TokenRevoked => {
            "the user has to sign in again; whether that was meant, the feed's or the blacklist's entry tells"
        }
        Code::TokenAmbiguous => {
            "the client has to send one token: look for a cookie beside `authorization`, or a header that is there twice"
        }
        Code::UserUnknown => {
            "the users service has no user of that key: has `user.key` the right claim, and does the service know the user yet?"
        }
        Code::UserDisabled => "the user's record says that they may not act: see `user.active`",
        Code::RoleRequired => "give the user one of these roles, or let the rule ask for another",
        Code::PermissionRequired => "give the caller what it lacks, or let the rule ask for less",
        Code::ScopeRequired => {
            "ask the issuer for a token with these scopes, or let the rule ask for less"
        }
        Code::ClaimRequired => {
            "the token's claims are the issuer's to set; or let the rule ask for others"
        }
        Code::AuthenticationTooOld => {
            "the user has to sign in again; where they just did, does the issuer put `auth_time` into its tokens?"
        }
        Code::PropagationUnavailable => {
            "too many requests with one id at once: does something on the way give all requests the same `x-request-id`?"
        }
        Code::CheckRefused => {
            "have the proxy that asks say which request it means, once, and take a gRPC `content-type` off"
        }
        Code::UntrustedPeer => {
            "add the caller to `boundary.peers` with `may_assert_user`, or have it come with a token of its own and without context headers"
        }
        Code::ServiceRequired => {
            "call with a client certificate that `boundary.peers` names, or with a service token"
        }
        Code::ContextMismatch => {
            "the service has to pass on the `x-request-id` and the context of the request that it serves, unchanged"
        }
        Code::KeysUnavailable => {
            "can Envoy reach the issuer? See the cluster's stats, and the warning `jwks provider=` in Envoy's log"
        }
        Code::IntrospectionUnavailable => {
            "can Envoy reach the introspection endpoint, and does it take the client's secret? See the warning in Envoy's log"
        }
        Code::RevocationUnavailable => {
            "can Envoy reach the feed or Redis? `on_unavailable` says what happens meanwhile"
        }
        Code::UserLookupUnavailable => {
            "can Envoy reach the users service, and is its answer a record that `context.headers` can be made of? See the warning in Envoy's log"
        }
        Code::ServiceTokenUnavailable => {
            "can Envoy reach the token endpoint, and does it take the client's secret? See the warning in Envoy's log"
        }
        Code::PathRefused => {
            "the client has to send a plain path, without escapes of `/`, `.` and `%`"
        }
        Code::MethodNotAllowed => {
            "use GET: the path is `txn_token.jwks_path`, which the filter answers itself"
        }
        Code::Overloaded => {
            "what is slow that so many requests wait for? See `limits.max_waiters` and `limits.max_inflight_callouts`"
        }
        Code::InternalError => "it should never happen: report it, with Envoy's log",
    }
}
