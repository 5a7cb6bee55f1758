//! What a client of the live feed sends: any bytes as they are, or any texts in frames of their own. No panic, and the
//! feed ends when its client is gone.
#![no_main]

use actix_web::body::MessageBody;
use kahn_fuzz::Server;
use libfuzzer_sys::{Corpus, fuzz_target};

// Never dropped: at the end of the process nothing is left that it could be dropped with.
thread_local!(static SERVER: &'static Server = Box::leak(Box::default()));

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((first, rest)) = data.split_first() else { return Corpus::Reject };
    let sent = if *first == b'{' { data.split(|byte| *byte == b'\n').flat_map(frame).collect() } else { rest.to_vec() };
    SERVER.with(|server| server.block_on(talk(server, sent)))
});

/// A text frame, as a client masks it (with zeros, so that its text stands in it as it is).
fn frame(text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u16::try_from(text.len()) {
        Ok(length @ 0..=125) => frame.push(0x80 | length as u8),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((text.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text);
    frame
}

async fn talk(server: &Server, sent: Vec<u8>) -> Corpus {
    let request = Server::request("/ws/live").expect("a target");
    let upgrade = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let request = upgrade.into_iter().fold(request, |request, header| request.insert_header(header));
    let Some(answer) = server.ask(request.set_payload(sent)).await else { return Corpus::Reject };
    assert_eq!(answer.status(), 101);
    let mut body = Box::pin(answer.into_body());
    while let Some(Ok(_)) = std::future::poll_fn(|context| body.as_mut().poll_next(context)).await {}
    Corpus::Keep
}
