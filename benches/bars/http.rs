//! HTTP over plain sockets: one blocking request, and a closed loop of many connections whose cost is the same whoever serves.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// GET on a connection of its own.
pub(crate) fn get(address: &str, path: &str) -> std::io::Result<Answer> {
    Connection::open(address)?.get(path)
}

/// One connection that is kept.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Header fields of every request, Host among them.
    pub(crate) fields: String,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: &str) -> std::io::Result<Self> {
        Self::with_fields(address, "")
    }

    /// With further header fields, a line each, in every request.
    pub(crate) fn with_fields(address: &str, fields: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self { stream, fields: format!("Host: {address}\r\n{fields}"), buffer: Vec::new() })
    }

    pub(crate) fn get(&mut self, path: &str) -> std::io::Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\n{}\r\n", self.fields);
        self.stream.write_all(request.as_bytes())?;
        self.answer()
    }

    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> std::io::Result<Answer> {
        let head = format!(
            "POST {path} HTTP/1.1\r\n{}Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
            self.fields,
            body.len()
        );
        self.stream.write_all(&[head.as_bytes(), body].concat())?;
        self.answer()
    }

    fn answer(&mut self) -> std::io::Result<Answer> {
        let mut chunk = [0; 64 * 1024];
        loop {
            if let Some((status, from, to)) = whole(&self.buffer) {
                let body = self.buffer[from..to].to_vec();
                self.buffer.drain(..to);
                return Ok(Answer { status, body });
            }
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }
}

fn request(path: &str, address: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")
}

/// The status and the place of the body, once all of it is there.
fn whole(bytes: &[u8]) -> Option<(u16, usize, usize)> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let fields = bytes.get(..head)?;
    let length = memchr::memmem::find(fields, b"content-length: ").map_or(0, |at| {
        fields[at + 16..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
    });
    let status = std::str::from_utf8(fields.get(9..12)?).ok()?.parse().ok()?;
    (bytes.len() >= head + length).then_some((status, head, head + length))
}

/// What a closed loop saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) p99_s: f64,
}

/// So many connections ask these paths in turn, each as soon as it has its answer, for so long.
pub(crate) fn load(address: &str, paths: &[String], connections: usize, time: Duration) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    // As many threads as actix has workers: no side waits for the other because of a thread that is missing.
    const THREADS: usize = 2;
    let latencies: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let stop = Arc::clone(&stop);
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
                    let local = tokio::task::LocalSet::new();
                    local.block_on(&runtime, async {
                        let clients: Vec<_> = (0..connections)
                            .filter(|at| at % THREADS == thread)
                            .map(|at| {
                                let requests: Vec<String> = (0..paths.len())
                                    .map(|n| request(&paths[(n + at) % paths.len()], address))
                                    .collect();
                                tokio::task::spawn_local(client(address.to_owned(), requests, Arc::clone(&stop)))
                            })
                            .collect();
                        let mut all = Vec::new();
                        for client in clients {
                            all.extend(client.await.expect("a client"));
                        }
                        all
                    })
                })
            })
            .collect();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    let elapsed = begun.elapsed().as_secs_f64();
    let mut latencies: Vec<f32> = latencies.concat();
    latencies.sort_by(f32::total_cmp);
    let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(f32::NAN);
    Load { per_second: latencies.len() as f64 / elapsed, p99_s: f64::from(p99) }
}

async fn client(address: String, requests: Vec<String>, stop: Arc<AtomicBool>) -> Vec<f32> {
    let mut stream = tokio::net::TcpStream::connect(&address).await.expect("it listens");
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 256 * 1024];
    let mut latencies = Vec::new();
    for request in requests.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let (mut filled, mut wanted) = (0, None);
        loop {
            if filled == buffer.len() {
                buffer.resize(buffer.len() * 2, 0);
            }
            let read = stream.read(&mut buffer[filled..]).await.expect("it answers");
            assert!(read > 0, "the server closed");
            filled += read;
            if wanted.is_none() {
                wanted = end_of_first(&buffer[..filled]);
            }
            if wanted.is_some_and(|wanted| filled >= wanted) {
                break;
            }
        }
        latencies.push(begun.elapsed().as_secs_f32());
    }
    latencies
}

/// Where the answer ends, once its head is there; every answer is a 200.
fn end_of_first(bytes: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    assert!(bytes.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&bytes[..head]));
    let at = memchr::memmem::find(&bytes[..head], b"content-length: ")? + 16;
    let digits = bytes[at..head].iter().take_while(|byte| byte.is_ascii_digit());
    Some(head + digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')))
}
