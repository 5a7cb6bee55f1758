//! Starting the binary, asking it, waiting for what must come.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use kahn::contract::{Filter, ListPosition, ListQuery, Order, Sort};
use kahn::domain::Timestamp;

/// How long a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What reads /metrics, where a build wants a token for that.
pub(crate) const METRICS_TOKEN: &str = "scrape-0123456789abcdef0123456789abcdef";

/// The binary under test, with an environment that holds nothing of kahn's but what the test gives.
pub(crate) fn kahn(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kahn"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KAHN_") || name == "PORT" {
            command.env_remove(name);
        }
    }
    command.args(args).envs(env.iter().copied()).stdin(Stdio::null());
    command
}

/// Runs the binary to its end; one that does not end in time is killed and fails the test.
pub(crate) fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    let child = kahn(args, env).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let pid = child.id();
    let (ended, output) = mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait_with_output()));
    match output.recv_timeout(PATIENCE) {
        Ok(output) => output.expect("its output"),
        Err(_) => {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            panic!("kahn {args:?} did not end within {PATIENCE:?}");
        }
    }
}

/// A server that runs until it is dropped.
pub(crate) struct Server {
    child: Child,
    args: Vec<String>,
    env: Vec<(String, String)>,
    log: Arc<Mutex<String>>,
    /// `http://127.0.0.1:PORT`
    pub(crate) url: String,
}

impl Server {
    /// Starts the binary and waits until it says where it listens.
    pub(crate) fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::of(kahn(args, env), args, env)
    }

    /// The same by a command that ends up as the binary with these arguments.
    pub(crate) fn of(mut command: Command, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let (lines, heard) = mpsc::channel();
        let log = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&log);
        // Reads to the end, so that the server never waits for a reader.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                *kept.lock().expect("the log") += &format!("{line}\n");
                let _ = lines.send(line);
            }
        });
        let mut said = Vec::new();
        loop {
            match heard.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some((_, address)) = line.split_once("listens on ") {
                        return Self {
                            child,
                            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
                            log,
                            url: address.trim().to_owned(),
                        };
                    }
                    said.push(line);
                }
                Err(_) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!("the server did not start; it said: {said:#?}");
                }
            }
        }
    }

    /// Starts the same command again, at another port.
    pub(crate) fn again(&self) -> Self {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let env: Vec<(&str, &str)> = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Self::start(&args, &env)
    }

    /// Asks it to stop, as a service manager would; the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
        assert!(sent.success());
        wait_for("the server to end", || self.child.try_wait().expect("a child")).code()
    }

    /// The most memory that it has had, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
        peak.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("its descriptors").count()
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), self.log().as_bytes());
        }
        self.kill();
    }
}

/// A server with credentials for what tests do, whichever build it is.
pub(crate) struct Kitchen {
    pub(crate) server: Server,
    read_key: Option<String>,
    ingest_key: Option<String>,
    _kept: Box<dyn Any + Send + Sync>,
}

impl Kitchen {
    /// A server, its keys, and what must live as long as it does.
    pub(crate) fn new(
        server: Server,
        read_key: Option<String>,
        ingest_key: Option<String>,
        kept: impl Any + Send + Sync,
    ) -> Self {
        Self { server, read_key, ingest_key, _kept: Box::new(kept) }
    }

    /// Asks the server to stop; its exit code.
    pub(crate) fn terminate(self) -> Option<i32> {
        self.server.terminate()
    }

    /// Starts the server again over the same store.
    pub(crate) fn restart(&mut self) {
        self.server = self.server.again();
    }

    /// What a producer sends besides the events.
    pub(crate) fn producer_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![("content-type", "application/x-ndjson".to_owned())];
        headers.extend(self.ingest_key.as_ref().map(|key| ("authorization", format!("Bearer {key}"))));
        headers
    }

    /// The Authorization header of a reader, if this build wants one.
    pub(crate) fn reader(&self) -> Option<String> {
        self.read_key.as_ref().map(|key| format!("Bearer {key}"))
    }

    /// The Authorization header that a path wants, if this build wants one.
    pub(crate) fn bearer(&self, path: &str) -> Option<String> {
        if path.starts_with("/metrics") {
            return self.read_key.as_ref().map(|_| format!("Bearer {METRICS_TOKEN}"));
        }
        let key = if path.starts_with("/v1/ingest") { &self.ingest_key } else { &self.read_key };
        key.as_ref().map(|key| format!("Bearer {key}"))
    }

    /// GET as a reader (or, under /v1/ingest, as a producer).
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None)
    }

    /// POST of events as a producer.
    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.send("POST", path, &[("content-type", "application/x-ndjson")], Some(body))
    }

    /// PUT of a graph as a producer.
    pub(crate) fn put(&self, path: &str, body: &[u8]) -> Answer {
        self.send("PUT", path, &[("content-type", "application/json")], Some(body))
    }

    /// Any request; the request id is fixed, so that answers can be compared.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Answer {
        let mut headers = headers.to_vec();
        let bearer = self.bearer(path);
        if let Some(bearer) = &bearer
            && !headers.iter().any(|(name, _)| *name == "authorization")
        {
            headers.push(("authorization", bearer));
        }
        if !headers.iter().any(|(name, _)| *name == "x-request-id") {
            headers.push(("x-request-id", "golden"));
        }
        request(&self.server.url, (method, path), &headers, body)
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Status and code of a problem.
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        (self.status, self.json()["code"].as_str().unwrap_or_default().to_owned())
    }
}

/// One request over a connection of its own.
pub(crate) fn request(
    url: &str,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Answer {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .accept_encoding("")
        .build()
        .into();
    let mut builder = ureq::http::Request::builder().method(method).uri(format!("{url}{path}"));
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let sent = match body {
        Some(body) => agent.run(builder.body(body).expect("a request")),
        None => agent.run(builder.body(()).expect("a request")),
    };
    let mut response = sent.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap_or("").to_owned()))
        .collect();
    let body = response.body_mut().with_config().limit(u64::MAX).read_to_vec().expect("a body");
    Answer { status: response.status().as_u16(), headers, body }
}

/// Asks again and again until there is an answer; a test waits for conditions, not for time.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// The question for every run, in one page.
pub(crate) fn everything() -> ListQuery {
    let filter = Filter {
        now: Timestamp::parse("2026-04-24T12:00:00.000Z").expect("a ts"),
        stall_after_ms: 900_000,
        without_agents: false,
        kind: None,
        phase: None,
        outcome: None,
        agent_id: None,
        node_id: None,
        parent: None,
        q: None,
        last_event_from: None,
        since: None,
        until: None,
        started_by: None,
    };
    ListQuery { filter, sort: Sort::Started, order: Order::Desc, position: ListPosition::Offset(0), limit: 500 }
}
