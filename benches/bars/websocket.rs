//! A WebSocket client with nothing in it: the handshake, masked text out, unmasked frames in.

use std::io::{Error, ErrorKind, Result};

/// The request that opens `/ws/live`.
pub(crate) fn handshake(address: &str) -> String {
    handshake_with(address, "")
}

/// The same with further header fields, a line each.
pub(crate) fn handshake_with(address: &str, fields: &str) -> String {
    format!(
        "GET /ws/live HTTP/1.1\r\nHost: {address}\r\n{fields}Upgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A text frame of a client; the mask is all zeros, which the protocol takes.
pub(crate) fn text(words: &str) -> Vec<u8> {
    frame(0x81, words.as_bytes())
}

/// The answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    frame(0x8a, payload)
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(payload.len()) {
        Ok(short @ 0..126) => bytes.push(0x80 | short as u8),
        Ok(length) => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => panic!("a client's frame is short"),
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

/// What stands at the start of the bytes that came.
pub(crate) enum Incoming<'a> {
    Text(&'a [u8]),
    Ping(&'a [u8]),
    Close,
    Other,
}

/// The first frame and how many bytes it takes; `None` until all of it is there.
pub(crate) fn first(bytes: &[u8]) -> Result<Option<(Incoming<'_>, usize)>> {
    let [opcode, short, rest @ ..] = bytes else { return Ok(None) };
    let (length, head) = match short {
        126 => match rest {
            [a, b, ..] => (usize::from(u16::from_be_bytes([*a, *b])), 4),
            _ => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX), 10),
            None => return Ok(None),
        },
        0..126 => (usize::from(*short), 2),
        _ => return Err(Error::new(ErrorKind::InvalidData, "a server's frame is not masked")),
    };
    let Some(payload) = bytes.get(head..head + length) else { return Ok(None) };
    let incoming = match opcode {
        0x81 => Incoming::Text(payload),
        0x89 => Incoming::Ping(payload),
        0x88 => Incoming::Close,
        _ => Incoming::Other,
    };
    Ok(Some((incoming, head + length)))
}
