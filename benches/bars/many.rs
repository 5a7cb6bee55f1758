//! A hundred thousand runs beside ten thousand: nothing is answered from memory, each request has another as_of.

use crate::archives::Archives;
use crate::http::Connection;
use crate::measure::{Row, pairs, ratio, seconds, sides, span};
use crate::process::Process;

/// A list costs the same, whatever more there is; half as much again is noise.
const FLAT: f64 = 1.5;
/// What looks at every run costs ten times as much for ten times as many; a fifth is noise.
const LINEAR: f64 = 12.0;

/// Pages, filters, sorts, aggregates.
pub(crate) fn runs(archives: &mut Archives, rows: &mut Vec<Row>) {
    let [few, many] = archives.short();
    let servers = [Process::serving(&few), Process::serving(&many)];
    let sides = servers.each_ref().map(|server| Side::open(Connection::open(&server.address).expect("it listens")));
    compare(archives, rows, sides);
}

/// The rows, given who has few runs and who has many.
pub(crate) fn compare(archives: &Archives, rows: &mut Vec<Row>, sides_of: [Side; 2]) {
    let [mut few, mut many] = sides_of;
    for (what, path, most) in [
        ("list, first page", "/api/runs?limit=50", FLAT),
        ("list, a page from the middle by cursor", "cursor", FLAT),
        ("list, a page from the middle by offset", "offset", FLAT),
        ("filter kind=ci", "/api/runs?limit=50&kind=ci", LINEAR),
        ("filter q", "/api/runs?limit=50&q=er-1", LINEAR),
        ("filter phase=live", "/api/runs?limit=50&phase=live", LINEAR),
        ("filter node_id", "/api/runs?limit=50&node_id=docs-0", LINEAR),
        ("window=7d", "/api/runs?limit=50&window=7d", LINEAR),
        ("sort=duration", "/api/runs?limit=50&sort=duration", LINEAR),
        ("agents aggregate", "/api/agent-runs/aggregate?window=all", LINEAR),
        ("audit flakiness", "/api/audit-checkpoints/flakiness?window=all", LINEAR),
        ("node flakiness", "/api/nodes/flakiness?window=all", LINEAR),
    ] {
        let what = format!("100,000 runs beside 10,000: {what}");
        let is_there = (many.status(path), few.status(path));
        if is_there != (200, 200) {
            rows.push(Row::open(&what, format!("it answers {}", is_there.0)));
            continue;
        }
        let figures = pairs(archives.times(45), |_| few.ask(path), |_| many.ask(path));
        let mut row = Row::at_most(&what, sides(&figures, span), ratio(&figures), most);
        row.bar = format!("{} ({})", if most > LINEAR / 2.0 { "linear at most" } else { "flat" }, row.bar);
        rows.push(row);
    }
}

/// One of the two, and what it was asked.
pub(crate) struct Side {
    connection: Connection,
    cursor: String,
    total: u64,
    asked: usize,
}

impl Side {
    pub(crate) fn open(mut connection: Connection) -> Self {
        // Half way by offset, then on by cursor.
        let total = total(&mut connection, "/api/runs?limit=1");
        let offset = format!("/api/runs?limit=50&offset={}&as_of=2027-01-01T00:00:00.000Z", total / 2);
        let body = connection.get(&offset).expect("it answers").body;
        let page: serde_json::Value = serde_json::from_slice(&body).expect("a list");
        let cursor = page["next_cursor"].as_str().expect("more").to_owned();
        Self { connection, cursor, total, asked: 0 }
    }

    fn path(&self, path: &str) -> String {
        let at = self.asked;
        match path {
            "cursor" => format!("/api/runs?limit={}&cursor={}", 40 + at % 20, self.cursor),
            "offset" => {
                let offset = self.total / 2 + at as u64 % 1000;
                format!("/api/runs?limit=50&offset={offset}&as_of=2027-01-01T00:00:00.000Z")
            }
            _ => {
                let joint = if path.contains('?') { '&' } else { '?' };
                format!("{path}{joint}as_of=2026-11-01T00:{:02}:{:02}.000Z", at / 60 % 60, at % 60)
            }
        }
    }

    fn status(&mut self, path: &str) -> u16 {
        let path = self.path(path);
        self.connection.get(&path).expect("it answers").status
    }

    fn ask(&mut self, path: &str) -> f64 {
        self.asked += 1;
        let path = self.path(path);
        seconds(|| {
            let answer = self.connection.get(&path).expect("it answers");
            assert_eq!(answer.status, 200);
        })
    }
}

fn total(connection: &mut Connection, path: &str) -> u64 {
    let body = connection.get(path).expect("it answers").body;
    let page: serde_json::Value = serde_json::from_slice(&body).expect("a list");
    page["total"].as_u64().expect("a number")
}
