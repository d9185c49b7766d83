//! An API server on a bad day. Between the operator and the real one, requests are refused, lost on their way, or done
//! and never answered; and a write can be the last one that a process sees done.

use std::{
    convert::Infallible,
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderName, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::{
    Client, Config,
    client::Body,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use parking_lot::Mutex;
use tests::kube::ControlPlane;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};

use super::{random::Random, repair::Disturbances};

/// In a storm, one write in this many fails.
const WRITES_PER_FAULT: usize = 4;
/// And one read. A pass makes dozens.
const READS_PER_FAULT: usize = 150;
/// What a refusal is.
const REFUSALS: [StatusCode; 4] = [
    StatusCode::CONFLICT,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::SERVICE_UNAVAILABLE,
];
/// Of a connection between two others.
const OF_ONE_CONNECTION: [HeaderName; 4] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TRANSFER_ENCODING,
];

/// The way to the API server. Plain HTTP: it is the operator's alone, and on loopback.
pub(super) struct UnreliableApi {
    shared: Arc<Shared>,
    pub(super) url: String,
    _task: JoinSet<()>,
}

struct Shared {
    to: Client,
    random: Mutex<Random>,
    stormy: AtomicBool,
    trap: Mutex<Trap>,
    disturbances: Arc<Disturbances>,
}

/// What happens after so many writes.
enum Trap {
    Idle,
    Set {
        writes_left: usize,
        sprung: oneshot::Sender<()>,
    },
    /// Nothing is answered any more.
    Sprung,
}

/// What becomes of a request.
#[derive(Clone, Copy)]
enum Fate {
    Answered,
    Refused(StatusCode),
    LostBefore,
    LostAfter,
}

impl UnreliableApi {
    pub(super) async fn start(
        plane: &ControlPlane,
        random: Random,
        disturbances: Arc<Disturbances>,
    ) -> Self {
        let kubeconfig = Kubeconfig::read_from(plane.kubeconfig()).unwrap();
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        // Requests bring their own.
        config.auth_info = AuthInfo::default();
        let shared = Arc::new(Shared {
            to: Client::try_from(config).unwrap(),
            random: Mutex::new(random),
            stormy: AtomicBool::new(false),
            trap: Mutex::new(Trap::Idle),
            disturbances,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut task = JoinSet::new();
        task.spawn(serve(listener, shared.clone()));
        Self {
            shared,
            url,
            _task: task,
        }
    }

    pub(super) fn storm(&self, stormy: bool) {
        self.shared.stormy.store(stormy, Ordering::Relaxed);
    }

    pub(super) fn is_stormy(&self) -> bool {
        self.shared.stormy.load(Ordering::Relaxed)
    }

    /// Ends when that many more writes are done; the last of them is not answered, and nothing after it is even begun.
    pub(super) fn stop_after(&self, writes: usize) -> oneshot::Receiver<()> {
        let (sprung, wait) = oneshot::channel();
        *self.shared.trap.lock() = Trap::Set {
            writes_left: writes,
            sprung,
        };
        wait
    }

    /// For the next process.
    pub(super) fn go_on(&self) {
        *self.shared.trap.lock() = Trap::Idle;
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        tokio::spawn(connection(socket, shared.clone()));
    }
}

async fn connection(socket: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { shared.answer(request).await }
    });
    // A connection that is cut is what this is for.
    http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .await
        .ok();
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let is_write = is_write(&request);
        if is_write && matches!(*self.trap.lock(), Trap::Sprung) {
            never().await;
        }
        let fate = self.fate(&request);
        if !matches!(fate, Fate::Answered) {
            self.disturbances.note();
        }
        match fate {
            Fate::Refused(code) => return Ok(refusal(code)),
            Fate::LostBefore => return Err(cut()),
            Fate::Answered | Fate::LostAfter => {}
        }
        let answer = self.forward(request).await?;
        if is_write && self.count_write() {
            never().await;
        }
        match fate {
            Fate::LostAfter => Err(cut()),
            Fate::Answered | Fate::LostBefore | Fate::Refused(_) => Ok(answer),
        }
    }

    async fn forward(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (mut parts, body) = request.into_parts();
        for name in OF_ONE_CONNECTION {
            parts.headers.remove(name);
        }
        let body = tests::http::collect(body).await?;
        let request = Request::from_parts(parts, Body::from(body));
        // The API server may be away.
        self.to.send(request).await.map_err(|_away| cut())
    }

    fn fate(&self, request: &Request<Incoming>) -> Fate {
        // The Lease has a disturbance of its own: an API server that is away for longer than it holds.
        let spared = is_watch(request) || is_lease(request);
        if spared || !self.stormy.load(Ordering::Relaxed) {
            return Fate::Answered;
        }
        let mut random = self.random.lock();
        let one_in = if is_write(request) {
            WRITES_PER_FAULT
        } else {
            READS_PER_FAULT
        };
        if random.below(one_in) != 0 {
            return Fate::Answered;
        }
        match random.below(3) {
            0 => Fate::Refused(*random.one_of(&REFUSALS)),
            1 => Fate::LostBefore,
            _ => Fate::LostAfter,
        }
    }

    /// Whether it was the last one.
    fn count_write(&self) -> bool {
        let mut trap = self.trap.lock();
        match std::mem::replace(&mut *trap, Trap::Idle) {
            Trap::Idle => false,
            Trap::Sprung => {
                *trap = Trap::Sprung;
                true
            }
            Trap::Set {
                writes_left,
                sprung,
            } if writes_left > 1 => {
                *trap = Trap::Set {
                    writes_left: writes_left - 1,
                    sprung,
                };
                false
            }
            Trap::Set { sprung, .. } => {
                *trap = Trap::Sprung;
                sprung.send(()).ok();
                true
            }
        }
    }
}

/// The connection ends without an answer.
fn cut() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

async fn never() {
    match pending::<Infallible>().await {}
}

fn is_watch(request: &Request<Incoming>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.contains("watch=")
}

fn is_lease(request: &Request<Incoming>) -> bool {
    request.uri().path().contains("/leases")
}

fn is_write(request: &Request<Incoming>) -> bool {
    request.method() != Method::GET && !is_lease(request)
}

fn refusal(code: StatusCode) -> Response<Body> {
    let status = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "message": "a bad day",
        "code": code.as_u16(),
    });
    let mut response = Response::new(Body::from(status.to_string().into_bytes()));
    *response.status_mut() = code;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
