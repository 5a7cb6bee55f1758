//! From a DSN to connections: TLS, limits that every connection of the server has, and the pool.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// What every connection of the server starts with: no statement, lock or forgotten transaction may hold others up,
/// and names mean what they say. As connection options, since a role's settings may be changed behind our back.
const SESSION: &str = "-c statement_timeout=10s -c idle_in_transaction_session_timeout=15s -c lock_timeout=3s \
                       -c search_path=public";

/// How long a peer may leave data unacknowledged before the connection counts as dead.
const DEAD_PEER: Duration = Duration::from_secs(15);

/// How long a request waits for a connection; past that the answer is 503, and the client comes again.
const WAIT: Duration = Duration::from_secs(5);

/// A DSN that cannot be used. None of its sentences holds the DSN itself, which may hold a password.
#[derive(Debug, thiserror::Error)]
pub(super) enum DsnError {
    /// It does not parse.
    #[error("{variable} is no connection string ({reason}); it looks like postgres://user:password@host:5432/database")]
    Malformed {
        /// The environment variable that gave it.
        variable: &'static str,
        /// Why not, in words that hold nothing of it.
        reason: &'static str,
    },
    /// The CA file cannot be read or holds no certificate.
    #[error(
        "the CA file {path} cannot be used ({reason}); set KAHN_DATABASE_CA_FILE to a PEM file with the certificate of the database's authority"
    )]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The TLS library refused its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// A database that can be connected to: parsed, with TLS ready.
#[derive(Clone)]
pub(super) struct Database {
    config: Config,
    tls: MakeRustlsConnect,
}

/// A connection's other half, which has to be driven for the client to get answers.
pub(super) type Driver = Connection<Socket, <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream>;

impl Database {
    /// The server's database: as the DSN says, with the limits of [`SESSION`].
    pub(super) fn for_server(dsn: &str, variable: &'static str, ca_file: Option<&Path>) -> Result<Self, DsnError> {
        let mut database = Self::for_owner(dsn, variable, ca_file)?;
        // Ours come last and win over what the DSN's own options say.
        let options = match database.config.get_options() {
            Some(given) => format!("{given} {SESSION}"),
            None => SESSION.to_owned(),
        };
        database.config.options(options);
        Ok(database)
    }

    /// The owner's database, for migrations and provisioning: these may take their time.
    pub(super) fn for_owner(dsn: &str, variable: &'static str, ca_file: Option<&Path>) -> Result<Self, DsnError> {
        let (dsn, root_certificate) = without_libpq_words(dsn);
        if has_strange_user(&dsn) {
            return Err(DsnError::Malformed { variable, reason: STRANGE_USER });
        }
        let mut config =
            Config::from_str(&dsn).map_err(|error| DsnError::Malformed { variable, reason: unparsed(&error) })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(DsnError::Malformed { variable, reason: "no host" });
        }
        if config.get_hosts().iter().any(has_at) {
            return Err(DsnError::Malformed { variable, reason: STRANGE_USER });
        }
        let leaves = config.get_hosts().iter().any(is_remote)
            || config.get_hostaddrs().iter().any(|address| !address.is_loopback());
        if !dsn.contains("sslmode=") && leaves {
            // The default of the protocol would go on in the clear with whoever answers that there is no TLS.
            config.ssl_mode(SslMode::Require);
        }
        if config.get_application_name().is_none() {
            config.application_name("kahn");
        }
        config.tcp_user_timeout(DEAD_PEER).keepalives_idle(DEAD_PEER);
        let ca_file = ca_file.map(Path::to_owned).or(root_certificate.map(PathBuf::from));
        Ok(Self { config, tls: tls(ca_file.as_deref())? })
    }

    /// One connection outside the pool.
    pub(super) async fn connect(&self) -> Result<(Client, Driver), tokio_postgres::Error> {
        self.config.connect(self.tls.clone()).await
    }

    /// One connection outside the pool, driven by a task that ends with it.
    pub(super) async fn client(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, mut driver) = self.connect().await?;
        tokio::spawn(async move {
            while let Some(message) = std::future::poll_fn(|context| driver.poll_message(context)).await {
                match message {
                    Ok(AsyncMessage::Notice(notice)) => log::debug!("database notice: {}", notice.message()),
                    Ok(_) => {}
                    Err(error) => {
                        log::debug!("a database connection ended: {}", root_cause(&error));
                        return;
                    }
                }
            }
        });
        Ok(client)
    }

    /// A pool of at most `size` connections, made as they are needed.
    pub(super) fn pool(&self, size: usize) -> Result<Pool, deadpool_postgres::BuildError> {
        // Fast: a look at whether the connection is open. That it comes back clean is scope.rs's promise.
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        Pool::builder(Manager::from_config(self.config.clone(), self.tls.clone(), manager))
            .max_size(size)
            .wait_timeout(Some(WAIT))
            .create_timeout(Some(WAIT))
            .runtime(Runtime::Tokio1)
            .build()
    }

    /// Where it is, for messages: host, port and database, and never the password.
    pub(super) fn place(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => self.config.get_hostaddrs().first().map(ToString::to_string).unwrap_or_default(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        format!("{host}:{port}")
    }

    /// The role that it logs in as, for messages.
    pub(super) fn user(&self) -> String {
        self.config.get_user().unwrap_or("(this system's user)").to_owned()
    }
}

/// Whether the way to this host leaves the machine.
fn is_remote(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            let is_loopback_address = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
            name != "localhost" && !is_loopback_address
        }
        Host::Unix(_) => false,
    }
}

/// What to do where a password may have been taken for something else. Nothing of it is repeated: it may be the password.
const STRANGE_USER: &str =
    "it has an @ or ? where none can be; write the user and the password percent-encoded, an @ as %40 and a ? as %3F";

/// Whether a part of the password would count as the host, or a part of the host as the user: the first @ ends the password.
fn has_strange_user(dsn: &str) -> bool {
    let Some(rest) = ["postgres://", "postgresql://"].iter().find_map(|scheme| dsn.strip_prefix(scheme)) else {
        return false;
    };
    let Some((credentials, rest)) = rest.split_once('@') else { return false };
    let user = credentials.split(':').next().unwrap_or_default();
    rest.contains('@') || credentials.contains('?') || user.contains('/')
}

/// Whether what counts as a host's name is the end of a password, and the host behind it.
fn has_at(host: &Host) -> bool {
    matches!(host, Host::Tcp(name) if name.contains('@'))
}

/// Why a DSN does not parse. The parser's own sentence may quote what it did not know, which may be a part of the password.
fn unparsed(error: &tokio_postgres::Error) -> &'static str {
    let said = root_cause(error);
    let cases = [
        ("option `port`", "its port is none"),
        ("option `sslmode`", "its sslmode is none of disable, prefer, require, verify-ca and verify-full"),
        ("invalid value for option", "one of its options has a value that it cannot have"),
        ("unknown option", "it has an option that is not known"),
    ];
    cases.iter().find(|(words, _)| said.contains(words)).map_or("it cannot be parsed", |(_, reason)| reason)
}

/// The innermost reason of an error: tokio-postgres' own sentence says only "error connecting to server".
pub(super) fn root_cause(error: &tokio_postgres::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// rustls over ring with the web's roots, or with one authority's certificates alone.
fn tls(ca_file: Option<&Path>) -> Result<MakeRustlsConnect, DsnError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let refused = |reason: String| DsnError::CaFile { path: path.to_owned(), reason };
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| refused(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| refused(error.to_string()))?;
                roots.add(certificate).map_err(|error| refused(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(refused("it holds no certificate".to_owned()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// Managed databases hand out DSNs for libpq, with words that tokio-postgres does not know: `sslmode=verify-full` and
/// `verify-ca` (its `require` verifies as strictly as verify-full), and `sslrootcert`, which is returned beside.
fn without_libpq_words(dsn: &str) -> (String, Option<String>) {
    let mut root_certificate = None;
    let mut keep = |word: &str| -> Option<String> {
        if let Some(path) = word.strip_prefix("sslrootcert=") {
            // `system` is libpq's word for the roots that we take anyway.
            root_certificate = (path != "system").then(|| path.trim_matches('\'').to_owned());
            return None;
        }
        match word {
            "sslmode=verify-full" | "sslmode=verify-ca" => Some("sslmode=require".to_owned()),
            _ => Some(word.to_owned()),
        }
    };
    let rewritten = if dsn.starts_with("postgres://") || dsn.starts_with("postgresql://") {
        match dsn.split_once('?') {
            None => dsn.to_owned(),
            Some((base, query)) => {
                let words: Vec<String> = query.split('&').filter_map(&mut keep).collect();
                if words.is_empty() { base.to_owned() } else { format!("{base}?{}", words.join("&")) }
            }
        }
    } else {
        let words: Vec<String> = unquoted_words(dsn).into_iter().filter_map(keep).collect();
        words.join(" ")
    };
    (rewritten, root_certificate)
}

/// The words of a `key=value key='a value'` DSN: split at spaces that are in no quotes.
fn unquoted_words(dsn: &str) -> Vec<&str> {
    let (mut words, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, character) in dsn.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' => quoted = !quoted,
            _ if character.is_whitespace() && !quoted => {
                words.push(&dsn[start..at]);
                start = at + character.len_utf8();
            }
            _ => {}
        }
    }
    words.push(&dsn[start..]);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::SslMode;

    use super::{Database, without_libpq_words};

    #[test]
    fn a_database_on_another_machine_is_reached_by_tls_unless_the_dsn_says_otherwise() {
        let cases = [
            ("postgres://u@127.0.0.1/d", SslMode::Prefer),
            ("postgres://u@localhost/d", SslMode::Prefer),
            ("host=/run/postgresql user=u", SslMode::Prefer),
            ("postgres://u@db.example.org/d", SslMode::Require),
            ("postgres://u@10.0.0.7/d", SslMode::Require),
            ("postgres://u@localhost,db.example.org/d", SslMode::Require),
            ("postgres://u@db.example.org/d?sslmode=disable", SslMode::Disable),
            ("hostaddr=10.0.0.7 user=u", SslMode::Require),
            ("host=localhost hostaddr=10.0.0.7 user=u", SslMode::Require),
            ("host=localhost hostaddr=127.0.0.1 user=u", SslMode::Prefer),
        ];
        for (dsn, mode) in cases {
            let database = Database::for_owner(dsn, "KAHN_DATABASE_URL", None).unwrap();
            assert_eq!(database.config.get_ssl_mode(), mode, "{dsn}");
        }
    }

    #[test]
    fn libpq_words_are_translated() {
        let cases = [
            ("postgres://u:p@h/d", "postgres://u:p@h/d", None),
            ("postgres://u:p@h/d?sslmode=verify-full", "postgres://u:p@h/d?sslmode=require", None),
            (
                "postgresql://u@h/d?a=b&sslmode=verify-ca&sslrootcert=/ca.pem",
                "postgresql://u@h/d?a=b&sslmode=require",
                Some("/ca.pem"),
            ),
            ("postgres://u@h/d?sslrootcert=system", "postgres://u@h/d", None),
            ("host=h sslmode=verify-full user=u", "host=h sslmode=require user=u", None),
            ("host=h password='a sslmode=verify-full b'", "host=h password='a sslmode=verify-full b'", None),
        ];
        for (dsn, rewritten, root) in cases {
            assert_eq!(without_libpq_words(dsn), (rewritten.to_owned(), root.map(str::to_owned)), "{dsn}");
        }
    }
}
