//! The cloud kitchen: Postgres, a row a run, a wall around each tenant.
//!
//! `scope.rs` is the one door to tenants' data; `tally.rs` counts who went through. All else stands before it (`access.rs`,
//! `keys.rs`, `api_keys.rs`: who asks; `rate_limit.rs`: how much), behind it (`store.rs`, `append.rs`, `list.rs`, `summaries.rs`, `follow.rs`), or has a connection of its own
//! (`boot.rs`, `migrate.rs`, `tenant.rs`). `lines.rs` and `stored.rs` know how a run is kept, `cache.rs` what is held of it in memory,
//! `reindex.rs` makes it again.

mod access;
mod account;
mod addresses;
mod api_keys;
mod append;
mod ask;
mod bearer;
mod billing;
mod boot;
mod bucket;
mod cache;
mod claims;
mod commands;
mod discovery;
mod failures;
mod follow;
mod introspect;
mod jwks;
mod jws;
mod keys;
mod lines;
mod list;
mod migrate;
mod pool;
mod provider;
mod rate_limit;
mod reindex;
mod retention;
mod scope;
mod scrape;
mod secret;
mod session;
mod settings;
mod store;
mod stored;
mod summaries;
mod tally;
mod tenant;
mod tenants;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use self::boot::BootRefusal;
pub use self::commands::Command;
use self::pool::Database;
use self::scrape::ScrapeOptions;
use self::settings::{Entry, EntryOptions};
use crate::config::{self, BootError, Config, Defaults};
use crate::contract::{Backend, Description};

/// The mode that this binary was built for.
pub const MODE: &str = "cloud";

const DATABASE_URL: &str = "KAHN_DATABASE_URL";
/// The owner's, for commands alone.
const ADMIN_DATABASE_URL: &str = "KAHN_ADMIN_DATABASE_URL";
/// What has no flag.
const ENVIRONMENT: &str = "\
From the environment alone:
  KAHN_DATABASE_URL        DSN of the server's role, as in postgres://kahn_app:PASSWORD@HOST:5432/DATABASE
  KAHN_AUTH=keys-only      API keys as the only way in, without an identity provider
  KAHN_OIDC_CLIENT_SECRET  the client's secret, where there is no file
  KAHN_SESSION_KEY         what seals browser sessions, where there is no file";
const DEFAULT_POOL: usize = 10;
/// Connections of a command: it does one thing after the other.
const COMMAND_POOL: usize = 2;
const DEFAULT_MEMORY_MB: u64 = 256;
const MOST_MEMORY_MB: u64 = 1024 * 1024;
const DEFAULT_RETENTION_EVERY: Duration = Duration::from_secs(60 * 60);

/// Options of `kahn serve` that only this build has, as they were typed. What holds a password is read from the
/// environment alone: arguments are for everybody on the machine to see.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = ENVIRONMENT)]
pub struct Options {
    /// Connections to the database at the most [default: 10]
    #[arg(long, env = "KAHN_DATABASE_POOL", value_name = "N")]
    database_pool: Option<String>,
    /// PEM file with the certificate of the database's authority, instead of the web's
    #[arg(long, env = "KAHN_DATABASE_CA_FILE", value_name = "FILE")]
    database_ca_file: Option<PathBuf>,
    /// MiB of memory for runs that were read or written lately [default: 256]
    #[arg(long, env = "KAHN_MEMORY_MB", value_name = "N")]
    memory_mb: Option<String>,
    /// Seconds between looks for runs that are past their days [default: 3600]
    #[arg(long, env = "KAHN_RETENTION_EVERY", value_name = "SECONDS")]
    retention_every: Option<String>,
    /// The other build's; here only so that the refusal can say what to do.
    #[arg(long, hide = true, value_name = "DIR")]
    archive: Option<PathBuf>,
    /// The other build's; here only so that the refusal can say what to do.
    #[arg(long, hide = true, value_name = "DIR")]
    fixture_dir: Option<PathBuf>,
    /// The DSN, where it is not to come from the environment.
    #[arg(skip)]
    database_url: Option<String>,
    #[command(flatten)]
    entry: EntryOptions,
    #[command(flatten)]
    scrape: ScrapeOptions,
}

impl Options {
    /// Options for this database and a pool of this size, with API keys as the way in; the environment is not read.
    pub fn keys_only(database_url: impl Into<String>, pool: usize) -> Self {
        Self {
            database_url: Some(database_url.into()),
            database_pool: Some(pool.to_string()),
            entry: EntryOptions::keys_only(),
            ..Self::default()
        }
    }

    /// What holds where nothing was typed.
    pub fn defaults() -> Defaults {
        let port = config::env("PORT").unwrap_or_else(|| "8080".to_owned());
        Defaults { bind: format!("0.0.0.0:{port}"), agent_views: false }
    }

    /// A sentence for each mistake in these options, given the rest of the configuration.
    pub fn mistakes(&self, _config: &Config) -> Vec<String> {
        let mut mistakes = Vec::new();
        for (flag, given) in [("--archive", &self.archive), ("--fixture-dir", &self.fixture_dir)] {
            if given.is_some() {
                mistakes.push(format!(
                    "{flag} belongs to the oss build; this is the cloud build, which keeps runs in Postgres and reads \
                     no archive: build the other one with cargo install kahn --features oss"
                ));
            }
        }
        let own = [self.pool_size().err(), self.memory_mb().err(), self.retention_every().err()];
        mistakes.extend(own.into_iter().flatten());
        mistakes.extend(self.database().err().map(|refusal| refusal.to_string()));
        mistakes.extend(self.entry.check().err().into_iter().flatten().map(|mistake| mistake.to_string()));
        mistakes.extend(self.scrape.check().err().map(|mistake| mistake.to_string()));
        mistakes
    }

    /// What this backend is with these options; opens nothing.
    pub fn describe(&self, _config: &Config) -> Description {
        let storage = match self.database() {
            Ok(database) => format!("Postgres at {}, as {}", database.place(), database.user()),
            Err(_) => format!("Postgres ({DATABASE_URL} names none that can be used)"),
        };
        let keys = "API keys, looked up again after a second";
        let auth = match self.entry.check() {
            Ok(Entry { provider: None, .. }) => keys.to_owned(),
            Ok(Entry { provider: Some(provider), .. }) => {
                format!("tokens of {} for {}, JWT or opaque; {keys}", provider.issuer, provider.audience)
            }
            Err(_) => "none that can be used (KAHN_OIDC_ISSUER or KAHN_AUTH)".to_owned(),
        };
        Description {
            serves: "many tenants, behind the platform's TLS",
            reach: "every machine that can reach this address".to_owned(),
            storage,
            auth,
            tenancy: "row-level security, keyed on a setting of each transaction",
            rate_limit: "a token bucket of events and one of requests a tenant, rate and burst from its plan; counted in this one process",
            boot_checks: boot::checks(),
        }
    }

    fn pool_size(&self) -> Result<usize, String> {
        match self.database_pool.as_deref().map(|text| (text, text.parse())) {
            None => Ok(DEFAULT_POOL),
            Some((_, Ok(size))) if size > 0 => Ok(size),
            Some((text, _)) => Err(format!(
                "--database-pool (KAHN_DATABASE_POOL) is {text:?}, which is no whole number from 1; write it as --database-pool {DEFAULT_POOL}"
            )),
        }
    }

    fn memory_mb(&self) -> Result<u64, String> {
        match self.memory_mb.as_deref().map(|text| (text, text.parse())) {
            None => Ok(DEFAULT_MEMORY_MB),
            Some((_, Ok(size @ 1..=MOST_MEMORY_MB))) => Ok(size),
            Some((text, _)) => Err(format!(
                "--memory-mb (KAHN_MEMORY_MB) is {text:?}, which is no whole number from 1 to {MOST_MEMORY_MB}; write it as --memory-mb {DEFAULT_MEMORY_MB}"
            )),
        }
    }

    fn retention_every(&self) -> Result<Duration, String> {
        match self.retention_every.as_deref().map(|text| (text, text.parse::<u32>())) {
            None => Ok(DEFAULT_RETENTION_EVERY),
            Some((_, Ok(seconds))) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
            Some((text, _)) => Err(format!(
                "--retention-every (KAHN_RETENTION_EVERY) is {text:?}, which is no whole number of seconds from 1; leave it out for an hour"
            )),
        }
    }

    fn database(&self) -> Result<Database, BootRefusal> {
        let given = self.database_url.clone().or_else(|| config::env(DATABASE_URL));
        let dsn = given.ok_or(BootRefusal::NoDsn)?;
        Ok(Database::for_server(&dsn, DATABASE_URL, self.database_ca_file.as_deref())?)
    }

    /// Whether whoever gets at this process gets at the owner's DSN. Where the environment is not read, nobody asks.
    fn has_owners_dsn(&self) -> bool {
        self.database_url.is_none() && config::env(ADMIN_DATABASE_URL).is_some()
    }

    /// A door to the database once its checks have passed, for commands that work as the server does.
    async fn door(&self) -> Result<scope::Door, BootRefusal> {
        let database = self.database()?;
        boot::check(&database).await?;
        Ok(scope::Door::new(database.pool(COMMAND_POOL)?))
    }
}

/// Makes the backend; it exists only once its checks have passed.
///
/// # Errors
///
/// The refusal, as one sentence that says what mends it.
pub async fn select_backend(options: &Options, config: &Config) -> Result<Backend, BootError> {
    let mistakes = options.mistakes(config);
    if !mistakes.is_empty() {
        return Err(BootError::Configuration(mistakes));
    }
    Ok(open(options).await?)
}

async fn open(options: &Options) -> Result<Backend, BootRefusal> {
    let entry = options.entry.check().map_err(BootRefusal::Entry)?;
    let scrape = options.scrape.check().map_err(|mistake| BootRefusal::Entry(vec![mistake]))?;
    let database = options.database()?;
    let began = std::time::Instant::now();
    boot::check(&database).await?;
    let checked = began.elapsed().as_millis();
    let door = scope::Door::new(database.pool(options.pool_size().unwrap_or(DEFAULT_POOL))?);
    let runs = cache::Runs::new(options.memory_mb().unwrap_or(DEFAULT_MEMORY_MB) * 1024 * 1024);
    let feed = follow::Feed::start(&database, door.clone(), runs.clone())
        .await
        .map_err(|error| BootRefusal::Unfinished(error.to_string()))?;
    let way_in = match &entry.provider {
        None => "API keys are the only way in".to_owned(),
        Some(provider) => format!("the ways in are tokens of {} and API keys", provider.issuer),
    };
    log::info!("database {}: checks passed in {checked} ms; {way_in}", database.place());
    log::info!("rate limits are counted in this process, so they hold for one replica (railway.toml: numReplicas = 1)");
    if options.has_owners_dsn() {
        log::warn!(
            "{ADMIN_DATABASE_URL} is in this server's environment, and a server has no use for it; \
             leave it to kahn migrate and kahn tenant"
        );
    }
    let every = options.retention_every().unwrap_or(DEFAULT_RETENTION_EVERY);
    let retention = retention::Job::start(database.clone(), door.clone(), every);
    Ok(Backend {
        store: Arc::new(store::PostgresStore::new(door.clone(), feed, runs)),
        access: Arc::new(access::TenantAccess::new(door.clone(), entry, scrape)),
        account: Some(Arc::new(account::PostgresAccount::new(door, retention))),
        read_only: false,
    })
}

impl From<BootRefusal> for BootError {
    fn from(refusal: BootRefusal) -> Self {
        if refusal.is_configuration() {
            Self::configuration(refusal.to_string())
        } else {
            Self::Failure(refusal.to_string())
        }
    }
}
