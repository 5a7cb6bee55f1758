//! The identity provider of the tests, as a process beside the bench.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A provider; it is gone when this is dropped, or when the bench is.
pub(crate) struct Airlock {
    said: Value,
    secret: tempfile::NamedTempFile,
    pipe: Option<ChildStdin>,
    child: Child,
}

impl Airlock {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/airlock/airlock"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/airlock/airlock starts");
        let pipe = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).expect("the provider is ready");
        let secret = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(secret.path(), text(&said, "client_secret")).expect("the client's secret");
        Self { said, secret, pipe, child }
    }

    /// What a server is told of it.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("KAHN_OIDC_ISSUER", text(&self.said, "issuer").to_owned()),
            ("KAHN_OIDC_AUDIENCE", text(&self.said, "audience").to_owned()),
            ("KAHN_OIDC_CLIENT_ID", text(&self.said, "client_id").to_owned()),
            ("KAHN_OIDC_CLIENT_SECRET_FILE", self.secret.path().display().to_string()),
        ]
    }

    /// A token that reads, by client_credentials.
    pub(crate) fn token(&self, client: &str) -> String {
        let known: Value = ureq::get(self.control("clients")).call().map(body).expect("the clients");
        let client = known.as_array().expect("a list").iter().find(|known| known["client_id"] == client);
        let client = client.expect("a client of this name");
        let id = text(client, "client_id").replace(':', "%3A");
        let basic = STANDARD.encode(format!("{id}:{}", text(client, "client_secret")));
        let answer = ureq::post(format!("{}/token", text(&self.said, "issuer")))
            .header("Authorization", format!("Basic {basic}"))
            .send_form([("grant_type", "client_credentials"), ("scope", "kahn:read")]);
        text(&answer.map(body).expect("a token"), "access_token").to_owned()
    }

    /// A token that is signed as a good one is, with these claims laid over.
    pub(crate) fn mint(&self, alg: &str, claims: &Value) -> String {
        let said = json!({ "alg": alg, "claims": claims }).to_string();
        let answer = ureq::post(self.control("mint")).header("Content-Type", "application/json").send(said);
        text(&answer.map(body).expect("a token"), "token").to_owned()
    }

    fn control(&self, what: &str) -> String {
        format!("{}/control/{what}", text(&self.said, "control"))
    }
}

impl Drop for Airlock {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.wait();
    }
}

fn text<'a>(said: &'a Value, name: &str) -> &'a str {
    said[name].as_str().expect("a text")
}

fn body(mut answer: ureq::http::Response<ureq::Body>) -> Value {
    serde_json::from_str(&answer.body_mut().read_to_string().expect("a body")).expect("JSON")
}
