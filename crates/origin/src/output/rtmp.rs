//! RTMP: `rtmp://host:1936/{app}/{stream}?token=…[&wait=SECONDS]`, for what cannot read HTTP-FLV: media servers that pull,
//! hardware, VLC, GStreamer.
//!
//! As with HTTP-FLV, a player that joins late gets metadata, sequence headers and the current GOP first, one that falls
//! behind goes on at a keyframe, and `wait` asks to be held until the stream starts. Bodies pass as they were published,
//! Enhanced RTMP and every track included, whatever the player announced in connect: FFmpeg announces nothing and plays
//! all of it. Nobody publishes here.

mod connection;

use std::sync::Arc;

use runtime::connections;

use self::connection::Connection;
use super::players::Players;
use crate::RtmpListener;

/// Takes players until a drain, then lets every stream finish; ends at once when the process stops.
pub(crate) async fn serve(listener: RtmpListener, players: Players) {
    let RtmpListener {
        certificate,
        listener,
    } = listener;
    let certificate = certificate.map(Arc::new);
    let shutdown = players.shutdown.clone();
    let connections_max = players.config.limits.rtmp_connections_max;
    let serve = |socket, client_address| {
        let (players, certificate) = (players.clone(), certificate.clone());
        Connection::serve(socket, client_address, certificate, players)
    };
    let (closing, stopping) = (shutdown.draining(), shutdown.stopping());
    connections::serve(listener, connections_max, serve, closing, stopping).await;
}
