//! Lists: filter, order, page and count by the columns that `reduce` wrote. SQL computes no other figure, and the rows
//! come back out of the summary's JSON.

use tokio_postgres::types::{ToSql, Type};

use super::scope::{Parameter, Query};
use crate::contract::{Filter, ListPosition, ListQuery, Order, Selection, Sort};
use crate::domain::Timestamp;
use crate::domain::event::Kind;
use crate::reduce::summary::Phase;

/// What a row of a list is made of.
pub(super) const LISTED: &str = "run_id, changed::text, fold_version, summary";

/// The statement that selects the runs of an aggregate with the versions of their rows, and its parameters: the same as [`Selection::fits`], word for word.
pub(super) struct SelectionSql {
    pub(super) sql: String,
    kind: Option<&'static str>,
    last_event_from: Option<i64>,
}

impl SelectionSql {
    pub(super) fn of(selection: Selection) -> Self {
        let of_agents = if selection.of_agents { "AND agent_id IS NOT NULL" } else { "" };
        let sql = format!(
            "SELECT run_id, changed::text, octet_length(summary)::bigint FROM runs WHERE deleted_at IS NULL {of_agents} AND ($1::text IS NULL OR kind = $1) \
             AND ($2::bigint IS NULL OR last_event >= $2) ORDER BY started NULLS LAST, run_id"
        );
        Self {
            sql,
            kind: selection.kind.map(Kind::as_str),
            last_event_from: selection.last_event_from.map(Timestamp::millis),
        }
    }

    pub(super) fn parameters(&self) -> [Parameter<'_>; 2] {
        [(&self.kind, Type::TEXT), (&self.last_event_from, Type::INT8)]
    }
}

/// The statement of a page and that of its total, with their parameters.
pub(super) struct ListSql {
    page: String,
    total: String,
    /// Those of the filter, then those of the position.
    values: Vec<(Box<dyn ToSql + Sync + Send>, Type)>,
    filter_values: usize,
}

impl ListSql {
    pub(super) fn of(query: &ListQuery) -> Self {
        let mut sql = Self { page: String::new(), total: String::new(), values: Vec::new(), filter_values: 0 };
        let filter = sql.filter(&query.filter);
        sql.filter_values = sql.values.len();
        sql.total = format!("SELECT count(*) FROM runs WHERE {filter}");
        let column = match query.sort {
            Sort::Started => "started",
            Sort::Duration => "duration_s",
            Sort::Outcome => "outcome_rank",
        };
        let (direction, behind) = match query.order {
            Order::Desc => ("DESC", "<"),
            Order::Asc => ("ASC", ">"),
        };
        let order = format!("{column} {direction} NULLS LAST, run_id");
        // One more than wanted says whether more follow.
        let limit = i64::try_from(query.limit).unwrap_or(i64::MAX).saturating_add(1);
        sql.page = match &query.position {
            ListPosition::Offset(rows) => {
                let rows = sql.bind(i64::try_from(*rows).unwrap_or(i64::MAX), Type::INT8);
                let limit = sql.bind(limit, Type::INT8);
                format!("SELECT {LISTED} FROM runs WHERE {filter} ORDER BY {order} OFFSET {rows} LIMIT {limit}")
            }
            ListPosition::After(key) => {
                let run_id = sql.bind(key.run_id.as_str().to_owned(), Type::TEXT);
                let limit = sql.bind(limit, Type::INT8);
                let part = |behind: String| {
                    format!(
                        "(SELECT {LISTED}, {column} FROM runs WHERE {filter} AND {behind} ORDER BY {order} LIMIT {limit})"
                    )
                };
                let nulls = |behind: String| part(format!("{column} IS NULL{behind}"));
                match key.value {
                    Some(value) => {
                        let value = sql.sort_key(query.sort, value);
                        // The bound that the index starts from stands alone; what follows only parts equal ones.
                        let rest = part(format!(
                            "{column} {behind}= {value} AND ({column} {behind} {value} OR run_id > {run_id})"
                        ));
                        format!(
                            "SELECT {LISTED} FROM ({rest} UNION ALL {}) AS following ORDER BY {order} LIMIT {limit}",
                            nulls(String::new())
                        )
                    }
                    None => nulls(format!(" AND run_id > {run_id}")),
                }
            }
        };
        sql
    }

    /// What a page has to be asked, once the parameters are borrowed.
    pub(super) fn parameters(&self) -> Vec<Parameter<'_>> {
        self.values.iter().map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone())).collect()
    }

    /// The page's query, then the total's.
    pub(super) fn queries<'a>(&'a self, parameters: &'a [Parameter<'a>]) -> [Query<'a>; 2] {
        let filter_values = parameters.get(..self.filter_values).unwrap_or_default();
        [Query { sql: &self.page, parameters }, Query { sql: &self.total, parameters: filter_values }]
    }

    fn bind(&mut self, value: impl ToSql + Sync + Send + 'static, kind: Type) -> String {
        self.values.push((Box::new(value), kind));
        format!("${}", self.values.len())
    }

    /// A cursor's value, of the type of its column: of another one no index is used.
    #[expect(clippy::cast_possible_truncation, reason = "whole milliseconds below 2^53, and ranks")]
    fn sort_key(&mut self, sort: Sort, value: f64) -> String {
        match sort {
            // A cursor is anybody's to write: what is no millisecond is between two of them.
            Sort::Started if value.fract() == 0.0 => self.bind(value as i64, Type::INT8),
            Sort::Started | Sort::Duration | Sort::Outcome => self.bind(value, Type::FLOAT8),
        }
    }

    /// A wanted text. Postgres takes no NUL; what stands for it is in no column, so it fits no run.
    fn text(&mut self, value: &str) -> String {
        self.bind(value.replace('\0', "\u{fffd}"), Type::TEXT)
    }

    /// The same as [`Filter::fits`], word for word.
    fn filter(&mut self, filter: &Filter) -> String {
        let mut conditions = vec!["deleted_at IS NULL".to_owned()];
        let mut all = |condition: String| conditions.push(condition);
        if filter.without_agents {
            let agent = self.text(Kind::Agent.as_str());
            all(format!("kind IS DISTINCT FROM {agent}"));
        }
        if let Some(kind) = filter.kind {
            let kind = self.text(kind.as_str());
            all(format!("kind = {kind}"));
        }
        if let Some(phase) = filter.phase {
            let silent_since =
                filter.now.millis().saturating_sub(i64::try_from(filter.stall_after_ms).unwrap_or(i64::MAX));
            match phase {
                Phase::Ended => all("ended".to_owned()),
                Phase::Stalled => {
                    let since = self.bind(silent_since.min(filter.now.millis()), Type::INT8);
                    all(format!("NOT ended AND last_event <= {since}"));
                }
                Phase::Live => {
                    let since = self.bind(silent_since.min(filter.now.millis()), Type::INT8);
                    all(format!("NOT ended AND (last_event IS NULL OR last_event > {since})"));
                }
            }
        }
        if let Some(outcome) = filter.outcome {
            let outcome = self.text(outcome.as_str());
            all(format!("outcome = {outcome}"));
        }
        if let Some(agent_id) = &filter.agent_id {
            let agent_id = self.text(agent_id);
            all(format!("agent_id = {agent_id}"));
        }
        if let Some(node_id) = &filter.node_id {
            let node_id = self.text(node_id);
            all(format!("{node_id} = ANY (node_ids)"));
        }
        if let Some(parent) = &filter.parent {
            let parent = self.text(parent);
            all(format!("parent_run_id = {parent}"));
        }
        if let Some(part) = &filter.q {
            let part = self.text(part);
            all(format!("strpos(run_id, {part}) > 0"));
        }
        let moments =
            [(filter.last_event_from, "last_event >="), (filter.since, "started >="), (filter.until, "started <")];
        for (moment, comparison) in moments {
            if let Some(moment) = moment {
                let moment = self.bind(moment.millis(), Type::INT8);
                all(format!("{comparison} {moment}"));
            }
        }
        if let Some(moment) = filter.started_by {
            let moment = self.bind(moment.millis(), Type::INT8);
            all(format!("(started IS NULL OR started <= {moment})"));
        }
        conditions.join(" AND ")
    }
}
