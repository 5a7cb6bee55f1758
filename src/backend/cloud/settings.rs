//! The way in, as it is configured: API keys alone, or an identity provider beside them; and what browsers and addresses
//! need. Checked whole before anything opens; every refusal names the variable that mends it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use openidconnect::url::{Host, Url};

use super::addresses::Network;
use super::bucket::Flow;
use super::secret::{Names, Place, Secret};
use crate::config;

const ISSUER: &str = "KAHN_OIDC_ISSUER";
const AUDIENCE: &str = "KAHN_OIDC_AUDIENCE";
const CLIENT_ID: &str = "KAHN_OIDC_CLIENT_ID";
const CLIENT_SECRET: Names = Names { variable: "KAHN_OIDC_CLIENT_SECRET", file: "KAHN_OIDC_CLIENT_SECRET_FILE" };
const PUBLIC_URL: &str = "KAHN_PUBLIC_URL";
const SESSION_KEY: Names = Names { variable: "KAHN_SESSION_KEY", file: "KAHN_SESSION_KEY_FILE" };
const DEFAULT_LONGEST_LIFE_S: u32 = 24 * 60 * 60;
const DEFAULT_ORG_CLAIM: &str = "org_id";
/// How often an address may send bad credentials: more than people mistype, less than guessing needs.
const FAILURES: Flow = Flow { rate_per_s: 5, burst: 100 };
/// Bytes of a session key at the least: what an attacker would have to guess.
const SHORTEST_SESSION_KEY: usize = 32;

/// Options of `kahn serve` about who may come in, as they were typed. Secrets come from files, or from the environment
/// where a platform has nothing else; arguments are for more eyes than that.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct EntryOptions {
    /// The identity provider's issuer, as its discovery says it
    #[arg(long, env = ISSUER, value_name = "URL")]
    oidc_issuer: Option<String>,
    /// The audience that access tokens for this server hold
    #[arg(long, env = AUDIENCE, value_name = "AUDIENCE")]
    oidc_audience: Option<String>,
    /// This server's own client at the provider: for introspection and for signing in
    #[arg(long, env = CLIENT_ID, value_name = "ID")]
    oidc_client_id: Option<String>,
    /// A file that holds that client's secret; without it, KAHN_OIDC_CLIENT_SECRET of the environment
    #[arg(long, env = CLIENT_SECRET.file, value_name = "FILE", value_parser = path())]
    oidc_client_secret_file: Option<PathBuf>,
    /// The claim that names a tenant's org [default: org_id]
    #[arg(long, env = "KAHN_OIDC_ORG_CLAIM", value_name = "NAME")]
    oidc_org_claim: Option<String>,
    /// Which access tokens are let in: compat (typ at+jwt, JWT or none) or strict (at+jwt alone) [default: compat]
    #[arg(long, env = "KAHN_OIDC_TYP", value_name = "compat|strict")]
    oidc_typ: Option<String>,
    /// Seconds that a signed token may be good for at the most [default: 86400]
    #[arg(long, env = "KAHN_OIDC_LONGEST_LIFE", value_name = "SECONDS")]
    oidc_longest_life: Option<String>,
    /// The address that people see: https, its host, and its port where it has one
    #[arg(long, env = PUBLIC_URL, value_name = "URL")]
    public_url: Option<String>,
    /// A file with 32 bytes or more that seal browser sessions; without it, KAHN_SESSION_KEY of the environment
    #[arg(long, env = SESSION_KEY.file, value_name = "FILE", value_parser = path())]
    session_key_file: Option<PathBuf>,
    /// Addresses of proxies whose X-Forwarded-For is believed, with commas between, as in 10.0.0.0/8,fd00::/8
    #[arg(long, env = "KAHN_TRUSTED_PROXIES", value_name = "ADDRESSES")]
    trusted_proxies: Option<String>,
    /// Bad credentials that an address may send at once [default: 100]
    #[arg(long, env = "KAHN_AUTH_FAILURES_BURST", value_name = "N")]
    auth_failures_burst: Option<String>,
    /// Bad credentials that an address may send a second after that [default: 5]
    #[arg(long, env = "KAHN_AUTH_FAILURES_RATE", value_name = "N")]
    auth_failures_rate: Option<String>,
    /// The way in, where it is not to come from the environment.
    #[arg(skip)]
    pub(super) auth: Option<String>,
}

/// A path; an empty one is let through, since a variable that is set to nothing is not set.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Who may come in, without mistakes.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The identity provider; `None`: API keys only.
    pub(super) provider: Option<ProviderSettings>,
    /// The origin that people see, without a slash at its end.
    pub(super) public_url: Option<Arc<str>>,
    /// What seals sessions; at least 32 bytes.
    pub(super) session_key: Option<Secret>,
    /// Whose forwarded addresses are believed.
    pub(super) trusted_proxies: Vec<Network>,
    /// How often an address may send bad credentials.
    pub(super) failures: Flow,
}

/// An identity provider, and who this server is there.
#[derive(Debug, Clone)]
pub(super) struct ProviderSettings {
    /// Byte for byte as it has to stand in discovery and tokens.
    pub(super) issuer: String,
    /// What `aud` has to hold.
    pub(super) audience: String,
    /// Our client.
    pub(super) client_id: String,
    /// Its secret.
    pub(super) client_secret: Secret,
    /// The claim that names the org.
    pub(super) org_claim: String,
    /// Which `typ` is let in.
    pub(super) typ: Typ,
    /// How far ahead, in seconds, the end of a signed token may be.
    pub(super) longest_life_s: f64,
}

/// Which `typ` an access token may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Typ {
    /// at+jwt, JWT or none.
    Compat,
    /// at+jwt.
    Strict,
}

/// Why there is no way in, or none that could be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum EntryMistake {
    /// Nothing is configured.
    #[error(
        "no way in is configured; set KAHN_OIDC_ISSUER, KAHN_OIDC_AUDIENCE, KAHN_OIDC_CLIENT_ID and \
         KAHN_OIDC_CLIENT_SECRET_FILE for an identity provider, or KAHN_AUTH=keys-only for API keys alone"
    )]
    NoWayIn,
    /// A word that means nothing.
    #[error(
        "KAHN_AUTH is {0:?}; set KAHN_AUTH=keys-only for API keys alone, or leave it out with an identity provider"
    )]
    UnknownWayIn(String),
    /// Half a provider.
    #[error("the identity provider is configured in part; {missing} {are} missing, so set {it}, or leave all of KAHN_OIDC_* out with KAHN_AUTH=keys-only",
        missing = .0.join(" and "), are = if .0.len() == 1 { "is" } else { "are" }, it = if .0.len() == 1 { "it too" } else { "them too" })]
    InPart(Vec<&'static str>),
    /// Half of what browsers need to sign in, which would let none of them in and not say so.
    #[error("{given} is set and {missing} is not, so nobody could sign in with a browser; set both, or neither")]
    SignInInPart {
        /// The variable that is set.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// Both ways at once.
    #[error(
        "KAHN_AUTH=keys-only lets in API keys alone, and {0} names an identity provider; leave out the one that is not meant"
    )]
    Contradiction(&'static str),
    /// An address that is none, or one in the clear.
    #[error("{variable} is {value:?}, {fault}; {mend}")]
    Address {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What is wrong with it.
        fault: &'static str,
        /// How it is mended.
        mend: &'static str,
    },
    /// A word that is none of the two.
    #[error("--oidc-typ (KAHN_OIDC_TYP) is {0:?}; write it as --oidc-typ compat, or strict")]
    UnknownTyp(String),
    /// A life that is no number.
    #[error(
        "--oidc-longest-life (KAHN_OIDC_LONGEST_LIFE) is {0:?}, which is no whole number of seconds from 1; leave it out for a day"
    )]
    NoLife(String),
    /// A claim that cannot be named so.
    #[error(
        "--oidc-org-claim (KAHN_OIDC_ORG_CLAIM) is {0:?}, which other claims have a meaning for; leave it out for org_id"
    )]
    TakenClaim(String),
    /// A file that cannot be used.
    #[error("{variable} is {path}, {fault}; {mend}", path = .path.display())]
    File {
        /// The variable.
        variable: &'static str,
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
        /// How it is mended.
        mend: &'static str,
    },
    /// A variable that cannot be used, and whose value is nobody's business.
    #[error("{variable} is set to something {fault}; {mend}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        fault: String,
        /// How it is mended.
        mend: &'static str,
    },
    /// A secret that stands in two places.
    #[error("{0} and {1} are both set; leave out the one that is not meant")]
    TwoPlaces(&'static str, &'static str),
    /// An address of a proxy that is none.
    #[error("KAHN_TRUSTED_PROXIES holds {0:?}, which is no address or network; write it as in 10.0.0.0/8,fd00::/8")]
    NoNetwork(String),
    /// A number that is none.
    #[error("{flag} is {value:?}, which is no whole number from 1; leave it out for {default}")]
    NoCount {
        /// The option.
        flag: &'static str,
        /// What it says.
        value: String,
        /// What holds without it.
        default: u32,
    },
}

impl EntryOptions {
    /// API keys as the way in; the environment is not read.
    pub(super) fn keys_only() -> Self {
        Self { auth: Some("keys-only".to_owned()), ..Self::default() }
    }

    /// Who may come in, or every mistake.
    pub(super) fn check(&self) -> Result<Entry, Vec<EntryMistake>> {
        let mut mistakes = Vec::new();
        let mut keep = |mistake| mistakes.push(mistake);
        let provider = self.provider(&mut keep);
        let public_url = given(&self.public_url).and_then(|text| origin(text).map_err(&mut keep).ok()).map(Arc::from);
        let key_place = Place::of(SESSION_KEY, self.variable(SESSION_KEY.variable), self.session_key_file.as_deref());
        let key_variable = match &key_place {
            Ok(None) => None,
            Ok(Some(place)) => Some(place.variable()),
            Err(_) => Some(SESSION_KEY.file),
        };
        match (given(&self.public_url), key_variable) {
            _ if provider.is_none() => {}
            (Some(_), None) => keep(EntryMistake::SignInInPart { given: PUBLIC_URL, missing: SESSION_KEY.file }),
            (None, Some(given)) => keep(EntryMistake::SignInInPart { given, missing: PUBLIC_URL }),
            (Some(_), Some(_)) | (None, None) => {}
        }
        let session_key =
            key_place.and_then(|place| place.map(|place| session_key(&place)).transpose()).unwrap_or_else(|mistake| {
                keep(mistake);
                None
            });
        let listed = given(&self.trusted_proxies).unwrap_or_default().split(',').map(str::trim);
        let trusted_proxies = listed
            .filter(|text| !text.is_empty())
            .filter_map(|text| {
                let network = Network::parse(text);
                if network.is_none() {
                    keep(EntryMistake::NoNetwork(text.to_owned()));
                }
                network
            })
            .collect();
        let burst = ("--auth-failures-burst (KAHN_AUTH_FAILURES_BURST)", FAILURES.burst);
        let rate = ("--auth-failures-rate (KAHN_AUTH_FAILURES_RATE)", FAILURES.rate_per_s);
        let failures = Flow {
            burst: count(&self.auth_failures_burst, burst).unwrap_or_else(|mistake| {
                keep(mistake);
                FAILURES.burst
            }),
            rate_per_s: count(&self.auth_failures_rate, rate).unwrap_or_else(|mistake| {
                keep(mistake);
                FAILURES.rate_per_s
            }),
        };
        if mistakes.is_empty() {
            Ok(Entry { provider, public_url, session_key, trusted_proxies, failures })
        } else {
            Err(mistakes)
        }
    }

    /// A variable that is no option; where the way in was given, the environment is not read.
    fn variable(&self, name: &str) -> Option<String> {
        if self.auth.is_some() { None } else { config::env(name) }
    }

    fn provider(&self, keep: &mut impl FnMut(EntryMistake)) -> Option<ProviderSettings> {
        let value = self.variable(CLIENT_SECRET.variable);
        let secret = Place::of(CLIENT_SECRET, value, self.oidc_client_secret_file.as_deref());
        let secret_variable = match &secret {
            Ok(Some(place)) => place.variable(),
            _ => CLIENT_SECRET.file,
        };
        let named = [
            (ISSUER, given(&self.oidc_issuer).is_some()),
            (AUDIENCE, given(&self.oidc_audience).is_some()),
            (CLIENT_ID, given(&self.oidc_client_id).is_some()),
            (secret_variable, !matches!(secret, Ok(None))),
        ];
        let first_named = named.iter().find(|(_, is_named)| *is_named).map(|(variable, _)| *variable);
        match (self.auth.clone().or_else(|| config::env("KAHN_AUTH")).as_deref(), first_named) {
            (Some("keys-only"), None) => return None,
            (Some("keys-only"), Some(variable)) => {
                keep(EntryMistake::Contradiction(variable));
                return None;
            }
            (Some(other), _) => {
                keep(EntryMistake::UnknownWayIn(other.to_owned()));
                return None;
            }
            (None, None) => {
                keep(EntryMistake::NoWayIn);
                return None;
            }
            (None, Some(_)) => {}
        }
        let missing: Vec<_> = named.iter().filter(|(_, is_named)| !is_named).map(|(variable, _)| *variable).collect();
        if !missing.is_empty() {
            keep(EntryMistake::InPart(missing));
        }
        let issuer = given(&self.oidc_issuer).and_then(|text| issuer(text).map_err(&mut *keep).ok());
        let client_secret =
            secret.and_then(|place| place.map(|place| client_secret(&place)).transpose()).unwrap_or_else(|mistake| {
                keep(mistake);
                None
            });
        let typ = match given(&self.oidc_typ) {
            None | Some("compat") => Typ::Compat,
            Some("strict") => Typ::Strict,
            Some(other) => {
                keep(EntryMistake::UnknownTyp(other.to_owned()));
                Typ::Strict
            }
        };
        let longest_life_s = match given(&self.oidc_longest_life).map(|text| (text, text.parse::<u32>())) {
            None => DEFAULT_LONGEST_LIFE_S,
            Some((_, Ok(seconds))) if seconds > 0 => seconds,
            Some((text, _)) => {
                keep(EntryMistake::NoLife(text.to_owned()));
                DEFAULT_LONGEST_LIFE_S
            }
        };
        let org_claim = given(&self.oidc_org_claim).unwrap_or(DEFAULT_ORG_CLAIM);
        if ["iss", "aud", "exp", "nbf", "iat", "jti", "sub", "client_id", "scope", "scp", "cnf", "typ", "active"]
            .contains(&org_claim)
        {
            keep(EntryMistake::TakenClaim(org_claim.to_owned()));
        }
        Some(ProviderSettings {
            issuer: issuer?,
            audience: given(&self.oidc_audience)?.to_owned(),
            client_id: given(&self.oidc_client_id)?.to_owned(),
            client_secret: client_secret?,
            org_claim: org_claim.to_owned(),
            typ,
            longest_life_s: longest_life_s.into(),
        })
    }
}

/// A whole number from 1.
fn count(text: &Option<String>, (flag, default): (&'static str, u32)) -> Result<u32, EntryMistake> {
    let Some(text) = given(text) else { return Ok(default) };
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| EntryMistake::NoCount { flag, value: text.to_owned(), default })
}

/// A variable that is set to nothing is not set.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// The issuer, as it was written: it is compared byte for byte.
fn issuer(text: &str) -> Result<String, EntryMistake> {
    let refused = |fault| EntryMistake::Address {
        variable: ISSUER,
        value: text.to_owned(),
        fault,
        mend: "write it as the provider's discovery says it, as in https://id.example.org",
    };
    let url = Url::parse(text).map_err(|_| refused("which is no address"))?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(refused("which is more than an issuer's address"));
    }
    if !is_trustworthy(&url) {
        return Err(refused("whose answers anybody on the way could change (http is for this machine alone)"));
    }
    Ok(text.to_owned())
}

/// The origin that people see.
fn origin(text: &str) -> Result<String, EntryMistake> {
    let refused = |fault| EntryMistake::Address {
        variable: PUBLIC_URL,
        value: text.to_owned(),
        fault,
        mend: "write it as in https://kahn.example.org",
    };
    let url = Url::parse(text).map_err(|_| refused("which is no address"))?;
    if !is_trustworthy(&url) {
        return Err(refused("over which cookies could be read on the way (http is for this machine alone)"));
    }
    let origin = url.origin().ascii_serialization();
    if text.trim_end_matches('/') != origin {
        return Err(refused("which is more or other than scheme, host and port"));
    }
    Ok(origin)
}

/// https, or a connection that does not leave this machine.
pub(super) fn is_trustworthy(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => url.has_host(),
        "http" => is_loopback,
        _ => false,
    }
}

fn client_secret(place: &Place) -> Result<Secret, EntryMistake> {
    let mend = "put the client's secret in it, and nothing else";
    let bytes = place.read(mend)?;
    let secret = bytes.trim_ascii();
    if secret.is_empty() {
        return Err(place.refused("which is empty".to_owned(), mend));
    }
    if std::str::from_utf8(secret).is_err() || secret.iter().any(u8::is_ascii_control) {
        return Err(place.refused("which holds more than one line of text".to_owned(), mend));
    }
    Ok(Secret::new(secret))
}

fn session_key(place: &Place) -> Result<Secret, EntryMistake> {
    let mend = "make it with `head -c 48 /dev/urandom | base64`";
    let bytes = place.read(mend)?;
    let key = bytes.trim_ascii_end();
    if key.len() < SHORTEST_SESSION_KEY {
        let fault = format!("which holds {} bytes, and a key has {SHORTEST_SESSION_KEY} or more", key.len());
        return Err(place.refused(fault, mend));
    }
    Ok(Secret::new(key))
}
