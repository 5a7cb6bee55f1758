//! One WebSocket over the HTTP library's codec. What comes in is bounded before it is held; what goes out waits in a small
//! outbox, which the connection empties by itself as its peer reads.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_http::ws::{self, CloseCode, CloseReason, Codec, Item, Message, ProtocolError};
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, dev, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio_util::codec::{Decoder as _, Encoder as _};

use crate::http::error::ApiError;
use crate::http::principal::{BEARER_PROTOCOL, offered_bearer};

/// The largest message that a client may send, in bytes.
pub(super) const MAX_INCOMING: usize = 4 * 1024;
/// The head of a frame at its longest.
const LONGEST_HEAD: usize = 14;
/// How many bytes may wait before no further frame is put in; the frame that passes it still is.
const OUTBOX_BYTES: usize = 8 * 1024;
/// Frames up to this length are copied into the outbox, so that a client that does not read holds on to nothing shared.
const COPIED: usize = 8 * 1024;
/// How much the connection takes at a time: it holds what it took until the peer has read it.
const PIECE: usize = 8 * 1024;

/// Answers the handshake.
pub(super) fn upgrade(request: &HttpRequest, payload: web::Payload) -> Result<(HttpResponse, Outbox, Inbox), ApiError> {
    let not_a_websocket = || ApiError::bad_request("not_a_websocket", "this address speaks WebSocket only");
    // The library would shake hands over any word that holds this one, and then frame the answer as plain HTTP.
    if !request.headers().get(header::UPGRADE).is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(not_a_websocket());
    }
    let mut response = ws::handshake(request.head()).map_err(|_| not_a_websocket())?;
    if offered_bearer(request.headers()).is_some() {
        // A browser gives the connection up unless one of the protocols that it offered is chosen.
        response.insert_header((header::SEC_WEBSOCKET_PROTOCOL, BEARER_PROTOCOL));
    }
    let outbox = Outbox::default();
    let body = Body(Rc::clone(&outbox.0)).boxed();
    let response = response.message_body(body).map_err(|error| {
        log::error!("a handshake failed: {error}");
        ApiError::of_status(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR)
    })?;
    let inbox = Inbox {
        payload: payload.into_inner(),
        buffer: BytesMut::new(),
        codec: Codec::new().max_size(MAX_INCOMING),
        fragments: None,
    };
    Ok((response.into(), outbox, inbox))
}

/// Appends a text message as it goes over the wire: the same bytes for every client.
pub(super) fn put_text(text: String, wire: &mut BytesMut) {
    put(Message::Text(text.into()), wire);
}

fn put(message: Message, wire: &mut BytesMut) {
    // A server's codec takes every message but a continuation out of order.
    let _ = Codec::new().encode(message, wire);
}

/// What waits to be sent.
#[derive(Default)]
pub(super) struct Outbox(Rc<RefCell<Waiting>>);

#[derive(Default)]
struct Waiting {
    /// Whole frames, the first one perhaps without what was taken already; then those in `tail`.
    frames: VecDeque<Bytes>,
    tail: BytesMut,
    bytes: usize,
    /// Nothing more is put in; the connection ends when the outbox is empty.
    is_closing: bool,
    /// The connection is gone.
    is_gone: bool,
    connection: Option<Waker>,
    client: Option<Waker>,
}

/// The connection is gone.
#[derive(Debug)]
pub(super) struct Gone;

impl Outbox {
    /// Whether another frame may be put in.
    pub(super) fn has_room(&self) -> bool {
        self.0.borrow().bytes < OUTBOX_BYTES
    }

    /// Waits until another frame may be put in, or the connection is gone.
    pub(super) async fn room(&self) -> Result<(), Gone> {
        self.wait(
            |waiting| if waiting.is_gone { Some(Err(Gone)) } else { (waiting.bytes < OUTBOX_BYTES).then_some(Ok(())) },
        )
        .await
    }

    /// Waits until the connection is gone.
    pub(super) async fn gone(&self) -> Gone {
        self.wait(|waiting| waiting.is_gone.then_some(Gone)).await
    }

    async fn wait<T>(&self, is_over: impl Fn(&Waiting) -> Option<T>) -> T {
        poll_fn(|context| {
            let mut waiting = self.0.borrow_mut();
            match is_over(&waiting) {
                Some(end) => Poll::Ready(end),
                None => {
                    // One task waits here, perhaps for both.
                    waiting.client = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Puts a frame in, as it goes over the wire.
    pub(super) fn push(&self, frame: &Bytes) {
        let waker = {
            let mut waiting = self.0.borrow_mut();
            if waiting.is_gone || waiting.is_closing {
                return;
            }
            waiting.bytes += frame.len();
            if frame.len() <= COPIED {
                waiting.tail.extend_from_slice(frame);
            } else {
                let tail = waiting.tail.split().freeze();
                waiting.frames.extend((!tail.is_empty()).then_some(tail));
                waiting.frames.push_back(frame.clone());
            }
            waiting.connection.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Puts in a message that is this client's alone.
    pub(super) fn push_message(&self, message: Message) {
        let mut wire = BytesMut::new();
        put(message, &mut wire);
        self.push(&wire.freeze());
    }

    /// Says goodbye; what waits goes out first.
    pub(super) fn close(&self, reason: Option<CloseReason>) {
        self.push_message(Message::Close(reason));
        self.end();
    }

    fn end(&self) {
        let waker = {
            let mut waiting = self.0.borrow_mut();
            waiting.is_closing = true;
            waiting.connection.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.end();
    }
}

/// The connection's end of the outbox: the body of the handshake's answer.
struct Body(Rc<RefCell<Waiting>>);

impl MessageBody for Body {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let (piece, waker) = {
            let mut waiting = self.0.borrow_mut();
            let piece = match waiting.frames.pop_front() {
                Some(mut frame) if frame.len() > PIECE => {
                    let piece = frame.split_to(PIECE);
                    waiting.frames.push_front(frame);
                    piece
                }
                Some(frame) => frame,
                None => {
                    let length = waiting.tail.len().min(PIECE);
                    waiting.tail.split_to(length).freeze()
                }
            };
            if piece.is_empty() {
                if waiting.is_closing {
                    return Poll::Ready(None);
                }
                // A burst leaves no buffer behind.
                waiting.tail = BytesMut::new();
                waiting.connection = Some(context.waker().clone());
                return Poll::Pending;
            }
            waiting.bytes -= piece.len();
            (piece, (waiting.bytes < OUTBOX_BYTES).then(|| waiting.client.take()).flatten())
        };
        waker.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(Ok(piece)))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let waker = {
            let mut waiting = self.0.borrow_mut();
            waiting.is_gone = true;
            (waiting.frames, waiting.tail) = Default::default();
            waiting.client.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

/// What comes in.
pub(super) struct Inbox {
    payload: dev::Payload,
    buffer: BytesMut,
    codec: Codec,
    /// A message that comes in pieces, as far as it is here.
    fragments: Option<BytesMut>,
}

/// What a client sent.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A message.
    Text(String),
    /// A question for a pong.
    Ping(Bytes),
    /// A sign of life.
    Pong,
    /// It says goodbye, or its connection has ended.
    End,
}

/// Why a client's bytes are not read any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A message over [`MAX_INCOMING`].
    TooLong,
    /// A message that is not text.
    Binary,
    /// Text that is not UTF-8.
    NotUtf8,
    /// No WebSocket frame.
    Protocol,
}

impl Fault {
    /// How the socket is closed.
    pub(super) fn close_reason(self) -> CloseReason {
        let (code, words) = match self {
            Self::TooLong => (CloseCode::Size, "a message has at most 4 KiB"),
            Self::Binary => (CloseCode::Unsupported, "messages are JSON text"),
            Self::NotUtf8 => (CloseCode::Invalid, "the text is not UTF-8"),
            Self::Protocol => (CloseCode::Protocol, "this is no WebSocket frame"),
        };
        CloseReason { code, description: Some(words.to_owned()) }
    }
}

impl Inbox {
    /// The next thing that the client sent. Nothing is lost when this is dropped half way.
    pub(super) async fn next(&mut self) -> Result<Incoming, Fault> {
        loop {
            while let Some(frame) = self.codec.decode(&mut self.buffer).map_err(fault)? {
                if let Some(incoming) = self.take(frame)? {
                    return Ok(incoming);
                }
            }
            // The codec waits for the whole of a frame, however long it says it is.
            if self.buffer.len() > MAX_INCOMING + LONGEST_HEAD {
                return Err(Fault::TooLong);
            }
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
            match self.payload.next().await {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(_)) | None => return Ok(Incoming::End),
            }
        }
    }

    fn take(&mut self, frame: ws::Frame) -> Result<Option<Incoming>, Fault> {
        let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(Incoming::Text(text.to_owned()))),
            Err(_) => Err(Fault::NotUtf8),
        };
        match frame {
            ws::Frame::Text(bytes) => text(&bytes),
            ws::Frame::Ping(bytes) => Ok(Some(Incoming::Ping(bytes))),
            ws::Frame::Pong(_) => Ok(Some(Incoming::Pong)),
            ws::Frame::Close(_) => Ok(Some(Incoming::End)),
            ws::Frame::Binary(_) | ws::Frame::Continuation(Item::FirstBinary(_)) => Err(Fault::Binary),
            ws::Frame::Continuation(Item::FirstText(bytes)) => {
                self.fragments = Some(BytesMut::from(&bytes[..]));
                Ok(None)
            }
            ws::Frame::Continuation(Item::Continue(bytes)) => self.gather(&bytes).map(|()| None),
            ws::Frame::Continuation(Item::Last(bytes)) => {
                self.gather(&bytes)?;
                text(&self.fragments.take().unwrap_or_default())
            }
        }
    }

    fn gather(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let fragments = self.fragments.get_or_insert_default();
        if fragments.len() + bytes.len() > MAX_INCOMING {
            return Err(Fault::TooLong);
        }
        fragments.extend_from_slice(bytes);
        Ok(())
    }
}

fn fault(error: ProtocolError) -> Fault {
    match error {
        ProtocolError::Overflow => Fault::TooLong,
        _ => Fault::Protocol,
    }
}
