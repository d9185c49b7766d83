//! HTTP/1.1 without TLS: metrics, health, and FLV as it streams in.

use std::{future::poll_fn, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use http::{Request, StatusCode, Uri, header::HOST};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{net::TcpStream, task::JoinHandle};

use crate::{
    flv::{Reader, Tag},
    wait::wait_for,
};

/// For a whole plain answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Status and body of a GET.
pub async fn get(url: &str) -> io::Result<(StatusCode, String)> {
    let answer = tokio::time::timeout(ANSWER, async {
        let (status, body) = open(url).await?;
        let text = collect(body).await?;
        Ok((status, String::from_utf8_lossy(&text).into_owned()))
    });
    answer.await.map_err(|_elapsed| io::ErrorKind::TimedOut)?
}

/// A whole body.
pub async fn collect(mut body: Incoming) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(data) = next(&mut body).await? {
        all.extend(data);
    }
    Ok(all)
}

/// A metric's value, summed over its labels; `labels` must all be in the line. 0 where it is not there.
pub fn metric(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    metrics
        .lines()
        .filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// An FLV stream being read in the background.
pub struct FlvReader {
    read: Arc<Mutex<FlvRead>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct FlvRead {
    tags: Vec<Tag>,
    ended: Option<Result<(), String>>,
}

impl FlvReader {
    /// Starts to read; an answer other than 200 is the reader's end.
    pub fn start(url: &str) -> Self {
        let read = Arc::new(Mutex::new(FlvRead::default()));
        let (url, shared) = (url.to_owned(), read.clone());
        let task = tokio::spawn(async move {
            let result = follow(&url, &shared).await;
            shared.lock().ended = Some(result.map_err(|error| error.to_string()));
        });
        Self { read, task }
    }

    pub fn tags(&self) -> Vec<Tag> {
        self.read.lock().tags.clone()
    }

    pub fn ended(&self) -> Option<Result<(), String>> {
        self.read.lock().ended.clone()
    }

    /// Waits for the end of the stream; all its tags.
    pub async fn finish(&self, deadline: Duration) -> Vec<Tag> {
        let ended = wait_for("the FLV stream to end", deadline, async || self.ended()).await;
        assert_eq!(ended, Ok(()), "{} tags came", self.read.lock().tags.len());
        self.tags()
    }
}

impl Drop for FlvReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(url: &str, shared: &Mutex<FlvRead>) -> io::Result<()> {
    let (status, mut body) = open(url).await?;
    if status != StatusCode::OK {
        return Err(io::Error::other(format!("HTTP status {status}")));
    }
    let mut reader = Reader::default();
    while let Some(data) = next(&mut body).await? {
        let tags = reader.push(&data);
        shared.lock().tags.extend(tags);
    }
    Ok(())
}

async fn open(url: &str) -> io::Result<(StatusCode, Incoming)> {
    let uri: Uri = url.parse().map_err(io::Error::other)?;
    let authority = uri.authority().expect("an absolute URL").clone();
    let address: SocketAddr = authority
        .as_str()
        .replace("localhost", "127.0.0.1")
        .parse()
        .map_err(io::Error::other)?;
    let socket = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, authority.as_str())
        .body(String::new())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await;
    let (parts, body) = response.map_err(io::Error::other)?.into_parts();
    Ok((parts.status, body))
}

async fn next(body: &mut Incoming) -> io::Result<Option<bytes::Bytes>> {
    loop {
        let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await else {
            return Ok(None);
        };
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            return Ok(Some(data));
        }
    }
}
