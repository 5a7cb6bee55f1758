//! What the targets share: a log folded, and the whole server in this process.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::Uri;
use actix_web::rt::System;
use actix_web::test::{TestRequest, init_service};
use futures_util::future::LocalBoxFuture;
use kahn::backend::{MODE, Options, select_backend};
use kahn::config::{Config, Typed};
use kahn::domain::{LineSplitter, Piece, parse_line};
use kahn::http::app;
use kahn::reduce::RunState;
use kahn::services::{Services, SystemClock};

/// The lines of a log, as the readers see them.
pub fn lines_of(log: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    LineSplitter::default().push(log, |piece, _, _| {
        if let Piece::Line(line) = piece {
            lines.push(line.to_vec());
        }
    });
    lines
}

/// The fold of those lines that are kept.
pub fn fold_onto(mut state: RunState, lines: &[Vec<u8>]) -> RunState {
    for line in lines {
        if let Ok(event) = parse_line(line) {
            state.fold(&event, line);
        }
    }
    state
}

/// The server over the sample archive, asked in this process.
pub struct Server {
    system: actix_web::rt::SystemRunner,
    ask: Rc<dyn Fn(TestRequest) -> LocalBoxFuture<'static, Option<ServiceResponse>>>,
}

impl Default for Server {
    fn default() -> Self {
        let system = System::new();
        let ask = system.block_on(async {
            let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data");
            let options = Options::of_fixture_dir(data);
            let mut mistakes = Vec::new();
            let config = Config::check(&Typed::default(), &Options::defaults(), &mut mistakes);
            let backend = select_backend(&options, &config).await.expect("the sample archive opens");
            let services = Services::start(backend, Arc::new(SystemClock), MODE, &config);
            let app = Rc::new(init_service(app(services)).await);
            let ask: Rc<dyn Fn(TestRequest) -> LocalBoxFuture<'static, Option<ServiceResponse>>> =
                Rc::new(move |request| {
                    let app = Rc::clone(&app);
                    Box::pin(async move {
                        let answer = app.call(request.to_request()).await.ok()?;
                        Some(answer.map_into_boxed_body())
                    })
                });
            ask
        });
        Self { system, ask }
    }
}

impl Server {
    /// A request as a local client sends it; `None` for a target that no HTTP parser would hand on.
    pub fn request(target: &str) -> Option<TestRequest> {
        let uri = Uri::try_from(target).ok().filter(|uri| uri.path().starts_with('/'))?;
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        Some(TestRequest::get().uri(&uri.to_string()).peer_addr(peer).insert_header(("host", "127.0.0.1")))
    }

    /// The answer to a request.
    pub fn ask(&self, request: TestRequest) -> impl Future<Output = Option<ServiceResponse>> + use<> {
        (self.ask)(request)
    }

    /// Runs to the end what asks.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.system.block_on(future)
    }
}
