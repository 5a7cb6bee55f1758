//! What the door costs a request that comes in, and what those cost it who may not, or too often.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::airlock::Airlock;
use crate::archives::Archives;
use crate::database::{Cluster, Database, Tenant};
use crate::http::Connection;
use crate::measure::{Row, pairs, quantile, ratio, seconds, sides, span};
use crate::process::Process;
use crate::tenants;

/// Asked so often for one p50.
const ASKED: usize = 400;
/// How long one p99 is looked at.
const WINDOW: Duration = Duration::from_millis(1500);
/// So long a server believes the plan that it knows.
const PLAN_IS_BELIEVED: Duration = Duration::from_secs(11);
/// Requests a second of whoever disturbs: a fifth of a core here, so that what is seen is not the want of processors.
const DISTURBING_PER_S: f64 = 500.0;
/// Addresses that bad tokens come from: none of them is refused for its failures before its token is looked at.
const ADDRESSES: usize = 20_000;

/// Warm checks beside none, and a good client's p99 beside the same one's in peace.
pub(crate) fn at_the_door(cluster: &Cluster, archives: &mut Archives, rows: &mut Vec<Row>) {
    let database = cluster.database();
    let airlock = Airlock::start();
    let kahn = serve(&database, &airlock);
    let good = database.tenant("acme");
    let noisy = database.tenant("noisy");
    warm_checks(archives, rows, (&kahn, &airlock, &good));
    let archive = archives.medium();
    tenants::load(&kahn.address, &good, &archive, 200);
    tenants::load(&kahn.address, &noisy, &archive, 200);
    narrow(&database);
    let bad = bad_tokens(&airlock);
    let flood = |at: usize| {
        let (token, address) = (&bad[at % bad.len()], at % ADDRESSES);
        format!("{token}X-Forwarded-For: 10.9.{}.{}\r\n", address / 256 % 256, address % 256)
    };
    let disturbed = |disturb: &(dyn Fn(usize) -> String + Sync), wanted: u16| {
        pairs(
            archives.times(21),
            |_| p99(&kahn.address, &good),
            |_| while_disturbed(&kahn.address, (disturb, wanted), || p99(&kahn.address, &good)),
        )
    };
    let figures = disturbed(&flood, 401);
    let what = "a good client's p99 during 500 bad tokens a second";
    rows.push(Row::at_most(what, sides(&figures, span), ratio(&figures), 1.2));
    let figures = disturbed(&|_| noisy.read.clone(), 429);
    let what = "a good client's p99 beside a tenant that asks 500 times a second and may 20 times";
    rows.push(Row::at_most(what, sides(&figures, span), ratio(&figures), 1.2));
}

fn serve(database: &Database<'_>, airlock: &Airlock) -> Process {
    let dsn = database.app_dsn();
    let provider = airlock.variables();
    let mut variables: Vec<(&str, &str)> = provider.iter().map(|(name, value)| (*name, value.as_str())).collect();
    variables.extend([("KAHN_DATABASE_URL", dsn.as_str()), ("KAHN_TRUSTED_PROXIES", "127.0.0.1")]);
    Process::kahn_with(&[], &variables, "/readyz")
}

/// From here on the noisy tenant is held up by its plan.
fn narrow(database: &Database<'_>) {
    let sql = "INSERT INTO plans (plan, retention_days, rate_per_s, burst) VALUES ('tight', 90, 20, 20) ON CONFLICT DO NOTHING; \
               UPDATE tenants SET plan = 'tight' WHERE name = 'noisy'";
    database.cluster.runtime.block_on(database.owner().batch_execute(sql)).expect("a narrow plan");
    std::thread::sleep(PLAN_IS_BELIEVED);
}

/// The same small answer with and without a check: /api/me needs one, /api/config none.
fn warm_checks(archives: &Archives, rows: &mut Vec<Row>, (kahn, airlock, good): (&Process, &Airlock, &Tenant)) {
    let of = |client: &str| format!("Authorization: Bearer {}\r\n", airlock.token(client));
    let ways = [
        ("an API key", good.read.clone()),
        ("a JWT, EdDSA", of("service:kahn-harness")),
        ("a JWT, RS256", of("service:acme-rs256")),
        ("an opaque token", of("service:acme-opaque")),
    ];
    for (way, fields) in ways {
        let mut connection = Connection::open(&kahn.address).expect("it listens");
        let plain = connection.fields.clone();
        let fields = format!("{plain}{fields}");
        let figures: Vec<_> =
            (0..archives.times(60)).map(|_| p50s_by_turns(&mut connection, (&plain, &fields))).collect();
        let what = format!("{way} checked (warm): GET /api/me beside GET /api/config without: p50");
        rows.push(Row::at_most(&what, sides(&figures, span), ratio(&figures), 1.2));
    }
}

/// Request by request in turns over one connection: what wakes a thread late, or on the other core, does so for both.
fn p50s_by_turns(connection: &mut Connection, (plain, fields): (&str, &str)) -> (f64, f64) {
    let (mut without, mut with) = (Vec::with_capacity(ASKED), Vec::with_capacity(ASKED));
    for _ in 0..ASKED {
        for (fields, path, times) in [(plain, "/api/config", &mut without), (fields, "/api/me", &mut with)] {
            fields.clone_into(&mut connection.fields);
            times.push(seconds(|| expect(connection, path, 200)));
        }
    }
    (quantile(&without, 0.5), quantile(&with, 0.5))
}

/// Of the good client's list, one request at a time.
fn p99(address: &str, good: &Tenant) -> f64 {
    let mut connection = Connection::with_fields(address, &good.read).expect("it listens");
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < WINDOW {
        times.push(seconds(|| expect(&mut connection, "/api/runs?limit=50", 200)));
    }
    quantile(&times, 0.99)
}

fn expect(connection: &mut Connection, path: &str, status: u16) {
    let answer = connection.get(path).expect("it answers");
    assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
}

/// What the work gives while others ask at their pace; most of them have to be answered as it is said here, or they
/// disturb with something else than was meant.
fn while_disturbed(
    address: &str,
    (disturb, wanted): (&(dyn Fn(usize) -> String + Sync), u16),
    work: impl FnOnce() -> f64,
) -> f64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let begun = Instant::now();
            let (mut asked, mut as_wanted) = (0_usize, 0_usize);
            let mut connection = Connection::open(address).expect("it listens");
            while !stop.load(Ordering::Relaxed) {
                let due = Duration::from_secs_f64(asked as f64 / DISTURBING_PER_S);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
                connection.fields = format!("Host: {address}\r\n{}", disturb(asked));
                let status = connection.get("/api/runs?limit=50").expect("it answers").status;
                as_wanted += usize::from(status == wanted);
                asked += 1;
            }
            (asked, as_wanted)
        });
        let figure = work();
        stop.store(true, Ordering::Relaxed);
        let (asked, as_wanted) = asking.join().expect("the other client");
        assert!(asked > 100 && as_wanted * 10 > asked * 8, "{as_wanted} of {asked} were answered {wanted}");
        figure
    })
}

/// Header fields with tokens that do not count, each for another reason.
fn bad_tokens(airlock: &Airlock) -> Vec<String> {
    let mut tokens = Vec::new();
    for alg in ["EdDSA", "ES256", "RS256"] {
        let good = airlock.mint(alg, &json!({}));
        let (signed, signature) = good.rsplit_once('.').expect("three parts");
        let turned: String = signature.chars().rev().collect();
        tokens.push(format!("{signed}.{turned}"));
        tokens.push(airlock.mint(alg, &json!({ "exp": 1 })));
        tokens.push(airlock.mint(alg, &json!({ "aud": "another" })));
    }
    tokens.push("kahn_live_sk_aaaaaaaa_0123456789".to_owned());
    tokens.push("eyJhbGciOiJub25lIn0.e30.".to_owned());
    tokens.into_iter().map(|token| format!("Authorization: Bearer {token}\r\n")).collect()
}
