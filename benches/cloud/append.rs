//! Ingest, beside COPY of the same events as rows of a table with the same key and no row-level security.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

use crate::archives::Archives;
use crate::database::{Cluster, Tenant};
use crate::http::Connection;
use crate::ingest::{BATCH, batches, per_second};
use crate::measure::{Row, median, pairs, ratio, sides};

/// One producer, and four at once; and whether the last batches of a long run cost what its first ones do.
pub(crate) fn ingest(cluster: &Cluster, archives: &mut Archives, rows: &mut Vec<Row>) {
    let database = cluster.database();
    let tenant = database.tenant("producer");
    let kahn = database.serve();
    let table = "CREATE TABLE bare (tenant_id uuid, run_id text COLLATE \"C\", seq bigint, line bytea, PRIMARY KEY (tenant_id, run_id, seq))";
    cluster.runtime.block_on(database.owner().batch_execute(table)).expect("a table");
    for (producers, count) in [(1, 20), (4, 10)] {
        let clients: Vec<Client> = (0..producers).map(|_| database.owner()).collect();
        let next = AtomicUsize::new(0);
        let bare = |round: usize| {
            per_second(
                producers,
                count,
                |producer| format!("bare-{producers}-{round}-{producer}"),
                |run_id, batches| {
                    let client = &clients[next.fetch_add(1, Ordering::Relaxed) % producers];
                    cluster.runtime.block_on(copy(client, &tenant, run_id, &batches));
                },
            )
        };
        let through_kahn = |round: usize| {
            per_second(
                producers,
                count,
                |producer| format!("run-{producers}-{round}-{producer}"),
                |_, batches| {
                    let mut connection = Connection::with_fields(&kahn.address, &tenant.ingest).expect("it listens");
                    batches.iter().enumerate().for_each(|(at, batch)| post(&mut connection, at * BATCH, batch));
                },
            )
        };
        let figures = pairs(archives.times(9), bare, through_kahn);
        rows.push(Row::at_least(
            &format!("ingest, batches of 500, {producers} producer{}", if producers == 1 { "" } else { "s" }),
            sides(&figures, |rate| format!("{rate:.0} events/s")),
            ratio(&figures),
            0.5,
        ));
    }
    let batches = batches("long", 100);
    let mut connection = Connection::with_fields(&kahn.address, &tenant.ingest).expect("it listens");
    let times: Vec<f64> = batches
        .iter()
        .enumerate()
        .map(|(at, batch)| crate::measure::seconds(|| post(&mut connection, at * BATCH, batch)))
        .collect();
    let (first, last) = (median(&times[..20]), median(&times[80..]));
    rows.push(Row::at_most(
        "ingest of a run of 50,000 events: its last batches beside its first",
        (crate::measure::span(first), crate::measure::span(last)),
        last / first,
        1.5,
    ));
}

fn post(connection: &mut Connection, from_seq: usize, batch: &str) {
    let path = format!("/v1/ingest/transitions?from_seq={from_seq}");
    let answer = connection.post(&path, batch.as_bytes()).expect("it answers");
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

/// A transaction a batch, as COPY is without one around it.
async fn copy(client: &Client, tenant: &Tenant, run_id: &str, batches: &[String]) {
    let tenant: uuid::Uuid = tenant.id.parse().expect("an id");
    let types = [Type::UUID, Type::TEXT, Type::INT8, Type::BYTEA];
    let mut seq = 0_i64;
    for batch in batches {
        let sink = client.copy_in("COPY bare FROM STDIN BINARY").await.expect("COPY");
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
        for line in batch.lines() {
            writer.as_mut().write(&[&tenant, &run_id, &seq, &line.as_bytes()]).await.expect("a row");
            seq += 1;
        }
        writer.finish().await.expect("it is committed");
    }
}
