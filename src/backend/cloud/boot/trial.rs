//! The walls, tried: as the server's own role, between the two tenants that V002 reserves for it, in a transaction that
//! is rolled back. A policy may look right and let everything through.

use futures_util::future::{join, join_all, join3};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::BootRefusal;
use super::walls::TenantTable;

const A: &str = "00000000-0000-4000-8000-00000000000a";
const B: &str = "00000000-0000-4000-8000-00000000000b";
const NOBODY: &str = "";

/// What an attempt has to come to.
#[derive(Clone, Copy)]
enum Wanted {
    /// One row.
    Own,
    /// No row, or no right to ask at all.
    Nothing,
    /// Refused.
    Refusal,
}

/// Something that is tried, and what it would mean if it came to anything else.
struct Attempt {
    /// Whose transaction it is; none leaves that as it is.
    tenant: Option<&'static str>,
    statement: String,
    wanted: Wanted,
    otherwise: &'static str,
}

/// Makes a row of A in each table that the server may add to, then tries to get at it as B and as nobody. No row has a key that
/// another server's trial would have, so that two at once do not wait for each other.
pub(super) async fn walls(client: &Client, tables: &[TenantTable]) -> Result<(), BootRefusal> {
    client.batch_execute("BEGIN; SAVEPOINT trial").await?;
    for table in tables {
        // A connection that never had a tenant: the setting does not exist yet.
        let statement = format!("SELECT FROM {} LIMIT 1", table.sql);
        let otherwise = "rows are seen where no tenant was ever set";
        let attempt = Attempt { tenant: None, statement, wanted: Wanted::Nothing, otherwise };
        let outcome = undone(client, &attempt).await;
        judge(table, &attempt, outcome)?;
    }
    set_tenant(client, A).await?;
    make_rows(client, tables).await?;
    client.batch_execute("SAVEPOINT trial").await?;
    for table in tables {
        // Few enough to be sent in their order, in one trip.
        let attempts = attempts(table);
        let outcomes = join_all(attempts.iter().map(|attempt| undone(client, attempt))).await;
        for (attempt, outcome) in attempts.iter().zip(outcomes) {
            judge(table, attempt, outcome)?;
        }
    }
    client.batch_execute("ROLLBACK").await?;
    Ok(())
}

async fn set_tenant(client: &Client, tenant: &str) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(&format!("SELECT set_config('kahn.tenant_id', '{tenant}', true)")).await
}

/// A row of A in each table. Those that refer to others come after these, in whatever order the tables are.
async fn make_rows(client: &Client, tables: &[TenantTable]) -> Result<(), BootRefusal> {
    let name = format!("probe-{}", Uuid::new_v4());
    let mut waiting: Vec<&TenantTable> = tables.iter().filter(|table| table.insertable).collect();
    loop {
        let mut referring = Vec::new();
        let mut reason = String::new();
        let before = waiting.len();
        for table in waiting {
            let statement = insertion(table, &name)?;
            let (marked, made) =
                join(client.batch_execute("SAVEPOINT made"), client.execute_typed(&statement, &[])).await;
            marked?;
            let Err(error) = made else { continue };
            client.batch_execute("ROLLBACK TO SAVEPOINT made").await?;
            let told = error.as_db_error().map_or_else(|| error.to_string(), |refusal| refusal.message().to_owned());
            if error.code() != Some(&SqlState::FOREIGN_KEY_VIOLATION) {
                return Err(BootRefusal::Untried { table: table.name.clone(), reason: told });
            }
            reason = told;
            referring.push(table);
        }
        match referring.first() {
            None => return Ok(()),
            Some(table) if referring.len() == before => {
                return Err(BootRefusal::Untried { table: table.name.clone(), reason });
            }
            Some(_) => waiting = referring,
        }
    }
}

/// A row of A with something in each column that cannot be empty. The same name everywhere, so that rows fit together.
fn insertion(table: &TenantTable, name: &str) -> Result<String, BootRefusal> {
    let mut columns = "tenant_id".to_owned();
    let mut values = format!("'{A}'");
    for (column, kind) in table.columns.iter().zip(&table.types) {
        let value = match (column.as_str(), kind.as_str()) {
            ("scope", "text") => "'read'".to_owned(),
            (_, "text" | "character varying") => format!("'{name}'"),
            (_, "uuid") => "gen_random_uuid()".to_owned(),
            // As long as a key's hash has to be.
            (_, "bytea") => "sha256('')".to_owned(),
            (_, "smallint" | "integer" | "bigint" | "numeric" | "real" | "double precision") => "1".to_owned(),
            (_, "boolean") => "false".to_owned(),
            // A day that no other trial has.
            (_, "date") => "date '0001-01-01' + (random() * 3000000)::integer".to_owned(),
            (_, "timestamp with time zone" | "timestamp without time zone") => "now()".to_owned(),
            (_, array) if array.ends_with("[]") => "'{}'".to_owned(),
            (column, kind) => {
                let reason = format!("nothing is known to put into {column}, which is a {kind}");
                return Err(BootRefusal::Untried { table: table.name.clone(), reason });
            }
        };
        columns.push_str(&format!(", \"{}\"", column.replace('"', "\"\"")));
        values.push_str(&format!(", {value}"));
    }
    Ok(format!("INSERT INTO {} ({columns}) VALUES ({values})", table.sql))
}

/// All that is tried with one table.
fn attempts(table: &TenantTable) -> Vec<Attempt> {
    use Wanted::{Nothing, Own, Refusal};
    let sql = &table.sql;
    let column = table.updatable.as_deref().unwrap_or("tenant_id");
    let see = format!("SELECT FROM {sql} WHERE tenant_id = '{A}' LIMIT 1");
    let others = format!("SELECT FROM {sql} WHERE tenant_id IS DISTINCT FROM '{B}' LIMIT 1");
    let any = format!("SELECT FROM {sql} LIMIT 1");
    let change = format!("UPDATE {sql} SET {column} = {column} WHERE tenant_id = '{A}'");
    let take = format!("UPDATE {sql} SET tenant_id = '{B}' WHERE tenant_id = '{A}'");
    let delete = format!("DELETE FROM {sql} WHERE tenant_id = '{A}'");
    // The wall is looked at before any other column is.
    let insert = format!("INSERT INTO {sql} (tenant_id) VALUES ('{A}')");
    let attempt = |tenant, statement: &str, wanted, otherwise| Attempt {
        tenant: Some(tenant),
        statement: statement.to_owned(),
        wanted,
        otherwise,
    };
    let mut attempts = Vec::new();
    if table.insertable {
        attempts.push(attempt(A, &see, Own, "a tenant does not see its own row"));
    }
    attempts.extend([
        attempt(B, &others, Nothing, "one tenant reads another one's row"),
        attempt(B, &change, Nothing, "one tenant changes another one's row"),
        attempt(B, &delete, Nothing, "one tenant deletes another one's row"),
        attempt(B, &insert, Refusal, "one tenant adds a row to another one's"),
        attempt(A, &take, Refusal, "one tenant moves its row to another one"),
        attempt(B, &take, Nothing, "one tenant takes another one's row"),
        attempt(NOBODY, &any, Nothing, "rows are seen where no tenant is set"),
        attempt(NOBODY, &change, Nothing, "rows are changed where no tenant is set"),
        attempt(NOBODY, &delete, Nothing, "rows are deleted where no tenant is set"),
        attempt(NOBODY, &insert, Refusal, "rows are added where no tenant is set"),
    ]);
    attempts
}

/// The number of rows that an attempt came to; whatever it did is undone.
async fn undone(client: &Client, attempt: &Attempt) -> Result<u64, tokio_postgres::Error> {
    let (set, came_to, undone) = join3(
        async {
            match attempt.tenant {
                Some(tenant) => set_tenant(client, tenant).await,
                None => Ok(()),
            }
        },
        client.execute_typed(&attempt.statement, &[]),
        client.batch_execute("ROLLBACK TO SAVEPOINT trial"),
    )
    .await;
    set?;
    undone?;
    came_to
}

fn judge(
    table: &TenantTable,
    attempt: &Attempt,
    came_to: Result<u64, tokio_postgres::Error>,
) -> Result<(), BootRefusal> {
    let is_held = match (attempt.wanted, came_to) {
        (Wanted::Own, Ok(rows)) => rows == 1,
        (Wanted::Nothing, Ok(rows)) => rows == 0,
        (Wanted::Refusal, Ok(_)) => false,
        // The wall's refusal and that of a right which is not there.
        (_, Err(error)) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            !matches!(attempt.wanted, Wanted::Own)
        }
        // Time is up, somebody has locked the table, the connection broke: that says nothing of the wall.
        (_, Err(error)) if error.code().is_none_or(|code| !code.code().starts_with("23")) => return Err(error.into()),
        // A key or a check was looked at, so the wall had let it through.
        (_, Err(_)) => false,
    };
    if is_held { Ok(()) } else { Err(fails(table, attempt.otherwise)) }
}

fn fails(table: &TenantTable, what: &'static str) -> BootRefusal {
    BootRefusal::WallFails { table: table.name.clone(), what, mend: table.mend() }
}
