//! HTTP-FLV, byte by byte.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

/// A whole response: status line and headers, and the body with its chunks joined.
async fn get(address: SocketAddr, path: &str) -> (String, Vec<u8>) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: origin\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    let read = socket.read_to_end(&mut response);
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("an end")
        .unwrap();
    let end = response
        .windows(4)
        .position(|at| at == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(response[..end].to_vec()).unwrap();
    let mut rest = &response[end + 4..];
    if !head.contains("chunked") {
        return (head, rest.to_vec());
    }
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|at| at == b"\r\n").unwrap();
        let length = std::str::from_utf8(&rest[..line]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return (head, body);
        }
        body.extend_from_slice(&rest[line + 2..][..length]);
        rest = &rest[line + 2 + length + 2..];
    }
}

/// The file that a recording makes.
pub(super) fn file(frames: &[Frame]) -> Vec<u8> {
    let mut file = flv::file_header(true, true).to_vec();
    for frame in frames {
        let body = flv::player_body(frame);
        file.extend(flv::tag_header(frame.kind, frame.timestamp_ms, body.len()).unwrap());
        file.extend(&body);
        file.extend(flv::previous_tag_size(body.len()));
    }
    file
}

#[tokio::test]
async fn a_player_that_waits_for_the_stream_gets_the_file_as_published() {
    let origin = start(config()).await;
    let address = origin.http;
    let path = format!("/live/live/main.flv?token={CREDENTIAL}&wait=20");
    let player = tokio::spawn(async move { get(address, &path).await });
    let mut frames = recording(2);
    frames.push(audio(790));
    eventually("the player waits", async || origin.waiting(1)).await;
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    publisher.publish(&frames).await;
    publisher.close("done").await;
    let (head, body) = player.await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("content-type: video/x-flv"), "{head}");
    assert!(body == file(&frames));
}

/// A player of the stream that is there, once it is attached.
pub(super) async fn late_player(origin: &Running) -> JoinHandle<(String, Vec<u8>)> {
    let (address, metrics) = (origin.http, origin.metrics.clone());
    let path = format!("/live/live/main.flv?token={CREDENTIAL}");
    let player = tokio::spawn(async move { get(address, &path).await });
    eventually("the player is attached", async || {
        metrics
            .encode()
            .contains("sent_bytes_total{output=\"flv\"}")
    })
    .await;
    player
}

#[tokio::test]
async fn a_late_player_gets_headers_and_the_current_gop() {
    let origin = start(config()).await;
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut frames = recording(2);
    frames[12..]
        .iter_mut()
        .for_each(|f| f.timestamp_ms += 1_000_000);
    publisher.publish(&frames).await;
    let player = late_player(&origin).await;
    publisher.close("done").await;
    let (_, body) = player.await.unwrap();
    let base_ms = frames[12].timestamp_ms - 500;
    let mut expected = vec![metadata(), video_header()];
    expected.iter_mut().for_each(|f| f.timestamp_ms = 500);
    expected.extend(frames[12..].iter().cloned().map(|mut frame| {
        frame.timestamp_ms -= base_ms;
        frame
    }));
    let mut expected = file(&expected);
    // Only video is there, and the header says so.
    expected[4] = 1;
    assert!(body == expected);
}

#[tokio::test]
async fn refusals_are_readable() {
    let origin = start(config()).await;
    for (path, status, text) in [
        (
            "/live/live/main.flv",
            401,
            "a token is required: ?token=…\n",
        ),
        (
            "/live/live/main.flv?token=no",
            401,
            "the token is not valid\n",
        ),
        (
            "/live/live/main.flv?token=let-me-in",
            404,
            "no such stream is live\n",
        ),
        (
            "/live/live/main.flv?token=let-me-in&wait=1",
            404,
            "no such stream is live\n",
        ),
        (
            "/live/main.flv?token=let-me-in",
            404,
            "a stream is at /live/{app}/{stream}.flv\n",
        ),
        (
            "/live/live/main?token=let-me-in",
            404,
            "a stream is at /live/{app}/{stream}.flv\n",
        ),
    ] {
        let (head, body) = get(origin.http, path).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert_eq!(String::from_utf8(body).unwrap(), text, "{path}");
    }
}
