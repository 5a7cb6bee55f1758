//! A comparison for people: text for a terminal, Markdown for a comment.

use super::answer::{Answer, Figures, Node, Row};
use crate::cli::print::short;

/// The lines for a terminal.
pub(super) fn text(answer: &Answer) -> Vec<String> {
    let mut lines = table(&[run_cells("base", &answer.base), run_cells("head", &answer.head)]);
    lines.push(String::new());
    lines.push(verdict(answer));
    if let Some(graph) = graph(answer) {
        lines.push(format!("{graph}."));
    }
    let told: Vec<&Node> = told(answer).collect();
    if !told.is_empty() {
        lines.push(String::new());
        let mut rows = vec![["NODE", "CHANGE", "BASE", "HEAD"].map(str::to_owned).to_vec()];
        rows.extend(told.iter().map(|node| {
            vec![node.node_id.clone(), words(&node.change), figures(node.base.as_ref()), figures(node.head.as_ref())]
        }));
        for (at, row) in table(&rows).into_iter().enumerate() {
            lines.push(row);
            let checks =
                at.checked_sub(1).and_then(|at| told.get(at)).map_or(&[][..], |node| &node.newly_failing_checks);
            lines.extend(checks.iter().map(|cmd| format!("    newly failing: {}", short(cmd))));
        }
    }
    if let Some(rest) = rest(answer) {
        lines.push(rest);
    }
    lines
}

/// The lines of a Markdown comment.
pub(super) fn markdown(answer: &Answer) -> Vec<String> {
    let (base, head) = (&answer.base, &answer.head);
    let mut lines = vec![
        format!("### `{}` → `{}`", base.run_id, head.run_id),
        String::new(),
        format!("**{}**", verdict(answer)),
        String::new(),
        "| | run | outcome | took | |".to_owned(),
        "|---|---|---|---|---|".to_owned(),
    ];
    for (side, row) in [("base", base), ("head", head)] {
        let cells = [format!("`{}`", row.run_id), outcome(row), span(row.duration_s), counts(row)];
        lines.push(format!("| {side} | {} |", cells.join(" | ")));
    }
    if let Some(graph) = graph(answer) {
        lines.extend([String::new(), format!("{graph}.")]);
    }
    if told(answer).next().is_some() {
        lines.push(String::new());
        lines.push("| node | change | base | head | newly failing checks |".to_owned());
        lines.push("|---|---|---|---|---|".to_owned());
    }
    lines.extend(told(answer).map(|node| {
        let checks: Vec<String> = node.newly_failing_checks.iter().map(|cmd| code(&short(cmd))).collect();
        format!(
            "| `{}` | {} | {} | {} | {} |",
            node.node_id,
            words(&node.change),
            figures(node.base.as_ref()),
            figures(node.head.as_ref()),
            checks.join("<br>")
        )
    }));
    if let Some(rest) = rest(answer) {
        lines.extend([String::new(), rest]);
    }
    lines
}

fn verdict(answer: &Answer) -> String {
    let regression = if answer.regression { "Regression: " } else { "" };
    format!("{regression}{}", answer.summary)
}

fn graph(answer: &Answer) -> Option<String> {
    let graph = &answer.graph;
    let parts: Vec<String> = [("added", &graph.added), ("removed", &graph.removed), ("changed", &graph.changed)]
        .into_iter()
        .filter(|(_, nodes)| !nodes.is_empty())
        .map(|(word, nodes)| format!("{} {word}", nodes.len()))
        .collect();
    (!parts.is_empty()).then(|| format!("Nodes of the graph: {}", parts.join(", ")))
}

/// The nodes of which there is something to tell.
fn told(answer: &Answer) -> impl Iterator<Item = &Node> {
    answer.nodes.iter().filter(|node| node.change != "same" || !node.newly_failing_checks.is_empty())
}

fn rest(answer: &Answer) -> Option<String> {
    match answer.nodes.len() - told(answer).count() {
        0 => None,
        1 => Some("1 node is the same.".to_owned()),
        same => Some(format!("{same} nodes are the same.")),
    }
}

fn run_cells(side: &str, row: &Row) -> Vec<String> {
    vec![side.to_owned(), row.run_id.clone(), outcome(row), span(row.duration_s), counts(row)]
}

fn outcome(row: &Row) -> String {
    words(row.outcome.as_deref().unwrap_or(&row.phase))
}

/// What was counted of a run, in short.
fn counts(row: &Row) -> String {
    let mut parts = Vec::new();
    if let Some(nodes) = &row.nodes {
        parts.push(format!("{} of {} nodes done", nodes.done, nodes.total));
        for (count, word) in [(nodes.failed, "failed"), (nodes.blocked, "blocked")] {
            if count > 0 {
                parts.push(format!("{count} {word}"));
            }
        }
    }
    if let Some(calls) = &row.tool_calls {
        parts.push(format!("{} tool calls, {} failed", calls.total, calls.failed));
    }
    if let Some(score) = row.convergence_score {
        parts.push(format!("score {score:.3}"));
    }
    parts.join(", ")
}

fn figures(figures: Option<&Figures>) -> String {
    match figures {
        None => "-".to_owned(),
        Some(node) if node.attempts > 1 => {
            format!("{} x{}, {}", node.status, node.attempts, span(Some(node.duration_s)))
        }
        Some(node) if node.attempts == 0 => node.status.clone(),
        Some(node) => format!("{}, {}", node.status, span(Some(node.duration_s))),
    }
}

fn span(span_s: Option<f64>) -> String {
    span_s.map_or_else(|| "-".to_owned(), |span_s| format!("{span_s:.1} s"))
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// Rows in columns; the last one is as wide as it likes.
fn table(rows: &[Vec<String>]) -> Vec<String> {
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0))
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let padded = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(padded).collect()
}

/// A command as code in a cell of a table: nothing in it ends the code or the cell.
fn code(text: &str) -> String {
    let text = text.replace(char::is_control, " ").replace('|', "\\|");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // A space keeps a backtick at the edge from joining the fence, and is taken off again.
    let edge = if longest > 0 { " " } else { "" };
    format!("{fence}{edge}{text}{edge}{fence}")
}
