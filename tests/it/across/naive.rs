//! A second opinion: the formulas of the contract over the events themselves, written down plainly. Nothing here uses the
//! library's state, summaries or order.

use serde_json::{Value, json};

use super::logs::{DAY, Log};
use kahn::domain::Timestamp;

const Z: f64 = 1.959_963_984_540_054;

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_default()
}

fn millis(event: &Value) -> i64 {
    Timestamp::parse(text(event, "ts")).expect("a ts").millis()
}

fn named<'a>(log: &'a Log, name: &'a str) -> impl DoubleEndedIterator<Item = &'a Value> {
    log.events.iter().filter(move |event| event["event"] == name)
}

fn is_end(event: &&Value) -> bool {
    ["run_end", "agent_run_end"].contains(&text(event, "event"))
}

fn kind(log: &Log) -> Option<&'static str> {
    log.events.iter().find_map(|event| match text(event, "event") {
        "run_start" => Some("ci"),
        "agent_run_start" => Some("agent"),
        _ => None,
    })
}

fn end(log: &Log) -> Option<&Value> {
    log.events.iter().rfind(is_end)
}

/// The runs of a window, by start, then run_id.
fn window<'a>(logs: &'a [Log], now: i64, window: &str) -> Vec<&'a Log> {
    let from = match window {
        "24h" => now - DAY,
        "7d" => now - 7 * DAY,
        _ => i64::MIN,
    };
    let mut runs: Vec<&Log> =
        logs.iter().filter(|log| log.events.last().is_some_and(|last| millis(last) >= from)).collect();
    runs.sort_by_key(|log| (millis(&log.events[0]), log.run_id.clone()));
    runs
}

fn percentile(values: &[f64], p: f64) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let place = p * last as f64;
    let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
    let share = place % 1.0;
    Some(low * (1.0 - share) + high * share)
}

pub(crate) fn agents<'a>(logs: &'a [Log], now: i64, name: &str, sort: &str) -> Value {
    let (all, seen) = (window(logs, now, "all"), window(logs, now, name));
    let agent_of = |log: &Log| named(log, "agent_run_start").next().map(|start| text(start, "agent_id").to_owned());
    let mut ids: Vec<String> = seen.iter().filter_map(|log| agent_of(log)).collect();
    ids.sort();
    ids.dedup();
    let mut rows: Vec<Value> = ids
        .iter()
        .map(|id| {
            let of = |runs: &[&'a Log]| -> Vec<&'a Log> {
                runs.iter().filter(|log| agent_of(log).as_ref() == Some(id)).copied().collect()
            };
            agent(id, &of(&seen), &of(&all))
        })
        .collect();
    let number = |row: &Value, field: &str| std::cmp::Reverse(row[field].as_u64().expect("a count"));
    rows.sort_by_key(|row| {
        let (severity, count) = (number(row, "severity"), number(row, "run_count"));
        let keys = if sort == "busiest" { (count, severity) } else { (severity, count) };
        (keys, text(row, "agent_id").to_owned())
    });
    json!({"window": name, "items": rows})
}

fn scores(runs: &[&Log]) -> Vec<f64> {
    runs.iter().filter_map(|log| end(log)?["convergence_score"].as_f64()).collect()
}

fn agent(id: &str, runs: &[&Log], history: &[&Log]) -> Value {
    let outcomes = ["converged", "partial", "escaped", "aborted"];
    let count = |outcome: &str| runs.iter().filter(|log| end(log).is_some_and(|end| end["outcome"] == outcome)).count();
    let [converged, partial, escaped, aborted] = outcomes.map(count);
    let unknown = runs.len() - converged - partial - escaped - aborted;
    let durations: Vec<f64> = runs.iter().filter_map(|log| end(log)?["total_duration_s"].as_f64()).collect();
    let given = scores(runs);
    let mean = (!given.is_empty()).then(|| given.iter().sum::<f64>() / given.len() as f64);
    let in_flight = runs.iter().filter(|log| end(log).is_none()).count();
    let last_seen = runs.iter().filter_map(|log| log.events.last()).map(|event| text(event, "ts")).max();
    let mut models: Vec<&str> =
        runs.iter().filter_map(|log| named(log, "agent_run_start").next()?["model"].as_str()).collect();
    models.sort_unstable();
    models.dedup();

    let ended: Vec<bool> = history.iter().filter_map(|log| end(log)).map(|end| end["outcome"] == "converged").collect();
    let fell = ended.len() >= 2 && !ended[ended.len() - 1] && ended[ended.len() - 2];
    let past = scores(history);
    let dropped = past.len() >= 2 && {
        let before = &past[past.len().saturating_sub(6)..past.len() - 1];
        let drop = percentile(before, 0.5).expect("a median") - past[past.len() - 1];
        (drop * 1000.0).round() > 150.0
    };
    let regression = fell || dropped;
    let severity = usize::from(regression) * 1000
        + usize::min(200, 10 * (escaped + aborted))
        + usize::min(200, partial)
        + if in_flight > 0 { 5 } else { 0 };
    json!({
        "agent_id": id, "run_count": runs.len(),
        "outcomes": {"converged": converged, "partial": partial, "escaped": escaped, "aborted": aborted, "unknown": unknown},
        "duration_p50_s": percentile(&durations, 0.5), "duration_p95_s": percentile(&durations, 0.95),
        "mean_convergence_score": mean, "convergence_scores": given[given.len().saturating_sub(20)..],
        "last_seen": last_seen, "in_flight": in_flight, "models": models, "usage": usage(runs),
        "regression": regression, "severity": severity,
    })
}

/// The tests put usage on agent_run_end alone.
fn usage(runs: &[&Log]) -> Value {
    let parts: Vec<&Value> =
        runs.iter().filter_map(|log| Some(&end(log)?["usage"])).filter(|usage| !usage.is_null()).collect();
    if parts.is_empty() {
        return Value::Null;
    }
    let tokens = |field: &str| parts.iter().filter_map(|usage| usage[field].as_u64()).reduce(|a, b| a + b);
    let cost = parts.iter().filter_map(|usage| usage["cost_usd"].as_f64()).reduce(|a, b| a + b);
    json!({"input_tokens": tokens("input_tokens"), "output_tokens": tokens("output_tokens"), "cost_usd": cost})
}

/// Every result of every checkpoint or node, in order, with its run; grouped by id.
fn grouped<'a>(results: impl Iterator<Item = (String, &'a str, &'a Log)>) -> Vec<(String, Vec<(&'a str, &'a Log)>)> {
    let mut groups: Vec<(String, Vec<(&str, &Log)>)> = Vec::new();
    for (id, result, log) in results {
        match groups.iter_mut().find(|(known, _)| *known == id) {
            Some((_, group)) => group.push((result, log)),
            None => groups.push((id, vec![(result, log)])),
        }
    }
    groups
}

fn flips(decided: &[bool]) -> usize {
    decided.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

fn verdict(decided: &[bool]) -> &'static str {
    let (first, last) = (decided.first(), decided.last());
    match flips(decided) {
        _ if decided.len() < 5 => "insufficient_data",
        0 if first == Some(&true) => "stable",
        0 => "broken",
        1 if last == Some(&true) => "recovered",
        1 => "regressed",
        _ => "flaky",
    }
}

fn in_order(mut rows: Vec<(Value, f64)>, id: &str) -> Vec<Value> {
    let order = ["regressed", "flaky", "broken", "recovered", "insufficient_data", "stable"];
    let place = |row: &Value| order.iter().position(|name| row["verdict"] == *name);
    rows.sort_by(|(a, a_rate), (b, b_rate)| {
        let rates = if a["verdict"] == "flaky" { b_rate.total_cmp(a_rate) } else { std::cmp::Ordering::Equal };
        place(a).cmp(&place(b)).then(rates).then(text(a, id).cmp(text(b, id)))
    });
    rows.into_iter().map(|(row, _)| row).collect()
}

fn rate(flips: usize, n: usize) -> f64 {
    if n < 2 { 0.0 } else { flips as f64 / (n - 1) as f64 }
}

pub(crate) fn audits(logs: &[Log], now: i64, name: &str) -> Value {
    let runs = window(logs, now, name);
    let results = runs.iter().flat_map(|log| {
        named(log, "audit_checkpoint")
            .map(|audit| (text(audit, "checkpoint_id").to_owned(), text(audit, "result"), *log))
    });
    let rows = grouped(results).into_iter().map(|(id, results)| {
        let decided: Vec<bool> =
            results.iter().filter(|(result, _)| *result != "warn").map(|(result, _)| *result == "pass").collect();
        let n = decided.len();
        let pass = decided.iter().filter(|passed| **passed).count();
        let (of, all) = (pass as f64, n as f64);
        let centre = (of + Z * Z / 2.0) / (all + Z * Z);
        let half = Z / (all + Z * Z) * (of * (all - of) / all + Z * Z / 4.0).sqrt();
        let flip_rate = rate(flips(&decided), n);
        let row = json!({
            "checkpoint_id": id, "pass": pass, "fail": n - pass, "warn": results.len() - n, "total": results.len(),
            "flakiness": if n == 0 { 0.0 } else { 1.0 - (of / all - 0.5).abs() * 2.0 },
            "n": n, "transitions": flips(&decided), "flip_rate": flip_rate,
            "p_low": (n > 0).then(|| (centre - half).max(0.0)), "p_high": (n > 0).then(|| (centre + half).min(1.0)),
            "verdict": verdict(&decided),
            "last_fail_run_id": results.iter().rfind(|(result, _)| *result == "fail").map(|(_, log)| &log.run_id),
            "recent": results.iter().skip(results.len().saturating_sub(30)).map(|(result, _)| *result).collect::<Vec<_>>(),
        });
        (row, flip_rate)
    });
    json!({"window": name, "items": in_order(rows.collect(), "checkpoint_id")})
}

/// What a node came to in a run: its status, and its attempts.
struct Node<'a> {
    id: String,
    status: &'a str,
    attempts: Vec<&'a Value>,
    running_ms: i64,
}

/// The nodes that the log names, by first appearance, and those of the graph before them.
fn nodes_of(log: &Log) -> Vec<Node<'_>> {
    let mut ids: Vec<String> = log.graph.iter().flat_map(graph_nodes).map(|node| text(node, "id").to_owned()).collect();
    for event in log.events.iter().filter(|event| ["node_transition", "node_attempt"].contains(&text(event, "event"))) {
        if !ids.contains(&text(event, "node_id").to_owned()) {
            ids.push(text(event, "node_id").to_owned());
        }
    }
    let node = |id: String| {
        let moves: Vec<&Value> = named(log, "node_transition").filter(|event| text(event, "node_id") == id).collect();
        let mut running_ms = 0;
        for (at, start) in moves.iter().enumerate().filter(|(_, event)| event["to"] == "running") {
            let until = moves.get(at + 1).copied().or(log.events.last()).expect("a last event");
            running_ms += (millis(until) - millis(start)).max(0);
        }
        Node {
            status: moves.last().map_or("pending", |event| text(event, "to")),
            attempts: named(log, "node_attempt").filter(|event| text(event, "node_id") == id).collect(),
            running_ms,
            id,
        }
    };
    ids.into_iter().map(node).collect()
}

fn result(node: &Node<'_>) -> Option<&'static str> {
    match (node.status, node.attempts.len()) {
        ("done", 0 | 1) => Some("done"),
        ("done", _) => Some("retry"),
        ("failed", _) => Some("failed"),
        ("blocked", _) => Some("blocked"),
        _ => None,
    }
}

pub(crate) fn nodes(logs: &[Log], now: i64, name: &str) -> Value {
    let runs: Vec<&Log> = window(logs, now, name).into_iter().filter(|log| kind(log) == Some("ci")).collect();
    let results = runs.iter().flat_map(|log| {
        nodes_of(log).into_iter().filter_map(|node| result(&node).map(|result| (node.id, result, *log)))
    });
    let rows = grouped(results).into_iter().map(|(id, results)| {
        let count = |wanted: &str| results.iter().filter(|(result, _)| *result == wanted).count();
        let [first, retried, failed, blocked] = ["done", "retry", "failed", "blocked"].map(count);
        let decided: Vec<bool> =
            results.iter().filter(|(result, _)| *result != "blocked").map(|(result, _)| *result != "failed").collect();
        let flake_rate = if first + retried == 0 { 0.0 } else { retried as f64 / (first + retried) as f64 };
        let plain = verdict(&decided);
        let is_flaky = ["stable", "recovered"].contains(&plain) && (flake_rate * 1000.0).round() >= 100.0;
        let row = json!({
            "node_id": id, "runs": results.len(), "done_first_try": first, "done_after_retry": retried, "failed": failed,
            "blocked": blocked, "flake_rate": flake_rate,
            "lost_s": results.iter().map(|(result, log)| lost_s(log, &id, result)).sum::<f64>(),
            "n": decided.len(), "transitions": flips(&decided), "verdict": if is_flaky { "flaky" } else { plain },
            "last_flake_run_id": results.iter().rfind(|(result, _)| *result == "retry").map(|(_, log)| &log.run_id),
            "recent": results.iter().skip(results.len().saturating_sub(20)).map(|(result, _)| *result).collect::<Vec<_>>(),
        });
        (row, rate(flips(&decided), decided.len()))
    });
    json!({"window": name, "items": in_order(rows.collect(), "node_id")})
}

/// Failed attempts of a node that converged, and backoff.
fn lost_s(log: &Log, id: &str, result: &str) -> f64 {
    let converged = ["done", "retry"].contains(&result);
    let attempts = named(log, "node_attempt").filter(|event| text(event, "node_id") == id);
    attempts
        .map(|attempt| {
            let failed = if converged && attempt["converged"] == false { attempt["duration_s"].as_f64() } else { None };
            failed.unwrap_or(0.0) + attempt["backoff_s"].as_f64().unwrap_or(0.0)
        })
        .sum()
}

fn graph_nodes(graph: &Value) -> &[Value] {
    graph["nodes"].as_array().expect("nodes")
}

/// The comparison, without its rows and sentences.
pub(crate) fn compare(base: &Log, head: &Log) -> Value {
    let (was, is) = (nodes_of(base), nodes_of(head));
    let mut nodes: Vec<Value> = Vec::new();
    for node in &is {
        let before = was.iter().find(|other| other.id == node.id);
        let earlier: Vec<String> = before.map(|before| failing(before)).unwrap_or_default();
        let newly: Vec<String> = failing(node).into_iter().filter(|cmd| !earlier.contains(cmd)).collect();
        let change = before.map_or("added", |before| change(before, node, is_other_spec(base, head, &node.id)));
        nodes.push(json!({"node_id": node.id, "change": change, "base": before.map(figures), "head": figures(node),
                          "newly_failing_checks": newly}));
    }
    for node in was.iter().filter(|node| !is.iter().any(|other| other.id == node.id)) {
        nodes.push(json!({"node_id": node.id, "change": "removed", "base": figures(node), "head": null,
                          "newly_failing_checks": []}));
    }
    let fell = nodes.iter().any(|node| {
        node["base"]["status"] == "done" && (node["head"]["status"] == "failed" || node["head"]["status"] == "blocked")
    });
    let ids = |log: &Log| -> Vec<String> {
        log.graph.iter().flat_map(graph_nodes).map(|node| text(node, "id").to_owned()).collect()
    };
    let (old, new) =
        if base.graph.is_some() && head.graph.is_some() { (ids(base), ids(head)) } else { (vec![], vec![]) };
    let added: Vec<&String> = new.iter().filter(|id| !old.contains(id)).collect();
    let removed: Vec<&String> = old.iter().filter(|id| !new.contains(id)).collect();
    let changed: Vec<&String> = new.iter().filter(|id| is_other_spec(base, head, id)).collect();
    json!({"regression": fell || is_worse(base, head),
           "graph": {"added": added, "removed": removed, "changed": changed}, "nodes": nodes})
}

fn is_other_spec(base: &Log, head: &Log, id: &str) -> bool {
    let spec = |log: &Log| {
        log.graph.as_ref().and_then(|graph| graph_nodes(graph).iter().find(|node| text(node, "id") == id).cloned())
    };
    spec(base).zip(spec(head)).is_some_and(|(was, is)| was != is)
}

fn figures(node: &Node<'_>) -> Value {
    json!({"status": node.status, "attempts": node.attempts.len(), "duration_s": node.running_ms as f64 / 1000.0})
}

fn failing(node: &Node<'_>) -> Vec<String> {
    let checks =
        node.attempts.last().and_then(|last| last["done_when_results"].as_array()).cloned().unwrap_or_default();
    checks.iter().filter(|check| check["rc"] != 0).map(|check| text(check, "cmd").to_owned()).collect()
}

fn change(was: &Node<'_>, is: &Node<'_>, is_other_spec: bool) -> &'static str {
    let more = is.running_ms - was.running_ms;
    let counts = more.abs() > 5000 && more.abs() * 5 > was.running_ms && ["done", "failed"].contains(&is.status);
    if is.status == "failed" && was.status != "failed" {
        "newly_failed"
    } else if is.status == "blocked" && was.status != "blocked" {
        "newly_blocked"
    } else if is.status == "done" && ["failed", "blocked"].contains(&was.status) {
        "fixed"
    } else if is.status != was.status || is_other_spec {
        "changed"
    } else if counts {
        if more > 0 { "slower" } else { "faster" }
    } else if is.status == "done" && is.attempts.len() > was.attempts.len() {
        "flakier"
    } else {
        "same"
    }
}

fn is_worse(base: &Log, head: &Log) -> bool {
    let place = |log: &Log| -> Option<usize> {
        let outcome = text(end(log)?, "outcome");
        let ci = ["clean", "clean_with_flake", "partial", "stuck", "catastrophic"];
        let agent = ["converged", "partial", "escaped"];
        match kind(log)? {
            "ci" => ci.iter().position(|name| *name == outcome),
            _ => agent.iter().position(|name| *name == if outcome == "aborted" { "escaped" } else { outcome }),
        }
    };
    kind(base) == kind(head) && place(base).zip(place(head)).is_some_and(|(was, is)| is > was)
}
