//! The UI: its files, embedded in the binary as they stand in `src/ui`, each under the hash of all of them, so that
//! a browser never asks twice for one that it has. A debug build reads them from disk, at most once a second.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use rust_embed::RustEmbed;

use super::answer::{self, Answer};
use super::error::ApiError;
use super::principal::authorize;
use super::{diagnostics, meta, runs};
use crate::contract::{PrincipalKind, Scope};
use crate::domain::RunId;
use crate::domain::event::Kind;
use crate::domain::id::sha256_hex;
use crate::services::Services;

#[derive(RustEmbed)]
#[folder = "src/ui/"]
struct Embedded;

/// The files of the UI, as they are served.
pub(super) struct Ui {
    /// Of the names and bytes of all files.
    hash: String,
    /// The page that every address of the UI answers with, but for the list of what it needs first.
    page: String,
    /// The page of what is read and not worked with.
    plain: String,
    files: BTreeMap<String, File>,
}

/// A file and its shorter forms; all are kept, since everybody asks for the same few.
struct File {
    content_type: &'static str,
    plain: Bytes,
    gzip: Bytes,
    /// A tenth shorter, but it takes a second for all files: nobody waits for it.
    brotli: OnceLock<Bytes>,
}

/// The style sheets are written in parts and sent as one, in the order of their names.
const STYLE: &str = "kahn.css";

/// What each page loads at once, so that the browser need not read one module to learn of the next.
const SHELL: &[&str] = &["vendor/ui-runtime.js", "js/app.js", "js/net.js", "js/fmt.js"];
const A_RUN: &str = "a run";
const AN_AGENTS_RUN: &str = "an agent's run";
const BY_PAGE: &[(&str, &[&str])] = &[
    ("", &["js/runs.js", "js/list.js"]),
    ("runs", &["js/runs.js", "js/list.js"]),
    // Its timeline and log are asked for once its first events are there.
    (A_RUN, &["js/run.js", "js/drawer.js", "js/dag.js", "js/layout.js"]),
    (AN_AGENTS_RUN, &["js/agentrun.js", "js/fleet.js", "js/steps.js", "js/gantt.js", "js/list.js"]),
    ("agents", &["js/agents.js", "js/fleet.js", "js/list.js"]),
    ("audits", &["js/audits.js", "js/fleet.js", "js/list.js"]),
    ("nodes", &["js/audits.js", "js/fleet.js", "js/list.js"]),
    ("compare", &["js/compare.js", "js/fleet.js", "js/list.js"]),
    ("settings", &["js/settings.js", "js/fleet.js", "js/list.js"]),
];

impl Ui {
    fn read() -> Self {
        let mut found: BTreeMap<String, Cow<'static, [u8]>> = Embedded::iter()
            .filter_map(|name| Embedded::get(&name).map(|file| (name.into_owned(), file.data)))
            .collect();
        let style = found.iter().filter(|(name, _)| name.starts_with("css/")).map(|(_, bytes)| &**bytes);
        let style = style.collect::<Vec<_>>().join(&b'\n');
        found.retain(|name, _| !name.starts_with("css/"));
        found.insert(STYLE.to_owned(), style.into());
        let mut all = Vec::new();
        for (name, bytes) in &found {
            all.extend_from_slice(format!("{name} {}\n", bytes.len()).as_bytes());
            all.extend_from_slice(bytes);
        }
        let hash: String = sha256_hex(&all).chars().take(16).collect();
        let page = found.remove("index.html").unwrap_or_default();
        let page = String::from_utf8_lossy(&page).replace("{hash}", &hash);
        let plain = found.remove("plain.html").unwrap_or_default();
        let plain = String::from_utf8_lossy(&plain).replace("{hash}", &hash);
        let files = found.into_iter().filter_map(|(name, bytes)| Some((name.clone(), File::of(&name, bytes)?)));
        Self { files: files.collect(), hash, page, plain }
    }

    /// Read once; a debug build is for those who edit the files, but reads them once for all that a page asks for.
    pub(super) fn get() -> Arc<Self> {
        static UI: RwLock<Option<(Instant, Arc<Ui>)>> = RwLock::new(None);
        let is_fresh = |read: &Instant| !cfg!(debug_assertions) || read.elapsed() < Duration::from_secs(1);
        let held = UI.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, ui)) = held.filter(|(read, _)| is_fresh(read)) {
            return ui;
        }
        let mut slot = UI.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have read them while this one waited.
        if let Some((_, ui)) = slot.as_ref().filter(|(read, _)| is_fresh(read)) {
            return Arc::clone(ui);
        }
        let ui = Arc::new(Self::read());
        *slot = Some((Instant::now(), Arc::clone(&ui)));
        if !cfg!(debug_assertions) {
            let read = Arc::clone(&ui);
            thread::spawn(move || read.files.values().for_each(File::code_further));
        }
        ui
    }

    /// A page to read, with this title, the script of this name where there is one, and this HTML.
    pub(super) fn plain_page(&self, title: &str, script: &str, main: &str) -> String {
        let script = if script.is_empty() {
            String::new()
        } else {
            format!("<script type=\"module\" src=\"/a/{}/js/{script}.js\"></script>\n", self.hash)
        };
        let page = self.plain.replace("<!--script-->\n", &script).replace("{title}", title);
        page.replace("{main}", main)
    }

    /// This page, with the links to what it needs first.
    fn page(&self, page: &str) -> String {
        let wanted = BY_PAGE.iter().find(|(name, _)| *name == page);
        let modules = SHELL.iter().chain(wanted.map_or(&[] as &[&str], |(_, modules)| modules));
        let mut links = String::new();
        for module in modules.filter(|module| self.files.contains_key(**module)) {
            let _ = writeln!(links, "<link rel=\"modulepreload\" href=\"/a/{}/{module}\">", self.hash);
        }
        self.page.replace("<!--first-->\n", &links)
    }
}

impl File {
    /// `None` for what browsers have no use for.
    fn of(name: &str, bytes: Cow<'static, [u8]>) -> Option<Self> {
        let content_type = match name.rsplit_once('.').map(|(_, ending)| ending)? {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => return None,
        };
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        // Into memory: nothing there can fail.
        let gzip = gzip.write_all(&bytes).and_then(|()| gzip.finish()).unwrap_or_default();
        let plain = match bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        };
        Some(Self { content_type, plain, gzip: gzip.into(), brotli: OnceLock::new() })
    }

    fn code_further(&self) {
        let params = BrotliEncoderParams { quality: 10, ..BrotliEncoderParams::default() };
        let mut coded = Vec::new();
        match brotli::BrotliCompress(&mut &*self.plain, &mut coded, &params) {
            Ok(_) => drop(self.brotli.set(coded.into())),
            Err(error) => log::warn!("a file of the UI stays as it is: {error}"),
        }
    }

    /// The shortest form that the client reads, and its name.
    fn form_for(&self, request: &HttpRequest) -> (&'static str, &Bytes) {
        match self.brotli.get().filter(|_| takes(request, "br")) {
            Some(brotli) => ("br", brotli),
            None if takes(request, "gzip") => ("gzip", &self.gzip),
            // Said too, or it would be coded on the way, for each request anew.
            None => ("identity", &self.plain),
        }
    }
}

/// Every page of the UI: the same one, which looks at its address itself.
pub(super) async fn index(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let page = request.path().split('/').nth(1).unwrap_or_default();
    Ok(send(&request, Ui::get().page(page), Keep::ToCompare))
}

/// The page of a run, with what it would ask first, if whoever asks may see that.
pub(super) async fn run(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let Some((keep, kind, answers)) = first_answers(&request, &services).await else {
        return Ok(send(&request, Ui::get().page(A_RUN), Keep::ToCompare));
    };
    let mut page = Ui::get().page(if kind == Some(Kind::Agent) { AN_AGENTS_RUN } else { A_RUN });
    if let Some(at) = page.find("<div id=\"app\">").filter(|_| answers.len() <= MOST_ANSWERS) {
        page.insert_str(at, &format!("<script type=\"application/json\" id=\"boot\">{answers}</script>\n"));
    }
    Ok(send(&request, page, keep))
}

/// Whether a browser may keep a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// It asks whether the page is still the same.
    ToCompare,
    /// What a person saw is not to come back, by the back button or from a disk, once they have signed out.
    Never,
}

/// Past this the browser asks by itself: the page is not to wait for a large answer.
const MOST_ANSWERS: usize = 256 * 1024;

/// Whether they may be kept, what kind of run it is, and bodies by address, as JSON that is safe inside of HTML; `None` where
/// anything is in the way.
async fn first_answers(request: &HttpRequest, services: &Services) -> Option<(Keep, Option<Kind>, String)> {
    let who = authorize(services, request, Scope::Read).await.ok()?;
    let run_id = RunId::parse(request.match_info().get("run_id")?)?;
    let (of_run, of_diagnostics) = (format!("/api/runs/{run_id}"), format!("/api/runs/{run_id}/diagnostics"));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let kind = services.store.load(&who, &run_id).await.ok()??.summary.kind;
    let state = runs::state_of(services, (&who, &run_id), &of_run).await.ok()?;
    let findings = diagnostics::diagnostics_of(services, (&who, &run_id), &of_diagnostics).await.ok()?;
    let config = answer::to_json(&meta::config_of(services)).ok()?;
    let mut answers = BTreeMap::from([("/api/config".to_owned(), text(&config)?)]);
    let graph = runs::graph_of(services, &who, &run_id).await.ok();
    answers.extend(graph.and_then(|(graph, _)| Some((format!("{of_run}/graph"), text(&graph.bytes)?))));
    answers.insert(of_run, text(&state.body)?);
    answers.insert(of_diagnostics, text(&findings.body)?);
    let keep = if who.kind == PrincipalKind::User { Keep::Never } else { Keep::ToCompare };
    // Text of producers must not end the element, nor begin a comment in it.
    Some((keep, kind, serde_json::to_string(&answers).ok()?.replace('<', "\\u003c")))
}

fn send(request: &HttpRequest, page: String, keep: Keep) -> HttpResponse {
    let etag = sha256_hex(page.as_bytes());
    let headers = match keep {
        Keep::ToCompare => Vec::new(),
        Keep::Never => vec![(header::CACHE_CONTROL, "no-store".to_owned())],
    };
    answer::send(request, Answer { content_type: "text/html; charset=utf-8", etag_source: &etag, headers }, page.into())
}

/// A file of the UI. Another hash is that of another version: the page that asks for it is to be loaded anew.
pub(super) async fn asset(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let nothing = || ApiError::of_status(StatusCode::NOT_FOUND);
    let ui = Ui::get();
    let (hash, name) = (request.match_info().get("hash"), request.match_info().get("file").unwrap_or_default());
    let file = ui.files.get(name).filter(|_| hash == Some(ui.hash.as_str())).ok_or_else(nothing)?;
    let etag = sha256_hex(format!("{hash:?} {name}").as_bytes());
    let mut response = answer::head(&request, answer::etag(&etag).into());
    response.insert_header((header::CACHE_CONTROL, "public, max-age=31536000, immutable"));
    response.insert_header((header::VARY, "Accept-Encoding"));
    let (coding, body) = file.form_for(&request);
    response.insert_header((header::CONTENT_ENCODING, HeaderValue::from_static(coding)));
    let body = body.clone();
    Ok(answer::finish(response, file.content_type, answer::roomy(&request, body)?))
}

/// The client says that it reads this coding, and does not weigh it at nothing.
fn takes(request: &HttpRequest, coding: &str) -> bool {
    let taken = request.headers().get_all(header::ACCEPT_ENCODING).filter_map(|value| value.to_str().ok());
    taken.flat_map(|value| value.split(',')).any(|taken| {
        let (name, weight) = taken.split_once(';').unwrap_or((taken, "q=1"));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
        name.trim() == coding && weight.is_some_and(|weight| weight > 0.0)
    })
}
