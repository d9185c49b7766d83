//! A message of media: hop 3, what the session's own rules and its grant say of it, and on into the feed.

use media::{FrameKind, TrackId, flv};
use rtmp::{MediaKind, MediaMessage};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tracing::info;

use super::{Session, State, intake::Refused};
use crate::{end::End, limits::LimitFault, metrics::Reason};

impl<S> Session<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn handle_media(&mut self, message: MediaMessage) -> Option<End> {
        let State::Publishing {
            publishing, live, ..
        } = &self.state
        else {
            return None;
        };
        let kind = match message.kind {
            MediaKind::Audio => FrameKind::Audio,
            MediaKind::Script => FrameKind::Script,
            MediaKind::Video => FrameKind::Video,
        };
        let bytes = message.body.len();
        let taken = flv::parse(kind, 0, message.body)
            .map_err(|error| Refused::Dropped(error.reason()))
            .and_then(|frame| {
                let changed = self.intake.take(&frame, Instant::now())?;
                Ok((frame, changed))
            });
        let (mut frame, changed) = match taken {
            Ok(taken) => taken,
            Err(refused) => {
                let counted = live.dropped(bytes);
                return match counted {
                    Ok(()) => self.refuse(refused),
                    Err(fault) => Some(self.over_limit(fault)),
                };
            }
        };
        self.timestamps.stamp(&mut frame, message.timestamp);
        let discontinuities = self.timestamps.discontinuities();
        self.context
            .metrics
            .timestamp_discontinuities
            .inc_by(discontinuities - self.discontinuities);
        self.discontinuities = discontinuities;
        let (tracks, changes) = (self.intake.tracks(), !changed.is_empty());
        if let Err(fault) = live.media(&frame, (tracks, changes), |stats| self.intake.note(stats)) {
            return Some(self.over_limit(fault));
        }
        publishing.feed.push(frame);
        for id in changed {
            self.log_track(id);
        }
        None
    }

    /// A frame that does not go on. The end of the session, where that is no accident.
    fn refuse(&mut self, refused: Refused) -> Option<End> {
        let reason = match refused {
            Refused::Dropped(reason) => reason,
            Refused::Fault(fault) => fault.reason(),
        };
        let dropped = &self.context.metrics.frames_dropped;
        dropped.get_or_create(&Reason { reason }).inc();
        let told = match refused {
            Refused::Dropped(reason) => {
                if self.intake.drops_first(reason) {
                    let (session_id, client_address) = (self.session_id(), self.client.address);
                    info!(%session_id, %client_address, reason, "dropped a frame; more of its kind are counted alone");
                }
                return None;
            }
            Refused::Fault(fault) => fault,
        };
        let (session_id, client_address) = (self.session_id(), self.client.address);
        info!(%session_id, %client_address, reason, told = told.description(), "closing the connection");
        Some(End::Media(told))
    }

    fn over_limit(&self, fault: LimitFault) -> End {
        let (session_id, client_address) = (self.session_id(), self.client.address);
        info!(%session_id, %client_address, reason = fault.reason(), told = %fault, "closing the connection");
        End::Limit(fault)
    }

    /// A track began, changed or ended.
    fn log_track(&self, (kind, track): TrackId) {
        let (session_id, client_address) = (self.session_id(), self.client.address);
        let Some(known) = self.intake.tracks().get((kind, track)) else {
            info!(%session_id, %client_address, ?kind, track, "a track ended");
            return;
        };
        let codec = known.codec;
        match (&known.configuration, known.malformed) {
            (Some(configuration), _) => {
                info!(%session_id, %client_address, ?kind, track, %codec, %configuration, "a track's configuration");
            }
            (None, Some(error)) => {
                info!(%session_id, %client_address, ?kind, track, %codec, %error, "a sequence header that cannot be read goes on as it is");
            }
            (None, None) => {
                info!(%session_id, %client_address, ?kind, track, %codec, "a track without a configuration");
            }
        }
    }
}
