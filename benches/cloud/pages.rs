//! The list and a run's page, beside the bare query for the same rows in one pipelined trip.

use futures_util::future::{join4, try_join_all};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use crate::archives::Archives;
use crate::database::{Cluster, Tenant};
use crate::http::Connection;
use crate::measure::{Row, pairs, quantile, ratio, seconds, sides, span};
use crate::tenants;

/// Asked so often for one figure of a pair.
const ASKED: usize = 30;

type Statement<'a> = (&'a str, &'a [(&'a (dyn ToSql + Sync), Type)]);

/// p50 of both ways, over a connection that is kept.
pub(crate) fn beside_the_query(cluster: &Cluster, archives: &mut Archives, rows: &mut Vec<Row>) {
    let database = cluster.database();
    let tenant = database.tenant("reader");
    let kahn = database.serve();
    let archive = archives.medium();
    let run_ids = tenants::load(&kahn.address, &tenant, &archive, 2000);
    cluster.runtime.block_on(database.owner().batch_execute("ANALYZE")).expect("it is allowed");
    let client = database.app();
    let mut connection = Connection::with_fields(&kahn.address, &tenant.read).expect("it listens");
    let list = "SELECT summary FROM runs WHERE deleted_at IS NULL ORDER BY started DESC NULLS LAST, run_id LIMIT 51";
    let count = "SELECT count(*) FROM runs WHERE deleted_at IS NULL";
    let page = "SELECT summary, state, graph FROM runs WHERE run_id = $1 AND deleted_at IS NULL";
    let children = "SELECT summary FROM runs WHERE parent_run_id = $1 AND deleted_at IS NULL";
    let figures = pairs(
        archives.times(15),
        |_| p50(|_| bare(cluster, &client, &tenant, &[(list, &[]), (count, &[])])),
        |_| p50(|at| get(&mut connection, &format!("/api/runs?limit=50&as_of=2026-11-01T00:00:{:02}.000Z", at % 60))),
    );
    rows.push(Row::at_most("GET /api/runs?limit=50: p50", sides(&figures, span), ratio(&figures), 1.5));
    let figures = pairs(
        archives.times(15),
        |_| {
            p50(|at| {
                let run_id = &run_ids[at % run_ids.len()];
                let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(run_id, Type::TEXT)];
                bare(cluster, &client, &tenant, &[(page, &parameters), (children, &parameters)]);
            })
        },
        |_| p50(|at| get(&mut connection, &format!("/api/runs/{}", run_ids[at % run_ids.len()]))),
    );
    rows.push(Row::at_most("GET /api/runs/{id}: p50", sides(&figures, span), ratio(&figures), 1.5));
}

fn p50(mut ask: impl FnMut(usize)) -> f64 {
    let times: Vec<f64> = (0..ASKED).map(|at| seconds(|| ask(at))).collect();
    quantile(&times, 0.5)
}

fn get(connection: &mut Connection, path: &str) {
    let answer = connection.get(path).expect("it answers");
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

/// All in one trip, as one tenant.
fn bare(cluster: &Cluster, client: &Client, tenant: &Tenant, statements: &[Statement<'_>]) {
    let set = "SELECT set_config('kahn.tenant_id', $1, true)";
    let (begun, set, found, committed) = cluster.runtime.block_on(join4(
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"),
        client.query_typed(set, &[(&tenant.id, Type::TEXT)]),
        try_join_all(statements.iter().map(|(sql, parameters)| client.query_typed(sql, parameters))),
        client.batch_execute("COMMIT"),
    ));
    begun.expect("BEGIN");
    set.expect("the tenant");
    assert!(!found.expect("rows")[0].is_empty(), "the query finds nothing");
    committed.expect("COMMIT");
}
