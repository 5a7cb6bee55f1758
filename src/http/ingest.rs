//! Appending events: all or nothing, exactly once, and 200 means durable.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::HeaderMap;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, rt, web};
use bytes::{Bytes, BytesMut};
use flate2::bufread::GzDecoder;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use super::answer;
use super::error::{ApiError, allowed};
use super::moment::run_id;
use super::params::Params;
use super::principal::{authorize, authorize_ingest, charge, still_may};
use super::room::Room;
use super::view::{AppendedView, PositionView};
use crate::contract::{Cost, GraphPut, Part, Principal, ReadLimit, Scope, StoreError};
use crate::domain::id::sha256_hex;
use crate::domain::line::LINE_TOO_LONG;
use crate::domain::{Graph, LineSplitter, MAX_GRAPH_BYTES, MAX_INT, MAX_LINE_BYTES, Piece, Problem, RunId, parse_line};
use crate::services::Services;

/// The most events a batch may hold.
pub(super) const MAX_BATCH_EVENTS: usize = 10_000;
/// The most bytes a batch may be sent in.
pub(super) const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;
/// The most bytes a batch may be decoded to.
pub(super) const MAX_DECODED_BYTES: usize = 64 * 1024 * 1024;
/// The most decoded bytes for each byte that was sent.
const MAX_RATIO: usize = 100;
/// How many warnings an answer lists.
const MAX_WARNINGS: usize = 100;
/// How long a body may take.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// A body that took longer is stored only if whoever sent it still may.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How much of a log is read at a time for its digest.
const DIGEST_PAGE: ReadLimit = ReadLimit { lines: 5000, bytes: 1024 * 1024 };

pub(super) async fn transitions(
    request: HttpRequest,
    services: web::Data<Services>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let who = authorize_ingest(&services, &request).await?;
    let params = Params::parse(request.query_string(), &["from_seq"])?;
    let from_seq = params.int("from_seq", "invalid_from_seq", (0, MAX_INT))?;
    require_content_type(&request, "application/x-ndjson")?;
    let is_gzip = is_gzip(&request)?;
    refuse_when_read_only(&services)?;
    let announced = fewest_events(&request, is_gzip);
    charge(&services, &request, (&who, Cost::AnnouncedEvents(announced))).await?;
    let mut room = Room::of_ingest(&services, &who);
    let began = Instant::now();
    let unread = Unread { services: services.get_ref(), who: &who, announced };
    let read = async {
        let sent = read_body(&request, payload, &mut room, ("batch_too_large", MAX_BATCH_BYTES)).await?;
        away(move || {
            let body = if is_gzip { gunzip(&sent, &mut room)? } else { sent };
            Ok((Batch::read(&body)?, body.len() as u64, room))
        })
        .await
    };
    let read = read.await;
    unread.end();
    let (batch, bytes, room) = match read {
        Ok(read) => read,
        Err(problem) => {
            // Reading and waiting are work too: they cost what was announced. Whether that was still there changes nothing for
            // the batch.
            let _ = charge(&services, &request, (&who, Cost::Events(announced))).await;
            return Err(problem);
        }
    };
    if began.elapsed() > ASK_AGAIN_AFTER {
        still_may(&services, &request, (&who, Scope::Ingest)).await?;
    }
    charge(&services, &request, (&who, Cost::Events(batch.events()))).await?;
    let services = services.get_ref().clone();
    let appended = whole(async move {
        let parts = batch.place(&services, &who, from_seq).await?;
        let done = services.store.append(&who, parts).await?;
        drop(room);
        let counted = &services.metrics.ingest;
        counted.batches.add(1);
        counted.bytes.add(bytes);
        counted.accepted.add(done.accepted);
        counted.duplicates.add(done.duplicates);
        Ok(AppendedView {
            accepted: done.accepted,
            duplicates: done.duplicates,
            runs: done.runs,
            warnings: batch.warnings,
        })
    });
    answer::written(HttpResponse::Ok(), &appended.await?)
}

pub(super) async fn put_graph(
    request: HttpRequest,
    services: web::Data<Services>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Ingest).await?;
    Params::parse(request.query_string(), &[])?;
    let run_id = request.match_info().get("run_id").and_then(RunId::parse).ok_or_else(|| {
        ApiError::bad_request(
            "invalid_run_id",
            "a run_id is 1 to 64 letters, digits, - and _, the first a letter or digit",
        )
    })?;
    require_content_type(&request, "application/json")?;
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        return Err(unsupported_encoding(&[]));
    }
    refuse_when_read_only(&services)?;
    let mut room = Room::of_ingest(&services, &who);
    let began = Instant::now();
    let body = read_body(&request, payload, &mut room, ("graph_too_large", MAX_GRAPH_BYTES)).await?;
    if began.elapsed() > ASK_AGAIN_AFTER {
        still_may(&services, &request, (&who, Scope::Ingest)).await?;
    }
    let (services, named) = (services.get_ref().clone(), run_id.clone());
    let written = whole(async move {
        let parsed = body.clone();
        let graph_sha256 = away(move || {
            Graph::parse(&parsed)?;
            Ok(sha256_hex(&parsed))
        })
        .await?;
        let put = services.store.put_graph(&who, &named, body).await?;
        services.metrics.ingest.graphs.add(1);
        drop(room);
        Ok((put, graph_sha256))
    });
    let (put, graph_sha256) = written.await?;
    let response = match put {
        GraphPut::Created => HttpResponse::Created(),
        GraphPut::Same => HttpResponse::Ok(),
    };
    #[derive(serde::Serialize)]
    struct GraphView<'a> {
        run_id: &'a RunId,
        graph_sha256: &'a str,
    }
    answer::written(response, &GraphView { run_id: &run_id, graph_sha256: &graph_sha256 })
}

pub(super) async fn position(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Ingest).await?;
    let params = Params::parse(request.query_string(), &["digest"])?;
    let digest = params.choice("digest", "unknown_digest", &[("true", true), ("false", false)])?.unwrap_or(false);
    let run_id = run_id(&request)?;
    let run = services.store.summary(&who, &run_id).await?.ok_or_else(ApiError::unknown_run)?;
    let lines_sha256 = if digest { Some(lines_sha256(&services, &who, &run_id, run.next_seq).await?) } else { None };
    let view = PositionView {
        next_seq: run.next_seq,
        log_id: run.log_id.as_ref(),
        graph_sha256: run.graph_sha256.as_deref(),
        lines_sha256,
    };
    answer::json(&request, &view)
}

/// SHA-256 of the first `next_seq` kept lines, each with LF, read back from what is stored.
async fn lines_sha256(services: &Services, who: &Principal, run_id: &RunId, next_seq: u64) -> Result<String, ApiError> {
    let mut hash = Sha256::new();
    let mut seq = 0;
    while seq < next_seq {
        let page = services.store.read(who, run_id, seq, DIGEST_PAGE).await?.ok_or_else(ApiError::unknown_run)?;
        let wanted = usize::try_from(next_seq - seq).unwrap_or(usize::MAX);
        if page.lines.is_empty() {
            return Err(ApiError::unknown_run());
        }
        for line in page.lines.iter().take(wanted) {
            hash.update(line);
            hash.update(b"\n");
            seq += 1;
        }
    }
    Ok(hex::encode(hash.finalize()))
}

/// The body must say that it is this.
pub(super) fn require_content_type(request: &HttpRequest, wanted: &'static str) -> Result<(), ApiError> {
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = given.split(';').next().unwrap_or("").trim();
    if media_type.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("send Content-Type: {wanted}"),
    )
    .with("allowed", allowed(&[wanted])))
}

fn is_gzip(request: &HttpRequest) -> Result<bool, ApiError> {
    let codings: Vec<_> = request.headers().get_all(header::CONTENT_ENCODING).collect();
    match codings.as_slice() {
        [] => Ok(false),
        [coding] if coding.as_bytes().eq_ignore_ascii_case(b"gzip") => Ok(true),
        _ => Err(unsupported_encoding(&["gzip"])),
    }
}

/// The refusal of a Content-Encoding where these are taken.
pub(super) fn unsupported_encoding(taken: &[&str]) -> ApiError {
    let detail = "a body is sent as it is; only a batch of events may be one gzip stream";
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail).with("allowed", allowed(taken))
}

/// A batch that is being read. Whoever goes away meanwhile has it dropped with the request, and pays what was announced: it
/// took room that long.
struct Unread<'a> {
    services: &'a Services,
    who: &'a Principal,
    announced: u64,
}

impl Unread<'_> {
    /// It was read, or refused: whoever knows which sees to its cost.
    fn end(mut self) {
        self.announced = 0;
    }
}

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        // Where there is no runtime any more, the server has ended.
        if let (1.., Ok(runtime)) = (self.announced, Handle::try_current()) {
            let (access, who, cost) =
                (Arc::clone(&self.services.access), self.who.clone(), Cost::Events(self.announced));
            runtime.spawn(async move { access.charge(&who, cost).await });
        }
    }
}

/// How many events a body of the announced length holds at least: a line is no longer than a line may be. (Of a gzip stream
/// nothing is known, and what is too long anyway is refused for that.)
fn fewest_events(request: &HttpRequest, is_gzip: bool) -> u64 {
    let length = announced_length(request.headers()).filter(|_| !is_gzip).unwrap_or(0);
    length.min(MAX_BATCH_BYTES as u64).div_ceil(MAX_LINE_BYTES as u64 + 1).max(1)
}

/// How long the body will be, where the request says so.
pub(super) fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Nothing is read that would be refused anyway.
fn refuse_when_read_only(services: &Services) -> Result<(), ApiError> {
    if services.settings.read_only { Err(StoreError::ReadOnly.into()) } else { Ok(()) }
}

/// Does work that takes long away from the threads that serve requests.
async fn away<T: Send + 'static>(work: impl FnOnce() -> Result<T, ApiError> + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        log::error!("work on a body ended early: {error}");
        Err(ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR))
    })
}

/// Does work to its end, also when the client goes away: its bytes count until nothing holds them any more, so nobody can
/// take more room than there is by sending batches and leaving.
pub(super) async fn whole<T: 'static>(
    work: impl Future<Output = Result<T, ApiError>> + 'static,
) -> Result<T, ApiError> {
    rt::spawn(work).await.unwrap_or_else(|error| {
        log::error!("work on a body ended early: {error}");
        Err(ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR))
    })
}

/// The whole body, which takes its room, within its limit and in time.
pub(super) async fn read_body(
    request: &HttpRequest,
    mut payload: web::Payload,
    room: &mut Room,
    (code, limit): (&'static str, usize),
) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::too_large(code, format!("the body is over {limit} bytes"), limit);
    if announced_length(request.headers()).is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let read = async {
        let mut body = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk =
                chunk.map_err(|_| ApiError::bad_request("body_broken", "the body ended before it was whole"))?;
            if body.len() + chunk.len() > limit {
                return Err(too_large());
            }
            room.take(chunk.len())?;
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    tokio::time::timeout(BODY_DEADLINE, read)
        .await
        .map_err(|_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body took longer than 30 s"))?
}

/// Decodes in steps, so that a small body cannot make a large one before its limit is looked at. A stream may have several
/// members, but no more than a batch has events: each costs time, however little it holds.
fn gunzip(mut sent: &[u8], room: &mut Room) -> Result<Bytes, ApiError> {
    let most = MAX_DECODED_BYTES.min(sent.len().saturating_mul(MAX_RATIO));
    let invalid = || ApiError::bad_request("invalid_gzip", "the body is no whole gzip stream");
    // All that it may become at once: what is not written to costs nothing, and growing would copy.
    let mut decoded = BytesMut::with_capacity(most);
    let mut step = vec![0; 64 * 1024];
    for _ in 0..MAX_BATCH_EVENTS {
        let mut member = GzDecoder::new(sent);
        loop {
            let read = member.read(&mut step).map_err(|_| invalid())?;
            if read == 0 {
                break;
            }
            keep(step.get(..read).unwrap_or_default(), &mut decoded, most, room)?;
        }
        sent = member.into_inner();
        if sent.is_empty() {
            return Ok(decoded.freeze());
        }
    }
    let detail = format!("the body is more than {MAX_BATCH_EVENTS} gzip streams in a row");
    Err(ApiError::too_large("batch_too_large", detail, MAX_BATCH_EVENTS))
}

fn keep(step: &[u8], decoded: &mut BytesMut, most: usize, room: &mut Room) -> Result<(), ApiError> {
    if decoded.len() + step.len() > most {
        let detail =
            format!("the body decodes to more than {MAX_RATIO} times its size, or more than {MAX_DECODED_BYTES} bytes");
        return Err(ApiError::too_large("batch_too_large", detail, most));
    }
    room.take(step.len())?;
    decoded.extend_from_slice(step);
    Ok(())
}

/// A batch whose every line was accepted, by run in order of appearance.
struct Batch {
    runs: Vec<RunLines>,
    warnings: Vec<Problem>,
}

struct RunLines {
    run_id: RunId,
    begins_with_start: bool,
    lines: Vec<Bytes>,
}

impl Batch {
    fn read(body: &Bytes) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::bad_request("empty_batch", "the batch holds no event"));
        }
        let mut reader = BatchReader {
            body,
            number: 0,
            batch: Self { runs: Vec::new(), warnings: Vec::new() },
            places: HashMap::new(),
        };
        let mut refusal = None;
        let mut splitter = LineSplitter::default();
        splitter.push(body, |piece, _, _| {
            if refusal.is_none() {
                refusal = reader.take(&piece).err();
            }
        });
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        if splitter.has_pending() {
            let line = reader.number + 1;
            return Err(ApiError::bad_request("incomplete_line", "the batch must end in a newline").with("line", line));
        }
        Ok(reader.batch)
    }

    fn events(&self) -> u64 {
        self.runs.iter().map(|run| run.lines.len() as u64).sum()
    }

    /// Says where each run's lines go.
    async fn place(&self, services: &Services, who: &Principal, from_seq: Option<u64>) -> Result<Vec<Part>, ApiError> {
        if let (Some(_), [_, second, ..]) = (from_seq, self.runs.as_slice()) {
            let detail = format!("from_seq places the events of one run, but the batch holds {} too", second.run_id);
            return Err(ApiError::bad_request("several_runs", detail));
        }
        let mut parts = Vec::new();
        for run in &self.runs {
            if from_seq.is_none() && !run.begins_with_start {
                let known = services.store.summary(who, &run.run_id).await?;
                if known.is_none() {
                    refuse_when_gone(services, (who, run)).await?;
                }
                let next_seq = known.map_or(0, |known| known.next_seq);
                let detail = format!(
                    "the events of run {} do not begin with a start event; say with from_seq where they go",
                    run.run_id
                );
                return Err(ApiError::bad_request("from_seq_required", detail).with("next_seq", next_seq));
            }
            parts.push(Part { run_id: run.run_id.clone(), from_seq: from_seq.unwrap_or(0), lines: run.lines.clone() });
        }
        Ok(parts)
    }
}

/// A run that was deleted is in no answer, like one that never was; only a write tells them apart. This one is far behind any
/// run's end, so nothing ever comes of it.
async fn refuse_when_gone(services: &Services, (who, run): (&Principal, &RunLines)) -> Result<(), ApiError> {
    let lines = run.lines.iter().take(1).cloned().collect();
    let nowhere = Part { run_id: run.run_id.clone(), from_seq: MAX_INT, lines };
    match services.store.append(who, vec![nowhere]).await {
        Err(gone @ StoreError::Gone { .. }) => Err(gone.into()),
        _ => Ok(()),
    }
}

struct BatchReader<'a> {
    body: &'a Bytes,
    number: u64,
    batch: Batch,
    places: HashMap<RunId, usize>,
}

impl BatchReader<'_> {
    fn take(&mut self, piece: &Piece<'_>) -> Result<(), ApiError> {
        self.number += 1;
        let number = self.number;
        let Piece::Line(line) = piece else {
            return Err(ApiError::too_large("line_too_long", LINE_TOO_LONG, MAX_LINE_BYTES).with("line", number));
        };
        let malformed = |reason: String| {
            ApiError::bad_request("malformed_line", format!("line {number}: {reason}")).with("line", number)
        };
        let event = parse_line(line).map_err(malformed)?;
        let run_id = RunId::parse(&event.run_id).ok_or_else(|| malformed("no valid run_id".into()))?;
        if number > MAX_BATCH_EVENTS as u64 {
            let detail = format!("the batch holds more than {MAX_BATCH_EVENTS} events");
            return Err(ApiError::too_large("too_many_events", detail, MAX_BATCH_EVENTS));
        }
        if let crate::domain::EventBody::Unknown(name) = &event.body
            && self.batch.warnings.len() < MAX_WARNINGS
        {
            let name: String = name.chars().take(200).collect();
            self.batch.warnings.push(Problem { line: Some(number), reason: format!("unknown event: {name}") });
        }
        let runs = &mut self.batch.runs;
        let place = *self.places.entry(run_id.clone()).or_insert_with(|| {
            runs.push(RunLines { run_id, begins_with_start: event.body.is_start(), lines: Vec::new() });
            runs.len() - 1
        });
        if let Some(run) = runs.get_mut(place) {
            run.lines.push(self.body.slice_ref(line));
        }
        Ok(())
    }
}
