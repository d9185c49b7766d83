//! PROXY headers. The reader is private to the edge, and stays so: its source is compiled in.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

#[path = "../../../crates/edge/src/listener/proxy.rs"]
#[allow(dead_code, reason = "the listener uses all of it")]
mod header;

/// No header is longer, by far.
const HEADER_BYTES_MAX: usize = 16 + 2048;

/// The bytes of a connection from their start.
pub(crate) fn proxy(data: &[u8]) {
    let mut stream = data;
    let outcome = {
        let mut read = pin!(header::read(&mut stream));
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(outcome) = read.as_mut().poll(&mut context) else {
            panic!("there is nothing to wait for");
        };
        outcome
    };
    let taken = data.len() - stream.len();
    match outcome {
        Ok(_) => assert!((12..=HEADER_BYTES_MAX).contains(&taken), "{taken} bytes"),
        Err(error) => assert!(!error.reason().is_empty()),
    }
}
