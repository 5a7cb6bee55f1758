//! From the answer to a batch on one server until a client of another one has it: beside a bare NOTIFY.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::archives::Archives;
use crate::database::Cluster;
use crate::generate;
use crate::http::Connection;
use crate::live::Client;
use crate::measure::{Row, Verdict, quantile, span};
use crate::websocket;

/// p99 of both ways, in turn.
pub(crate) fn commit_to_frame(cluster: &Cluster, archives: &mut Archives, rows: &mut Vec<Row>) {
    let database = cluster.database();
    let tenant = database.tenant("live");
    let (here, there) = (database.serve(), database.serve());
    let mut producer = Connection::with_fields(&here.address, &tenant.ingest).expect("it listens");
    let mut post = |seq: u64, line: &str| {
        let answer = producer.post(&format!("/v1/ingest/transitions?from_seq={seq}"), line.as_bytes());
        assert_eq!(answer.expect("it answers").status, 200);
    };
    post(0, &generate::run_start("followed"));
    let mut client = Client::open(&there.address);
    client.send(websocket::handshake_with(&there.address, &tenant.read).as_bytes());
    client.read_past(b"\r\n\r\n");
    client.send(&websocket::text(r#"{"type":"subscribe","run_id":"followed","from_seq":0}"#));
    client.read_past(b"run_start");

    let (heard, mut notifications) = mpsc::unbounded_channel();
    let dsn = database.app_dsn();
    let listener = cluster.runtime.block_on(async {
        let (client, mut connection) = tokio_postgres::connect(&dsn, NoTls).await.expect("a connection");
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    let _ = heard.send(Instant::now());
                }
            }
        });
        client.batch_execute("LISTEN bare").await.expect("LISTEN");
        client
    });
    let sender = database.app();
    let (mut limit, mut kahn) = (Vec::new(), Vec::new());
    for at in 1..=archives.times(600) as u64 {
        let begun = Instant::now();
        cluster.runtime.block_on(sender.batch_execute("NOTIFY bare")).expect("NOTIFY");
        let arrived = cluster.runtime.block_on(notifications.recv()).expect("it arrives");
        limit.push(arrived.saturating_duration_since(begun).as_secs_f64());
        let mark = format!("mark-{at}-here");
        let line = generate::heartbeat("followed", at, &mark, 40);
        if at % 64 == 0 {
            client.answer_pings();
        }
        post(at, &line);
        let committed = Instant::now();
        client.read_past(mark.as_bytes());
        kahn.push(committed.elapsed().as_secs_f64());
        // Not in step with any poll.
        std::thread::sleep(Duration::from_micros(2000 + (at * 7919) % 3000));
    }
    drop(listener);
    let (bare, over) = (quantile(&limit, 0.99), quantile(&kahn, 0.99) - quantile(&limit, 0.99));
    rows.push(Row {
        what: "commit -> frame on another replica: p99".into(),
        limit: span(bare),
        kahn: format!("{} (p50 {})", span(quantile(&kahn, 0.99)), span(quantile(&kahn, 0.5))),
        ratio: format!("+{}", span(over.max(0.0))),
        bar: "<= limit + 10 ms".into(),
        verdict: Verdict::of(over <= 0.010),
    });
}
