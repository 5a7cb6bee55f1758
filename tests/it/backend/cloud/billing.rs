//! Plans and usage. If these fail, somebody pays for what they did not use, or a plan that was set does not hold.

use std::sync::Arc;

use kahn::contract::{Principal, StoreError};
use serde_json::{Value, json};

use super::cluster::{Database, runtime};
use super::library::{admin, open, part, served, somebody};
use super::tenants::{done, list, refusal};
use super::{serve, tenant};
use crate::support::request;

#[test]
fn an_admin_sees_plan_and_usage_of_their_own_tenant() {
    let database = Database::fresh();
    let who = admin(&database, "acme");
    somebody(&database, "other");
    served(&database, &who, |url| {
        let get = |target: &str| request(url, ("GET", target), &[], None);
        let billing = || get("/api/billing");
        let fresh = r#"{"plan":"beta","retention_days":90,"rate_per_s":1000,"burst":20000,"usage":[]}"#;
        assert_eq!(billing().text(), fresh);
        assert_eq!(get("/api/billing?x=1").problem(), (400, "unknown_parameter".into()));
        let today = "(now() AT TIME ZONE 'utc')::date";
        database.admin(&format!(
            "INSERT INTO usage SELECT tenant_id, {today} - back, 1 + back, 2 FROM tenants, unnest(ARRAY[0, 1, 89, 90]) AS back \
             WHERE NOT reserved"
        ));
        let days = database
            .admin(&format!("SELECT to_char({today} - back, 'YYYY-MM-DD') FROM unnest(ARRAY[89, 1, 0]) AS back"));
        let days = days.iter().zip([90, 2, 1]);
        let wanted: Value = days.map(|(day, events)| json!({"day": day[0], "events": events, "bytes": 2})).collect();
        assert_eq!(billing().json()["usage"], wanted, "90 days, oldest first");

        // Another plan, and days of its own.
        database.admin("INSERT INTO plans VALUES ('large', 400, 5000, 70000)");
        let said = done(&database, &["set-plan", "acme", "large", "--retention-days", "30"]);
        let wanted = "tenant acme is on plan large: runs are kept 30 days (instead of the plan's 400), 5000 a second, burst 70000 (events, and other requests)\n";
        assert_eq!(said, wanted);
        let now = billing().json();
        let figures: Value =
            ["plan", "retention_days", "rate_per_s", "burst"].iter().map(|name| now[name].clone()).collect();
        assert_eq!(figures, json!(["large", 30, 5000, 70000]));
        done(&database, &["set-plan", "acme", "beta"]);
        assert_eq!(billing().json()["retention_days"], 30, "its own days stay");
        done(&database, &["set-plan", "acme", "large", "--retention-days", "default"]);
        assert_eq!(billing().json()["retention_days"], 400);
        let plans: Vec<Value> = list(&database).iter().map(|tenant| tenant["plan"].clone()).collect();
        assert_eq!(plans, ["large", "beta"], "the other tenant's stays");
    });
}

#[test]
fn keys_are_no_admins() {
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "acme");
    let server = serve(&database);
    for key in [ingest, read] {
        let authorization = format!("Bearer {key}");
        let answer = request(&server.url, ("GET", "/api/billing"), &[("authorization", &authorization)], None);
        assert_eq!(answer.problem(), (403, "insufficient_scope".into()));
        assert_eq!(answer.json()["scope"], "admin");
    }
    assert_eq!(request(&server.url, ("GET", "/api/billing"), &[], None).problem(), (401, "no_credentials".into()));
    let without = Principal { tenant: None, ..somebody(&database, "other") };
    let answer =
        runtime().block_on(async { open(&database, 1).await.account.expect("an account").billing(&without).await });
    assert!(matches!(answer, Err(StoreError::Failed(_))), "nobody's account is not everybody's: {answer:?}");
}

#[test]
fn a_plan_is_set_only_as_it_can_be() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let (code, sentence) = refusal(&database, &["set-plan", "acme", "gold"]);
    assert_eq!((code, &*sentence), (Some(1), "error: there is no plan \"gold\"; the plans are beta\n"));
    assert_eq!(refusal(&database, &["set-plan", "nobody", "beta"]).0, Some(1));
    for days in ["0", "-1", "1.5", "36501", "none", ""] {
        let args = ["set-plan", "acme", "beta", &format!("--retention-days={days}")];
        assert_eq!(refusal(&database, &args).0, Some(2), "{days}");
    }
    let kept = "SELECT plan, (SELECT count(*) FROM retention) FROM tenants WHERE name = 'acme'";
    assert_eq!(database.admin(kept), [["beta", "0"]]);
    done(&database, &["set-plan", "acme", "beta", "--retention-days", "36500", "--json"]);
    let noted = "SELECT action, target FROM activity WHERE actor = 'kahn tenant set-plan' ORDER BY action";
    assert_eq!(database.admin(noted), [["retention_changed", "36500"]], "the plan was beta before");
}

/// Retries, overlaps and refusals are a producer's daily bread.
#[test]
fn usage_counts_each_stored_line_once_whatever_was_sent() {
    let database = Database::fresh();
    let (who, other) = (admin(&database, "acme"), somebody(&database, "other"));
    let day = || database.admin("SELECT to_char(now() AT TIME ZONE 'utc', 'YYYY-MM-DD')").concat().concat();
    let first_day = day();
    let billing = runtime().block_on(async {
        let backend = open(&database, 8).await;
        let store = &backend.store;
        // Each slice from several senders at once, and each overlaps the next.
        let senders = (0..40_u64).map(|number| {
            let from = (number / 4) * 20;
            let lines = 60.min(200 - from);
            let (store, who) = (Arc::clone(store), who.clone());
            tokio::spawn(async move {
                let deadline = std::time::Instant::now() + crate::support::PATIENCE;
                loop {
                    let batch = vec![part("one", from, lines), part("two", from, lines)];
                    match store.append(&who, batch).await {
                        Ok(done) => return done.accepted,
                        // Those before it are on their way.
                        Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
                    }
                    tokio::task::yield_now().await;
                }
            })
        });
        let mut accepted = 0;
        for sender in senders.collect::<Vec<_>>() {
            accepted += sender.await.expect("a sender");
        }
        assert_eq!(accepted, 400);
        store.append(&other, vec![part("one", 0, 7)]).await.expect("stored");
        // Refused whole: a conflict in one part, a gap in one part.
        let mut conflict = part("one", 10, 1);
        conflict.lines = part("one", 11, 1).lines;
        store.append(&who, vec![part("new", 0, 5), conflict]).await.expect_err("a conflict");
        store.append(&who, vec![part("new", 0, 5), part("one", 300, 5)]).await.expect_err("a gap");
        backend.account.expect("an account").billing(&who).await.expect("an answer")
    });
    let lines = |run: &str| part(run, 0, 200).lines;
    let bytes: usize = [lines("one"), lines("two")].concat().iter().map(|line| line.len() + 1).sum();
    // Midnight may fall in between.
    let last_day = day();
    assert!(billing.usage.iter().all(|own| own.day == first_day || own.day == last_day), "{billing:?}");
    let events: u64 = billing.usage.iter().map(|day| day.events).sum();
    let counted: u64 = billing.usage.iter().map(|day| day.bytes).sum();
    assert_eq!((events, counted), (400, bytes as u64));
    let of_other = "SELECT sum(events) FROM usage u JOIN tenants t USING (tenant_id) WHERE t.name = 'other'";
    assert_eq!(database.admin(of_other), [["7"]]);
}
