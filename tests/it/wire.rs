//! HTTP as an attacker writes it: bytes over a socket, with whatever head, several of one field, no field at all.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use crate::support::{Kitchen, PATIENCE};

/// What came back: every header field, also those that stand twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The one value of a field.
    pub(crate) fn one(&self, name: &str) -> &str {
        let values = self.all(name);
        assert_eq!(values.len(), 1, "{name}: {self:?}");
        values[0]
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The code of a problem, whose whole shape is looked at: the members, their order, what follows from the code.
    pub(crate) fn problem(&self) -> String {
        let text = self.text();
        assert_eq!(self.one("content-type"), "application/problem+json", "{text}");
        assert_eq!(self.one("cache-control"), "no-store", "{text}");
        let problem = self.json();
        let code = problem["code"].as_str().expect("a code").to_owned();
        let mut title = code.replace('_', " ");
        title[..1].make_ascii_uppercase();
        let start = format!(
            r#"{{"type":"/problems/{}","title":"{title}","status":{},"detail":{},"code":"{code}","#,
            code.replace('_', "-"),
            self.status,
            problem["detail"]
        );
        assert!(text.starts_with(&start), "{text} begins with {start}");
        let end = format!(r#""request_id":"{}"}}"#, self.one("x-request-id"));
        assert!(text.ends_with(&end), "{text} ends with {end}");
        let between = ["allowed", "line", "seq", "next_seq", "scope", "retry_after_s", "limit", "only_in"];
        let always = ["type", "title", "status", "detail", "code", "request_id"];
        for name in problem.as_object().expect("an object").keys() {
            assert!(always.iter().chain(&between).any(|known| known == name), "{name}: {text}");
        }
        code
    }
}

/// A connection that stays open from one request to the next.
pub(crate) struct Wire {
    stream: BufReader<TcpStream>,
}

impl Wire {
    pub(crate) fn open(url: &str) -> Self {
        let host = url.strip_prefix("http://").expect("an http address");
        let stream = TcpStream::connect(host).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Self { stream: BufReader::new(stream) }
    }

    /// Sends bytes as they are; a server that answered already may have closed its side.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    /// The next answer; `None` where the connection ends without one. The answer to HEAD has no body.
    pub(crate) fn reply(&mut self, is_head: bool) -> Option<Reply> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
        let mut headers = Vec::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("a header field");
            match line.trim_end().split_once(':') {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                None => break,
            }
        }
        let mut reply = Reply { status, headers, body: Vec::new() };
        if status == 100 {
            return self.reply(is_head);
        }
        if !is_head && status != 304 && status != 101 {
            let length = reply.one("content-length").parse().expect("a length");
            reply.body = vec![0; length];
            self.stream.read_exact(&mut reply.body).expect("the body");
        }
        Some(reply)
    }

    /// One request with this head, less its end; Host is the caller's.
    pub(crate) fn ask(&mut self, head: &str, body: &[u8]) -> Reply {
        assert!(!head.ends_with('\n'), "the end of the head is added");
        self.send(&[format!("{head}\r\n\r\n").as_bytes(), body].concat());
        self.reply(head.starts_with("HEAD ")).unwrap_or_else(|| panic!("no answer to {head}"))
    }
}

/// One request over a connection of its own.
pub(crate) fn ask(url: &str, head: &str, body: &[u8]) -> Reply {
    Wire::open(url).ask(head, body)
}

/// `METHOD TARGET HTTP/1.1`, the Host of this server and the key that the path wants.
pub(crate) fn head(kitchen: &Kitchen, method: &str, target: &str) -> String {
    let host = kitchen.server.url.strip_prefix("http://").expect("an http address");
    let key = kitchen.bearer(target).map(|bearer| format!("\r\nAuthorization: {bearer}")).unwrap_or_default();
    format!("{method} {target} HTTP/1.1\r\nHost: {host}{key}")
}
