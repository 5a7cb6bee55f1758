//! The door of local mode: it lets the one operator of this machine in and keeps other sites' pages out.
//!
//! A page that the operator visits may send requests to this server, by its address or by a name that its owner lets point
//! here (DNS rebinding). Both are told by what a browser cannot forge: Host, Origin and Sec-Fetch-Site.

use std::sync::LazyLock;

use async_trait::async_trait;

use crate::contract::{Access, Principal, PrincipalKind, Refusal, RequestFacts, Scope};

/// The one operator of this machine.
pub(super) static LOCALHOST_PRINCIPAL: LazyLock<Principal> = LazyLock::new(|| Principal {
    kind: PrincipalKind::Localhost,
    user: "localhost".into(),
    tenant: None,
    scopes: vec![Scope::Read, Scope::Ingest, Scope::Admin],
});

const LOOPBACK_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Judges by Host and Origin; asks for no credentials.
pub(super) struct LocalAccess {
    allowed_hosts: Vec<String>,
}

impl LocalAccess {
    /// A door that also answers for these names. An empty one comes from an empty variable and names nothing.
    pub(super) fn new(allowed_hosts: &[String]) -> Self {
        Self { allowed_hosts: allowed_hosts.iter().filter(|name| !name.is_empty()).cloned().collect() }
    }

    fn is_own(&self, host: &str) -> bool {
        let Some(name) = name_of(host) else { return false };
        LOOPBACK_NAMES
            .into_iter()
            .chain(self.allowed_hosts.iter().map(String::as_str))
            .any(|own| name.eq_ignore_ascii_case(own))
    }
}

#[async_trait]
impl Access for LocalAccess {
    fn screen(&self, request: &RequestFacts) -> Result<(), Refusal> {
        let [host] = request.hosts.as_slice() else { return Err(Refusal::BadHost) };
        let same_target = request.target_authority.as_ref().is_none_or(|target| target.eq_ignore_ascii_case(host));
        if host.is_empty() || !same_target {
            return Err(Refusal::BadHost);
        }
        if !self.is_own(host) {
            return Err(Refusal::ForeignHost);
        }
        match request.origins.as_slice() {
            [] => {}
            [origin] if is_own_origin(origin, host) => {}
            _ => return Err(Refusal::ForeignOrigin),
        }
        // A browser's word on who sent it; programs send none.
        let is_from_here = request.fetch_site.as_deref().is_none_or(|site| matches!(site, "same-origin" | "none"));
        if is_from_here || (request.method == "GET" && !request.is_websocket) {
            Ok(())
        } else {
            Err(Refusal::ForeignOrigin)
        }
    }

    async fn authenticate(&self, _request: &RequestFacts) -> Result<Principal, Refusal> {
        Ok(LOCALHOST_PRINCIPAL.clone())
    }

    /// Whoever came through the door is the operator.
    fn may_scrape(&self, _request: &RequestFacts) -> bool {
        true
    }
}

/// The name in front of the port; `None` when what stands behind it is no port.
fn name_of(host: &str) -> Option<&str> {
    let end = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, port) = host.split_at(end);
    let is_port = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok();
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(name)
}

/// Whether the page came from this very server: the same scheme (it speaks plain HTTP), name and port.
fn is_own_origin(origin: &str, host: &str) -> bool {
    // A browser leaves the scheme's own port out of both.
    let bare = |authority: &str| authority.strip_suffix(":80").unwrap_or(authority).to_ascii_lowercase();
    origin.strip_prefix("http://").is_some_and(|authority| bare(authority) == bare(host))
}

/// What is wrong with a name for `--allowed-host`.
pub(super) fn mistake_in_host(name: &str) -> Option<String> {
    let is_name =
        name.len() <= 253 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    let is_ipv6 = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    (!is_name && !is_ipv6).then(|| {
        format!("--allowed-host (KAHN_ALLOWED_HOST) is {name:?}, which is no host name; write it without scheme and port, as --allowed-host kahn.local")
    })
}
