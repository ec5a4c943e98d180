//! meshgate: an Envoy filter that turns a JWT into user context that a mesh can trust.
//!
//! # One request's life
//!
//! Envoy hands a request's head to the shell (`src/shell`, wasm only), which strips every header that
//! only meshgate may set ([`headers`]) before it looks at anything else. The rules say what the path
//! asks for ([`rules`]). The token is found and read ([`token`]) and verified with its issuer's keys
//! ([`jwks`], [`signature`]); its user is looked up ([`user`]); claims and record become the context
//! ([`context`]), which a gateway may sign ([`boundary`]) and which is set on the request ([`headers`]).
//! [`request`] is this way as a state machine. It waits where keys, the issuer's word or a user must first
//! be fetched ([`callout`]), in a [`worker`], which holds what the requests of one VM share. What all
//! workers of an Envoy share stands on the [`board`]. Whatever falls short ends in a [`denial`], which is
//! told in the words of the [`answers`]. What operators see of it is in the [`account`] of each request, the
//! [`metrics`] and the [`log`].
//!
//! Inside the mesh the [`boundary`] says whose word counts: at a service's door, who may say who the user is;
//! at its exit, where the user's context and token may go, and by what the service shows who it is.
//!
//! All of that is plain Rust without I/O, clock or globals: events go in, decisions come out. Where there is no
//! Envoy, a Rust service has it in its own process by `embed`.

#![forbid(unsafe_code)]

pub mod config;
pub mod worker;

pub mod request;

pub mod headers;
pub mod rules;
pub mod token;

pub mod jwks;
pub mod signature;

pub mod revocation;
pub mod user;

pub mod answers;
pub mod boundary;
pub mod context;
pub mod denial;

pub mod account;
pub mod metrics;

pub mod board;
pub mod callout;
pub mod redis;

pub mod bounded;
pub mod json;
pub mod log;
pub mod time;

#[cfg(target_family = "wasm")]
mod shell;

#[cfg(not(target_family = "wasm"))]
pub mod embed;
