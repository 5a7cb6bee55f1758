//! The bare limits, each in a process of its own: what the same work costs with nothing around it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use kahn::domain::{Graph, RunId, parse_line};
use kahn::reduce::{RunState, Summary};
use rustix::fs::inotify;

use crate::process::{say_ready, wait_for_end_of_input};

/// Two threads read, parse and reduce every byte of an archive; then it says so, and holds what it has.
pub(crate) fn reduce(root: &Path) {
    const THREADS: usize = 2;
    let folders: Vec<PathBuf> =
        fs::read_dir(root.join("runs")).expect("an archive").map(|entry| entry.expect("an entry").path()).collect();
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Vec::with_capacity(folders.len()));
    let work = || {
        let mut bytes = Vec::new();
        let mut own = Vec::new();
        while let Some(folder) = folders.get(next.fetch_add(1, Ordering::Relaxed)) {
            own.push(reduced(folder, &mut bytes));
        }
        all.lock().expect("the other thread lives").extend(own);
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS {
            scope.spawn(work);
        }
        work();
    });
    say_ready("");
    wait_for_end_of_input();
    println!("{}", all.into_inner().expect("no thread is left").len());
}

fn reduced(folder: &Path, bytes: &mut Vec<u8>) -> (Arc<RunState>, Summary, Option<Graph>) {
    bytes.clear();
    let log = File::open(folder.join("transitions.jsonl")).and_then(|mut log| log.read_to_end(bytes));
    let mut state = RunState::default();
    if log.is_ok() {
        let mut rest = bytes.as_slice();
        while let Some(end) = memchr::memchr(b'\n', rest) {
            if let Ok(event) = parse_line(&rest[..end]) {
                state.fold(&event, &rest[..end]);
            }
            rest = &rest[end + 1..];
        }
    }
    let graph = fs::read(folder.join("graph.json")).ok().and_then(|bytes| Graph::parse(&bytes).ok());
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let run_id = RunId::parse(name).expect("a run folder");
    let summary = Summary::of(&run_id, &state, graph.as_ref().map(|graph| (graph, "")));
    (Arc::new(state), summary, graph)
}

/// Walks the run folders and asks for the size and time of both files of each.
pub(crate) fn walk(root: &Path) {
    let mut seen = 0_u64;
    for entry in fs::read_dir(root.join("runs")).expect("an archive") {
        let folder = entry.expect("an entry").path();
        for name in ["transitions.jsonl", "graph.json"] {
            seen += fs::metadata(folder.join(name)).map_or(0, |found| found.len());
        }
    }
    say_ready(&seen.to_string());
}

/// actix serves bytes from memory: `folder/index` has a path a line, `folder/N` the bytes of line N.
pub(crate) fn serve_from_memory(folder: &Path) {
    let index = fs::read_to_string(folder.join("index")).expect("an index");
    let bodies: HashMap<String, Bytes> = index
        .lines()
        .enumerate()
        .map(|(at, path)| (path.to_owned(), fs::read(folder.join(at.to_string())).expect("bytes").into()))
        .collect();
    let bodies = web::Data::new(bodies);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = HttpServer::new(move || App::new().app_data(bodies.clone()).default_service(web::to(stored)))
        .listen(listener)
        .expect("a listener");
    actix_web::rt::System::new().block_on(async move {
        let running = server.run();
        say_ready(&address.to_string());
        running.await.expect("it serves");
    });
}

async fn stored(request: HttpRequest, bodies: web::Data<HashMap<String, Bytes>>) -> HttpResponse {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    match bodies.get(target) {
        Some(body) => HttpResponse::Ok().content_type("application/json").body(body.clone()),
        None => HttpResponse::NotFound().finish(),
    }
}

/// Whatever is added to a file goes to the one client that connects.
pub(crate) fn follow(file: &Path) {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify");
    inotify::add_watch(&watch, file, inotify::WatchFlags::MODIFY).expect("a watch");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    say_ready(&listener.local_addr().expect("an address").to_string());
    let (mut client, _) = listener.accept().expect("a client");
    client.set_nodelay(true).expect("a socket");
    let mut log = File::open(file).expect("a log");
    log.seek(SeekFrom::End(0)).expect("a file");
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let mut added = Vec::new();
    while events.next().is_ok() {
        added.clear();
        if log.read_to_end(&mut added).is_err() || client.write_all(&added).is_err() {
            break;
        }
    }
}
