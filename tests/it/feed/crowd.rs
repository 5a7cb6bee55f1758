//! Many clients at once. If these fail, clients harm each other, or what they took is not given back.

use futures_util::future::join_all;
use serde_json::json;

use super::{Mirror, Socket, append, block_on, line};
use crate::backend;
use crate::support::wait_for;

#[test]
fn who_comes_while_others_write_misses_nothing() {
    let kitchen = backend::empty();
    append(&kitchen, 0..1);
    let events = 300;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| (1..events).for_each(|seq| append(&kitchen, seq..seq + 1)));
        block_on(async {
            let lines: Vec<String> = (0..events).map(line).collect();
            let mut mirrors = Vec::new();
            while mirrors.len() < 40 && !writing.is_finished() {
                let mut mirror = Mirror::of(Socket::open(&kitchen).await, "r").await;
                mirror.take().await;
                mirrors.push(mirror);
            }
            let ends = mirrors.iter_mut().map(async |mirror| {
                mirror.until(&lines).await;
                assert_eq!((mirror.resets, mirror.errors.len()), (0, 0));
                mirror.socket.is_quiet().await;
            });
            join_all(ends).await;
        });
    });
}

#[test]
fn a_crowd_is_served_whoever_does_not_read_and_gives_everything_back() {
    let kitchen = backend::empty();
    append(&kitchen, 0..1);
    let crowd = 200;
    let before = kitchen.server.descriptors();
    block_on(async {
        let lines: Vec<String> = (0..200).map(line).collect();
        let mut mirrors = Vec::new();
        let mut silent = Vec::new();
        for number in 0..crowd {
            let mirror = Mirror::of(Socket::open(&kitchen).await, "r").await;
            if number % 10 == 0 { silent.push(mirror) } else { mirrors.push(mirror) }
        }
        for seq in (1..200).step_by(20) {
            append(&kitchen, seq..(seq + 20).min(200));
            for mirror in &mut mirrors {
                mirror.until(&lines[..usize::try_from(seq + 20).expect("a count").min(200)]).await;
            }
        }
        for mirror in &mut mirrors {
            mirror.socket.is_quiet().await;
        }
    });
    // A store may have opened some of its own.
    wait_for("the descriptors to come back", || (kitchen.server.descriptors() < before + crowd / 10).then_some(()));
}

#[test]
fn everybody_is_told_that_the_server_stops() {
    let kitchen = backend::empty();
    append(&kitchen, 0..1);
    block_on(async {
        let mut sockets = Vec::new();
        for number in 0..50 {
            let mut socket = Socket::open(&kitchen).await;
            if number % 2 == 0 {
                socket.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 0})).await;
                socket.events(1).await;
            }
            sockets.push(socket);
        }
        let ended = std::thread::spawn(move || kitchen.terminate());
        for socket in &mut sockets {
            assert_eq!(socket.next().await, json!({"type": "close", "code": 1001}));
        }
        drop(sockets);
        assert_eq!(ended.join().expect("it ended"), Some(0));
    });
}
