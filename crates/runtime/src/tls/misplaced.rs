//! TLS where there is none: the peer gets nothing that it understands, so the log says what is wrong.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tracing::info;

/// First byte of a handshake record (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;

/// On a port without TLS: whether the peer speaks it all the same, which is then in the log. Waits for the peer's first
/// byte, without a deadline of its own, and takes nothing from the stream.
pub async fn is_misplaced(stream: &TcpStream, client_address: SocketAddr) -> bool {
    let mut first = [0];
    let misplaced = matches!(stream.peek(&mut first).await, Ok(1)) && first == [HANDSHAKE];
    if misplaced {
        info!(%client_address, reason = "tls_on_plain_port", "TLS used on a port without it");
    }
    misplaced
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn the_first_byte_tells_and_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (sent, misplaced) in [(b"\x16\x03\x01", true), (b"GET", false), (b"PRI", false)] {
            let address = listener.local_addr().unwrap();
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(sent).await.unwrap();
            let (mut accepted, peer) = listener.accept().await.unwrap();
            assert_eq!(is_misplaced(&accepted, peer).await, misplaced);
            let mut received = [0; 3];
            accepted.read_exact(&mut received).await.unwrap();
            assert_eq!(&received, sent);
        }
    }
}
