//! A client and a server with a wire between them: latency both ways, and a clock that is moved by hand.

#![allow(dead_code, unreachable_pub, reason = "shared by several test binaries")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rtmp::limits::Limits;
use rtmp::{
    ClientConfig, ClientEvent, ClientSession, ProtocolError, Purpose, Rejection, ServerConfig,
    ServerEvent, ServerSession, StreamKeyText,
};

use super::wire::start;

pub struct Pair {
    pub client: ClientSession,
    pub server: ServerSession,
    pub now: Instant,
    pub latency: Duration,
    /// How the network cuts what is sent, over and over: bytes, and milliseconds until the next piece. Empty: it does not.
    pub pieces: Vec<(usize, u64)>,
    /// What the server's driver answers a publish with.
    pub decision: Result<(), Rejection>,
    pub client_events: Vec<ClientEvent>,
    pub server_events: Vec<ServerEvent>,
    /// How the server's session ended.
    pub server_error: Option<ProtocolError>,
    to_server: Wire,
    to_client: Wire,
}

#[derive(Default)]
struct Wire {
    in_flight: VecDeque<(Instant, Bytes)>,
    arrived: BytesMut,
}

impl Pair {
    pub fn new(chunk_bytes_out: u32) -> Self {
        Self::with(chunk_bytes_out, Limits::default())
    }

    pub fn with(chunk_bytes_out: u32, limits: Limits) -> Self {
        Self::of(chunk_bytes_out, 0, limits)
    }

    /// A client that announces these bits of `capsEx`.
    pub fn announcing(caps_ex: u32) -> Self {
        Self::of(4096, caps_ex, Limits::default())
    }

    fn of(chunk_bytes_out: u32, caps_ex: u32, limits: Limits) -> Self {
        let now = start();
        let client = ClientConfig {
            purpose: Purpose::Publish,
            app: "live".to_owned(),
            tc_url: "rtmp://localhost/live".to_owned(),
            name: StreamKeyText::new("key".to_owned()),
            flash_ver: "pair".to_owned(),
            chunk_bytes_out,
            caps_ex,
        };
        let server = ServerConfig {
            limits,
            ..ServerConfig::default()
        };
        Self {
            client: ClientSession::new(client, &[1; 1528], now),
            server: ServerSession::new(server, &[2; 1528], now),
            now,
            latency: Duration::from_millis(20),
            pieces: Vec::new(),
            decision: Ok(()),
            client_events: Vec::new(),
            server_events: Vec::new(),
            server_error: None,
            to_server: Wire::default(),
            to_client: Wire::default(),
        }
    }

    /// Runs until nothing is on the wire any more; the clock moves with the wire.
    pub fn settle(&mut self) {
        loop {
            self.step();
            let next = [self.to_server.next(), self.to_client.next()];
            let Some(next) = next.into_iter().flatten().min() else {
                return;
            };
            self.now = next;
        }
    }

    /// Lets time go by; the server's deadlines are kept.
    pub fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        loop {
            self.step();
            let wakes = [
                self.to_server.next(),
                self.to_client.next(),
                self.server.poll_timeout(),
            ];
            match wakes.into_iter().flatten().min() {
                Some(wake) if wake <= until && self.server_error.is_none() => {
                    self.now = self.now.max(wake);
                    let outcome = self.server.handle_timeout(self.now);
                    self.server_error = outcome.err();
                }
                _ => break,
            }
        }
        self.now = until;
        self.step();
    }

    /// Delivers what has arrived, both ways, as often as something moves at this moment.
    fn step(&mut self) {
        self.deliver_to_server();
        self.to_client.deliver(self.now);
        self.client
            .handle_input(&mut self.to_client.arrived, self.now)
            .unwrap();
        while let Some(event) = self.client.poll_event() {
            self.client_events.push(event);
        }
        while let Some(bytes) = self.client.poll_transmit() {
            self.to_server
                .send(self.now + self.latency, bytes, &self.pieces);
        }
    }

    fn deliver_to_server(&mut self) {
        self.to_server.deliver(self.now);
        if self.server_error.is_none() {
            let input = &mut self.to_server.arrived;
            let outcome = self.server.handle_input(input, self.now);
            self.server_error = outcome.err();
        }
        let mut requested = false;
        while let Some(event) = self.server.poll_event() {
            requested |= matches!(event, ServerEvent::PublishRequested(_));
            self.server_events.push(event);
        }
        if requested {
            match self.decision.clone() {
                Ok(()) => self.server.accept_publish(self.now),
                Err(rejection) => self.server.reject(rejection),
            }
        }
        while let Some(bytes) = self.server.poll_transmit() {
            self.to_client
                .send(self.now + self.latency, bytes, &self.pieces);
        }
    }
}

impl Wire {
    /// In order, as TCP does: nothing overtakes what was sent before.
    fn send(&mut self, arrives: Instant, mut bytes: Bytes, pieces: &[(usize, u64)]) {
        let last = self.in_flight.back().map(|(arrives, _)| *arrives);
        let mut arrives = last.map_or(arrives, |last| last.max(arrives));
        for (length, pause) in pieces.iter().cycle() {
            if bytes.is_empty() {
                return;
            }
            let piece = bytes.split_to(bytes.len().min(*length));
            self.in_flight.push_back((arrives, piece));
            arrives += Duration::from_millis(*pause);
        }
        self.in_flight.push_back((arrives, bytes));
    }

    fn next(&self) -> Option<Instant> {
        self.in_flight.front().map(|(arrives, _)| *arrives)
    }

    fn deliver(&mut self, now: Instant) {
        while self.next().is_some_and(|arrives| arrives <= now) {
            if let Some((_, bytes)) = self.in_flight.pop_front() {
                self.arrived.extend_from_slice(&bytes);
            }
        }
    }
}
