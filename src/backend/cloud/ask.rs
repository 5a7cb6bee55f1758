//! Asking the identity provider: the whole answer within 3 s and 1 MB, from where it was asked and nowhere else.

use std::io::Read as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::http::header;

use super::settings::ProviderSettings;

/// How long an answer may take, to its last byte.
const DEADLINE: Duration = Duration::from_secs(3);
/// The most that is read of an answer.
const LONGEST: u64 = 1024 * 1024;
/// Longer than the provider keeps a connection open, one would be found dead by whoever asks next.
const IDLE: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    /// No connection, no answer in time, or one that breaks off.
    #[error("{address} did not answer: {reason}")]
    Silent {
        /// Who was asked.
        address: String,
        /// What happened.
        reason: String,
    },
    /// More than anybody should say.
    #[error("{0} answered more than 1 MiB")]
    TooLong(String),
}

/// An answer, whatever its status; a redirect is an answer as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// HTTP's.
    pub(super) status: u16,
    /// As it came.
    pub(super) body: Vec<u8>,
}

/// Asks. Cheap to clone; connections are shared.
#[derive(Clone)]
pub(super) struct Asker {
    agent: ureq::Agent,
}

impl Asker {
    pub(super) fn new() -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(DEADLINE))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_age(IDLE)
            .accept("application/json")
            .accept_encoding("identity")
            .proxy(None)
            .build()
            .into();
        Self { agent }
    }

    /// GET.
    pub(super) async fn get(&self, address: &str) -> Result<Said, AskError> {
        let (agent, address) = (self.agent.clone(), address.to_owned());
        away(&address.clone(), move || said(&address, agent.get(&address).call())).await
    }

    /// POST of a form as our client (client_secret_basic).
    pub(super) async fn post(
        &self,
        address: &str,
        settings: &ProviderSettings,
        form: &[(&str, &str)],
    ) -> Result<Said, AskError> {
        let (agent, address, basic) = (self.agent.clone(), address.to_owned(), basic(settings));
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        away(&address.clone(), move || {
            let request = agent
                .post(&address)
                .header(header::AUTHORIZATION, basic)
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            said(&address, request.send(body))
        })
        .await
    }
}

/// RFC 6749, section 2.3.1: id and secret are form-encoded first.
fn basic(settings: &ProviderSettings) -> String {
    let coded = |bytes: &[u8]| form_urlencoded::byte_serialize(bytes).collect::<String>();
    let pair = format!("{}:{}", coded(settings.client_id.as_bytes()), coded(settings.client_secret.bytes()));
    format!("Basic {}", STANDARD.encode(pair))
}

fn said(address: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Said, AskError> {
    let silent = |reason: String| AskError::Silent { address: address.to_owned(), reason };
    let mut answer = answer.map_err(|error| silent(error.to_string()))?;
    let mut body = Vec::new();
    let read = answer.body_mut().as_reader().take(LONGEST + 1).read_to_end(&mut body);
    read.map_err(|error| silent(error.to_string()))?;
    if body.len() as u64 > LONGEST {
        return Err(AskError::TooLong(address.to_owned()));
    }
    Ok(Said { status: answer.status().as_u16(), body })
}

async fn away(address: &str, work: impl FnOnce() -> Result<Said, AskError> + Send + 'static) -> Result<Said, AskError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(AskError::Silent { address: address.to_owned(), reason: format!("the question ended early: {error}") })
    })
}
