//! Answers that are held: whatever was appended and however late it is, they are byte for byte those that would be made anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use actix_http::Request;
use actix_web::Error;
use actix_web::body::BoxBody;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use bytes::Bytes;
use kahn::backend::{MODE, Options, select_backend};
use kahn::config::{Config, Typed};
use kahn::contract::{About, Part, Principal, RequestFacts};
use kahn::domain::{RunId, Timestamp};
use kahn::http;
use kahn::memory::{Key, Memory};
use kahn::services::{Clock, Services};

const START: &str = "2026-04-24T10:00:00.000Z";
const STALL_MS: i64 = 900_000;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Questions whose answers depend on now in every way that there is, and some that do not.
const TARGETS: &[&str] = &[
    "/api/runs",
    "/api/runs?limit=1",
    "/api/runs?limit=2&order=asc",
    "/api/runs?window=24h&limit=1",
    "/api/runs?window=7d",
    "/api/runs?phase=live",
    "/api/runs?phase=stalled&limit=1",
    "/api/runs?phase=ended&window=24h",
    "/api/runs?kind=agent&sort=duration",
    "/api/runs?limit=1&as_of=2026-04-24T10:10:00.000Z",
    "/api/runs/main",
    "/api/runs/main?at_seq=0",
    "/api/runs/other",
    "/api/runs/child",
    "/api/runs/main?as_of=2026-04-30T00:00:00.000Z",
    "/api/agent-runs/aggregate",
    "/api/agent-runs/aggregate?window=24h",
    "/api/agent-runs/aggregate?window=7d&sort=busiest",
    "/api/audit-checkpoints/flakiness?window=24h",
    "/api/nodes/flakiness?window=7d",
    "/api/nodes/flakiness?window=all",
];

/// A clock that goes where the test says.
struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

struct Bench {
    services: Services,
    hands: Arc<Hands>,
    start_ms: i64,
    who: Principal,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = Options::of_archive(folder.path().join("archive"));
        let config = Config::check(&Typed::default(), &Options::defaults(), &mut Vec::new());
        let backend = select_backend(&options, &config).await.expect("an archive");
        let start_ms = Timestamp::parse(START).expect("a ts").millis();
        let hands = Arc::new(Hands(AtomicI64::new(start_ms)));
        let clock: Arc<dyn Clock> = Arc::<Hands>::clone(&hands);
        let services = Services::start(backend, clock, MODE, &config);
        let who = services.access.authenticate(&RequestFacts::default()).await.expect("the operator");
        Self { services, hands, start_ms, who, _folder: folder }
    }

    /// So many milliseconds after the start.
    fn at(&self, millis: i64) {
        self.hands.0.store(self.start_ms + millis, Ordering::Relaxed);
    }

    fn ts(&self, millis: i64) -> String {
        Timestamp::from_millis(self.start_ms + millis).to_string()
    }

    /// Appends one event behind those that are there.
    async fn append(&self, run_id: &str, seq: u64, (millis, fields): (i64, &str)) {
        let line = format!("{{\"ts\":\"{}\",\"run_id\":\"{run_id}\",{fields}}}", self.ts(millis));
        let run_id = RunId::parse(run_id).expect("a run_id");
        let part = Part { run_id, from_seq: seq, lines: vec![Bytes::from(line)] };
        let done = self.services.store.append(&self.who, vec![part]).await.expect("it is appended");
        assert_eq!(done.accepted, 1);
    }

    /// Whether this very answer is held for now.
    fn holds(&self, target: &str) -> bool {
        let run_id = target.strip_prefix("/api/runs/").and_then(|rest| rest.split('?').next()).and_then(RunId::parse);
        let about = run_id.as_ref().map_or(About::Everything, About::Run);
        let revision = self.services.store.revision(&self.who, about);
        let key = Key::new(&self.who, target);
        revision.is_some_and(|revision| self.services.memory.find(&key, revision, self.services.clock.now()).is_some())
    }
}

/// What is sent: status, headers that are made of the answer, body.
async fn ask(
    app: &impl Service<Request, Response = ServiceResponse<BoxBody>, Error = Error>,
    target: &str,
) -> (u16, Vec<String>, Bytes) {
    let request = TestRequest::get().uri(target).insert_header(("host", "localhost"));
    let response = call_service(app, request.insert_header(("x-request-id", "held")).to_request()).await;
    let header = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        format!("{name}: {}", value.unwrap_or("none"))
    };
    let headers = ["etag", "link", "content-type", "cache-control"].map(header).to_vec();
    (response.status().as_u16(), headers, read_body(response).await)
}

/// Every question, thrice: with what is held, again, and with an empty memory.
async fn compare(bench: &Bench, when: &str) {
    let app = init_service(http::app(bench.services.clone())).await;
    let mut forgetful = bench.services.clone();
    forgetful.memory = Arc::new(Memory::new());
    let forgetful = init_service(http::app(forgetful)).await;
    for target in TARGETS {
        let held = ask(&app, target).await;
        let again = ask(&app, target).await;
        let anew = ask(&forgetful, target).await;
        assert_eq!(held, anew, "{target} {when}");
        assert_eq!(again, anew, "{target} {when}, asked again");
        assert_eq!(bench.holds(target), anew.0 == 200, "{target} {when}: good answers are held, and no other");
    }
}

#[actix_web::test]
async fn what_is_held_is_what_would_be_made_anew() {
    let bench = Bench::new().await;
    compare(&bench, "in an empty archive").await;
    let ci = r#""event":"run_start","total_nodes":1"#;
    let ready = r#""event":"node_transition","node_id":"n","from":"pending","to":"ready""#;
    let audit =
        r#""event":"audit_checkpoint","agent_id":null,"checkpoint_id":"audit:a","result":"fail","duration_s":1.5"#;
    let child = r#""event":"agent_run_start","agent_id":"coder","task":"t","parent":{"run_id":"main","node_id":"n"}"#;
    let end = r#""event":"run_end","outcome":"partial","done":0,"failed":0,"blocked":0,"total_duration_s":2.5"#;
    let beat = r#""event":"heartbeat""#;
    for (run_id, seq, event) in [
        ("main", 0, (0, ci)),
        ("main", 1, (10, ready)),
        ("other", 0, (20, ci)),
        ("child", 0, (30, child)),
        ("main", 2, (40, audit)),
        ("child", 1, (50, beat)),
        ("other", 1, (60, end)),
    ] {
        bench.at(event.0);
        bench.append(run_id, seq, event).await;
        compare(&bench, &format!("after {run_id} {seq}")).await;
        bench.at(event.0 + 1);
        compare(&bench, &format!("a millisecond after {run_id} {seq}")).await;
    }
    // Each run's last event: main 40, child 50, other 60. Each edge from both sides, then back again: clocks may step.
    let edges = [40, 50, 60].map(|last| [last + STALL_MS, last + DAY_MS, last + 7 * DAY_MS]);
    let mut moments: Vec<i64> = edges.as_flattened().iter().flat_map(|edge| [edge - 1, *edge, edge + 1]).collect();
    moments.sort_unstable();
    for moment in moments.iter().chain(moments.iter().rev()) {
        bench.at(*moment);
        compare(&bench, &format!("{moment} ms after the start")).await;
    }
}

#[actix_web::test]
async fn a_run_that_goes_on_leaves_the_pages_of_others_as_they_are() {
    let bench = Bench::new().await;
    let start = r#""event":"run_start","total_nodes":1"#;
    let child = r#""event":"agent_run_start","agent_id":"coder","task":"t","parent":{"run_id":"main"}"#;
    let app = init_service(http::app(bench.services.clone())).await;
    bench.append("main", 0, (0, start)).await;
    bench.append("other", 0, (0, start)).await;
    ask(&app, "/api/runs/main").await;
    ask(&app, "/api/runs").await;
    bench.append("other", 1, (1, r#""event":"heartbeat""#)).await;
    assert!(bench.holds("/api/runs/main"), "another run's event does not touch it");
    assert!(!bench.holds("/api/runs"), "the list shows that event");
    bench.append("child", 0, (2, child)).await;
    assert!(!bench.holds("/api/runs/main"), "its page names the child");
    ask(&app, "/api/runs/main").await;
    bench.append("child", 1, (3, r#""event":"heartbeat""#)).await;
    assert!(bench.holds("/api/runs/main"), "it names no more of the child than before");
}
