//! The identity provider of the tests: a real one (tests/airlock), with a proxy in front that fails when it is told to.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::cluster::Database;
use crate::support::{Answer, PATIENCE, Server, request};

/// A provider that lives as long as this value's pipe to it: at the latest until this process is gone.
pub(super) struct Airlock {
    pub(super) issuer: String,
    control: String,
    client_id: String,
    pub(super) client_secret: String,
    secret_file: tempfile::NamedTempFile,
    pipe: Option<ChildStdin>,
    child: Child,
}

/// The provider that tests share which only ask it for tokens.
pub(super) fn shared() -> &'static Airlock {
    static AIRLOCK: OnceLock<Airlock> = OnceLock::new();
    AIRLOCK.get_or_init(Airlock::start)
}

impl Airlock {
    /// A provider of one's own: to rotate its keys, or to have it fail.
    pub(super) fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/airlock/airlock");
        let mut child = Command::new(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/airlock/airlock starts");
        let pipe = child.stdin.take();
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("a line of JSON");
        let said: Value = serde_json::from_str(&line).expect("the provider is ready");
        let text = |name: &str| said[name].as_str().unwrap_or_else(|| panic!("{name} in {said}")).to_owned();
        let secret_file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(secret_file.path(), text("client_secret")).expect("the client's secret");
        Self {
            issuer: text("issuer"),
            control: text("control"),
            client_id: text("client_id"),
            client_secret: text("client_secret"),
            secret_file,
            pipe,
            child,
        }
    }

    /// What a server is told of this provider.
    pub(super) fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("KAHN_OIDC_ISSUER", self.issuer.clone()),
            ("KAHN_OIDC_AUDIENCE", "kahn".to_owned()),
            ("KAHN_OIDC_CLIENT_ID", self.client_id.clone()),
            ("KAHN_OIDC_CLIENT_SECRET_FILE", self.secret_file.path().display().to_string()),
        ]
    }

    /// A server that trusts this provider.
    pub(super) fn serve(&self, database: &Database) -> Server {
        self.serve_with(database, &[], &[])
    }

    /// The same with further arguments and variables.
    pub(super) fn serve_with(&self, database: &Database, args: &[&str], env: &[(&str, &str)]) -> Server {
        let dsn = database.app_dsn();
        let own = self.env();
        let mut all: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
        all.push(("KAHN_DATABASE_URL", &dsn));
        all.extend(env);
        Server::start(&[&["serve", "--bind", "127.0.0.1:0"], args].concat(), &all)
    }

    /// Asks the control address.
    fn ask(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let answer = request(&self.control, ("POST", path), &[], Some(body.as_bytes()));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// What the control address shows.
    pub(super) fn look(&self, path: &str) -> Value {
        let answer = request(&self.control, ("GET", path), &[], None);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// Adds a client, or changes one: `client_id`, `org_id`, `token_format` (jwt, opaque), `token_alg` (EdDSA, ES256,
    /// RS256), `token_ttl`, `redirect_uris`, `post_logout_redirect_uris`.
    pub(super) fn client(&self, said: &Value) {
        self.ask("/control/client", said);
    }

    /// A token of a client, by client_credentials.
    pub(super) fn token(&self, client: &str, scopes: &str) -> String {
        let form = format!("grant_type=client_credentials&scope={}", scopes.replace(':', "%3A").replace(' ', "+"));
        let answer = self.as_client(client, "/token", &form);
        assert_eq!(answer.status, 200, "{client}: {}", answer.text());
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    /// The client takes its token back.
    pub(super) fn revoke(&self, client: &str, token: &str) {
        let answer = self.as_client(client, "/token/revocation", &format!("token={token}"));
        assert_eq!(answer.status, 200, "{client}: {}", answer.text());
    }

    fn as_client(&self, client: &str, path: &str, form: &str) -> Answer {
        let clients = self.look("/control/clients");
        let found = clients.as_array().expect("a list").iter().find(|known| known["client_id"] == client);
        let secret = found.and_then(|known| known["client_secret"].as_str()).expect("a known client");
        let basic = base64_of(&format!("{}:{secret}", client.replace(':', "%3A")));
        let basic = format!("Basic {basic}");
        let headers = [("authorization", basic.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        request(&self.issuer, ("POST", path), &headers, Some(form.as_bytes()))
    }

    /// A token signed by a current key (`alg` or `kid`), with `header` and `claims` laid over those of a good one (null
    /// takes a member away), or with a `header_text` or `payload_text` as it is.
    pub(super) fn mint(&self, said: &Value) -> String {
        self.ask("/control/mint", said)["token"].as_str().expect("a token").to_owned()
    }

    /// Signs with new keys from now on; the old ones stay published.
    pub(super) fn rotate(&self) {
        self.ask("/control/rotate", &json!({}));
    }

    /// Takes a key back.
    pub(super) fn withdraw(&self, kid: &str) {
        self.ask("/control/withdraw", &json!({ "kid": kid }));
    }

    /// What happens at a `path` (discovery, jwks, token, introspection, or all): `mode` is pass, down, slow, late
    /// (`ms`), drip, answer (`status`, `headers`, `body`, `fill` blanks) or patch (`patch` laid over the true answer).
    pub(super) fn fault(&self, said: &Value) {
        self.ask("/control/fault", said);
    }

    /// How often this path was asked for.
    pub(super) fn count(&self, path: &str) -> u64 {
        self.look("/control/counts")[path].as_u64().unwrap_or(0)
    }
}

impl Drop for Airlock {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let ended = std::time::Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && std::time::Instant::now() < ended {
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Standard base64, as Basic wants it.
fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// The kid of a token.
pub(super) fn kid_of(token: &str) -> String {
    use base64::Engine as _;
    let header = token.split('.').next().unwrap_or_default();
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).expect("base64url");
    let header: Value = serde_json::from_slice(&header).expect("JSON");
    header["kid"].as_str().expect("a kid").to_owned()
}

#[test]
fn the_provider_is_a_real_one_and_fails_when_it_is_told_to() {
    let airlock = Airlock::start();
    let discovery = request(&airlock.issuer, ("GET", "/.well-known/openid-configuration"), &[], None).json();
    assert_eq!(discovery["issuer"], airlock.issuer.as_str());
    let keys = || request(&airlock.issuer, ("GET", "/jwks"), &[], None).json()["keys"].as_array().map_or(0, Vec::len);
    assert_eq!(keys(), 3);
    for (client, dots) in [("service:kahn-harness", 2), ("service:acme-es256", 2), ("service:acme-opaque", 0)] {
        let token = airlock.token(client, "kahn:read kahn:ingest");
        assert_eq!(token.matches('.').count(), dots, "{client}");
    }
    let before = kid_of(&airlock.token("service:acme-rs256", "kahn:read"));
    airlock.rotate();
    assert_eq!(keys(), 6);
    assert_ne!(kid_of(&airlock.token("service:acme-rs256", "kahn:read")), before);
    airlock.withdraw(&before);
    assert_eq!(keys(), 5);
    airlock.fault(&json!({ "path": "jwks", "mode": "answer", "body": "{\"keys\":[]}" }));
    assert_eq!(keys(), 0);
    airlock.fault(&json!({ "path": "jwks", "mode": "pass" }));
    assert_eq!(keys(), 5);
    assert_eq!(airlock.count("/jwks"), 5);
    airlock.fault(&json!({ "mode": "down" }));
    let address = airlock.issuer.strip_prefix("http://").expect("an http address");
    assert!(std::net::TcpStream::connect(address).is_err());
    airlock.fault(&json!({ "mode": "pass" }));
    assert_eq!(keys(), 5);
}
