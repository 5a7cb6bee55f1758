//! Signing in with a browser, step by step over HTTP, at a real provider. What a real browser makes of it: tests/signin.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::json;

use super::airlock::{Airlock, shared};
use super::cluster::Database;
use super::tenant;
use crate::support::{Answer, PATIENCE, Server, request};

/// What people type in; the server under test is elsewhere, as behind a platform's TLS.
pub(super) const PUBLIC: &str = "https://kahn.example";
pub(super) const SESSION: &str = "__Host-kahn_session";
pub(super) const SIGN_IN: &str = "__Host-kahn_sign_in";

/// What seals the sessions of these tests.
pub(super) fn key_file() -> &'static str {
    static FILE: OnceLock<tempfile::NamedTempFile> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "a key of tests, as long as it has to be").expect("a key");
        file
    });
    file.path().to_str().expect("a path")
}

/// A server where people can sign in at this provider.
pub(super) fn serve(airlock: &Airlock, database: &Database) -> Server {
    serve_with(airlock, database, &[])
}

/// The same with further arguments.
pub(super) fn serve_with(airlock: &Airlock, database: &Database, args: &[&str]) -> Server {
    let back = [format!("{PUBLIC}/auth/callback")];
    let home = [format!("{PUBLIC}/")];
    airlock.client(&json!({"client_id": "kahn", "redirect_uris": back, "post_logout_redirect_uris": home}));
    airlock.serve_with(database, args, &[("KAHN_PUBLIC_URL", PUBLIC), ("KAHN_SESSION_KEY_FILE", key_file())])
}

/// A server over two tenants with a run each, and the database behind it.
pub(super) fn two_tenants() -> (Server, Database) {
    let database = Database::fresh();
    let keys = ["acme", "globex"].map(|name| tenant(&database, name).0);
    let server = serve(shared(), &database);
    for (name, key) in ["acme", "globex"].into_iter().zip(keys) {
        let line = format!(
            "{{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\"of-{name}\",\"event\":\"run_start\",\"total_nodes\":1}}\n"
        );
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-ndjson")];
        let done = request(&server.url, ("POST", "/v1/ingest/transitions"), &headers, Some(line.as_bytes()));
        assert_eq!(done.status, 200, "{}", done.text());
    }
    (server, database)
}

/// One answer, with each of its Set-Cookie fields.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) location: String,
    pub(super) cookies: Vec<String>,
    pub(super) body: String,
}

/// A request that follows nothing and remembers nothing.
pub(super) fn ask(method: &str, address: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let mut builder = ureq::http::Request::builder().method(method).uri(address);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let sent = match method {
        "GET" => agent.run(builder.body(()).expect("a request")),
        _ => agent.run(builder.body(body.to_owned()).expect("a request")),
    };
    let mut answer = sent.unwrap_or_else(|error| panic!("{method} {address}: {error}"));
    let all = |name: &str| -> Vec<String> {
        answer.headers().get_all(name).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
    };
    let (cookies, location) = (all("set-cookie"), all("location").pop().unwrap_or_default());
    let status = answer.status().as_u16();
    Reply { status, location, cookies, body: answer.body_mut().read_to_string().expect("text") }
}

/// What a browser remembers of one site.
#[derive(Clone, Default)]
pub(super) struct Jar(pub(super) BTreeMap<String, String>);

impl Jar {
    pub(super) fn take(&mut self, reply: &Reply) {
        for field in &reply.cookies {
            let (name, rest) = field.split_once('=').expect("a cookie");
            let value = rest.split(';').next().unwrap_or_default();
            if value.is_empty() || field.to_ascii_lowercase().contains("max-age=0") {
                self.0.remove(name);
            } else {
                self.0.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    pub(super) fn field(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }
}

/// A person with a browser, at a server.
pub(super) struct Person<'a> {
    pub(super) server: &'a Server,
    pub(super) here: Jar,
    there: Jar,
}

impl<'a> Person<'a> {
    pub(super) fn at(server: &'a Server) -> Self {
        Self { server, here: Jar::default(), there: Jar::default() }
    }

    /// Signed in as this account.
    pub(super) fn signed_in(server: &'a Server, account: &str) -> Self {
        let mut person = Self::at(server);
        let provider = person.leaves("/auth/login");
        let back = person.agrees(&provider, account);
        let reply = person.returns(&back);
        assert_eq!((reply.status, reply.location.as_str()), (303, "/"), "{}", reply.body);
        person
    }

    /// Follows the link to sign in; where the provider wants to be asked.
    pub(super) fn leaves(&mut self, path: &str) -> String {
        let reply = self.goes(path);
        assert_eq!(reply.status, 303, "{}", reply.body);
        reply.location
    }

    /// Says at the provider who it is; the address that the provider sends it back to.
    pub(super) fn agrees(&mut self, provider: &str, account: &str) -> String {
        self.answers(provider, &format!("do=in&account={}", account.replace('@', "%40")))
    }

    /// The same with whatever the form there says.
    pub(super) fn answers(&mut self, provider: &str, form: &str) -> String {
        let scheme_end = provider.find("://").expect("an address") + 3;
        let host_end = provider[scheme_end..].find('/').expect("a path") + scheme_end;
        let origin = provider[..host_end].to_owned();
        let mut address = provider.to_owned();
        for _ in 0..10 {
            let is_form = address.contains("/interaction/");
            let cookie = self.there.field();
            let headers = [("cookie", cookie.as_str()), ("content-type", "application/x-www-form-urlencoded")];
            let reply = ask(if is_form { "POST" } else { "GET" }, &address, &headers, form);
            self.there.take(&reply);
            assert_eq!(reply.status, 303, "{address}: {}", reply.body);
            address =
                if reply.location.starts_with('/') { format!("{origin}{}", reply.location) } else { reply.location };
            if !address.starts_with(&origin) {
                return address;
            }
        }
        panic!("the provider sends nobody back");
    }

    /// Comes back from the provider.
    pub(super) fn returns(&mut self, back: &str) -> Reply {
        self.goes(back.strip_prefix(PUBLIC).expect("the provider sends people back to this server"))
    }

    /// Opens a page of this server.
    pub(super) fn goes(&mut self, path: &str) -> Reply {
        let cookie = self.here.field();
        let reply = ask("GET", &format!("{}{path}", self.server.url), &[("cookie", &cookie)], "");
        self.here.take(&reply);
        reply
    }

    /// What a page's script asks, with further fields.
    pub(super) fn asks(&self, (method, path): (&str, &str), further: &[(&str, &str)]) -> Answer {
        let cookie = self.here.field();
        let own = [("cookie", cookie.as_str()), ("x-request-id", "same")];
        request(&self.server.url, (method, path), &[&own, further].concat(), (method == "POST").then_some(b""))
    }

    pub(super) fn signs_out(&mut self) -> Reply {
        let cookie = self.here.field();
        let headers = [("cookie", cookie.as_str()), ("origin", PUBLIC), ("sec-fetch-site", "same-origin")];
        let reply = ask("POST", &format!("{}/auth/logout", self.server.url), &headers, "");
        self.here.take(&reply);
        reply
    }
}

#[test]
fn a_person_signs_in_and_sees_their_tenants_runs_and_no_others() {
    let (server, _database) = two_tenants();
    let mut person = Person::at(&server);
    let config = person.asks(("GET", "/api/config"), &[]);
    assert_eq!(config.json()["sign_in"], true);
    assert_eq!(person.asks(("GET", "/api/me"), &[]).problem(), (401, "no_credentials".to_owned()));

    let begun = person.goes("/auth/login?return_to=%2Fruns%2Fof-acme%3Fa%3Db");
    assert_eq!(begun.status, 303);
    let asked: BTreeMap<_, _> =
        form_urlencoded::parse(begun.location.split_once('?').expect("a query").1.as_bytes()).into_owned().collect();
    assert_eq!(asked["response_type"], "code");
    assert_eq!(asked["redirect_uri"], format!("{PUBLIC}/auth/callback"));
    assert_eq!((asked["code_challenge_method"].as_str(), asked["code_challenge"].len()), ("S256", 43));
    assert!(asked["state"].len() >= 22 && asked["nonce"].len() >= 22 && asked["state"] != asked["nonce"]);
    let [cookie] = begun.cookies.as_slice() else { panic!("{:?}", begun.cookies) };
    assert!(cookie.starts_with(&format!("{SIGN_IN}=")), "{cookie}");
    for part in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Max-Age=600"] {
        assert!(cookie.split("; ").any(|given| given == part), "{part} is missing");
    }
    assert!(!cookie.contains("Domain") && !cookie.contains(&asked["state"]) && !cookie.contains(&asked["nonce"]));

    let back = person.agrees(&begun.location, "ada@acme");
    let done = person.returns(&back);
    assert_eq!((done.status, done.location.as_str()), (303, "/runs/of-acme?a=b"), "{}", done.body);
    let [session, used] = done.cookies.as_slice() else { panic!("{} cookies", done.cookies.len()) };
    for part in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Max-Age=43200"] {
        assert!(session.split("; ").any(|given| given == part), "{part} is missing");
    }
    assert!(session.starts_with(&format!("{SESSION}=")) && session.len() < 4096 && !session.contains("ada"));
    assert!(used.starts_with(&format!("{SIGN_IN}=;")) && used.contains("Max-Age=0"));

    let me = person.asks(("GET", "/api/me"), &[]);
    let expected = json!({"kind": "user", "user": "ada@acme", "tenant": "acme", "scopes": ["read", "ingest", "admin"]});
    assert_eq!(me.json(), expected);
    let runs = person.asks(("GET", "/api/runs"), &[]).json();
    let listed: Vec<_> = runs["items"].as_array().expect("a list").iter().map(|run| run["run_id"].clone()).collect();
    assert_eq!(listed, ["of-acme"]);
    assert_eq!(person.asks(("GET", "/api/runs/of-acme"), &[]).status, 200);
    let foreign = person.asks(("GET", "/api/runs/of-globex"), &[]);
    let missing = person.asks(("GET", "/api/runs/of-nobody"), &[]);
    assert_eq!((foreign.status, foreign.body), (404, missing.body), "nothing tells another tenant's run from none");

    let other = Person::signed_in(&server, "bob@globex");
    assert_eq!(other.asks(("GET", "/api/runs/of-globex"), &[]).status, 200);
    assert_eq!(other.asks(("GET", "/api/runs/of-acme"), &[]).status, 404);
}

#[test]
fn a_page_holds_answers_for_whoever_is_signed_in_and_for_nobody_else() {
    let (server, _database) = two_tenants();
    let mut person = Person::signed_in(&server, "ada@acme");
    let page = person.asks(("GET", "/runs/of-acme"), &[]);
    assert!(page.text().contains("id=\"boot\"") && page.text().contains("of-acme"));
    // Or the back button would show it to whoever comes next.
    assert_eq!(page.header("cache-control"), "no-store");
    for page in [person.asks(("GET", "/runs/of-globex"), &[]), Person::at(&server).asks(("GET", "/runs/of-acme"), &[])]
    {
        assert_eq!(page.status, 200);
        assert!(!page.text().contains("id=\"boot\""), "a page with answers");
    }
    // A link from elsewhere opens the page, which asks by itself then.
    let linked = person.asks(("GET", "/runs/of-acme"), &[("sec-fetch-site", "cross-site")]);
    assert!(linked.status == 200 && !linked.text().contains("id=\"boot\""));
    person.signs_out();
    assert!(!person.asks(("GET", "/runs/of-acme"), &[]).text().contains("id=\"boot\""));
}

#[test]
fn what_a_person_may_do_is_what_the_provider_granted() {
    let (server, _database) = two_tenants();
    let reader = Person::signed_in(&server, "reader@acme");
    assert_eq!(reader.asks(("GET", "/api/me"), &[]).json()["scopes"], json!(["read"]));
    assert_eq!(reader.asks(("GET", "/api/billing"), &[]).problem(), (403, "insufficient_scope".to_owned()));
    let admin = Person::signed_in(&server, "ada@acme");
    assert_eq!(admin.asks(("GET", "/api/billing"), &[]).status, 200);
    // No tenant: it is known who it is, and that there is nothing for them.
    for account in ["nobody", "eve@unheard"] {
        let nobody = Person::signed_in(&server, account);
        assert_eq!(nobody.asks(("GET", "/api/me"), &[]).problem(), (403, "insufficient_scope".to_owned()), "{account}");
        assert_eq!(nobody.asks(("GET", "/api/runs/of-acme"), &[]).status, 403, "{account}");
    }
}

#[test]
fn signing_out_ends_the_session_wherever_its_cookie_still_is() {
    let (server, database) = two_tenants();
    let mut person = Person::signed_in(&server, "ada@acme");
    let other = Person::signed_in(&server, "ada@acme");
    let kept = person.here.clone();
    for (what, headers) in [
        ("another site's form", vec![("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")]),
        ("a sandboxed page", vec![("origin", "null")]),
        ("a neighbour", vec![("origin", "https://evil.kahn.example"), ("sec-fetch-site", "same-site")]),
        ("whoever says nothing", vec![]),
    ] {
        let refused = person.asks(("POST", "/auth/logout"), &headers);
        assert_eq!(refused.problem(), (403, "foreign_origin".to_owned()), "{what}");
        assert_eq!(person.asks(("GET", "/api/me"), &[]).status, 200, "{what} signs nobody out");
    }
    let done = person.signs_out();
    assert_eq!(done.status, 200);
    assert!(person.here.0.is_empty(), "the browser forgets");
    let said: serde_json::Value = serde_json::from_str(&done.body).expect("JSON");
    let onwards = said["continue_at"].as_str().expect("an address");
    assert!(onwards.starts_with(&shared().issuer) && onwards.contains("client_id=kahn"), "{onwards}");
    assert!(onwards.contains("post_logout_redirect_uri=https%3A%2F%2Fkahn.example%2F"), "{onwards}");
    person.here = kept;
    assert_eq!(person.asks(("GET", "/api/me"), &[]).problem(), (401, "no_credentials".to_owned()));
    assert_eq!(other.asks(("GET", "/api/me"), &[]).status, 200, "another browser's session goes on");
    // Whoever is out already is out.
    assert_eq!(person.signs_out().status, 200);
    let told =
        database.admin("SELECT action, actor FROM activity WHERE action LIKE 'signed%' ORDER BY at, activity_id");
    let told: Vec<_> = told.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    let ada = "user:ada@acme";
    assert_eq!(told, [("signed_in", ada), ("signed_in", ada), ("signed_out", ada)]);
}
