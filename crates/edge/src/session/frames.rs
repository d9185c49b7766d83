//! Hop 2's media: what a publisher sends becomes frames, and what is not right of it is set right, dropped or the end.

use media::{Frame, FrameKind, TrackId, flv};
use rtmp::{MediaKind, MediaMessage};
use tokio::time::Instant;
use tracing::info;

use super::{Session, State, intake::Refused};
use crate::{end::End, limits::LimitFault, live::Farewell, metrics::Reason};

/// The word for an ADTS header that was taken out, beside those of [`media::Correction`].
const ADTS: &str = "adts";

impl<S> Session<S> {
    /// The end of the session, where its media are no accident.
    pub(super) fn handle_media(&mut self, message: MediaMessage) -> Option<End> {
        let kind = match message.kind {
            MediaKind::Audio => FrameKind::Audio,
            MediaKind::Script => FrameKind::Script,
            MediaKind::Video => FrameKind::Video,
        };
        let bytes = message.body.len();
        let frame = match flv::parse(kind, 0, message.body) {
            Ok(frame) => frame,
            Err(error) => return self.refuse(Refused::Dropped(error.reason()), bytes),
        };
        let Some(bare) = flv::without_adts(&frame) else {
            return self.take(frame, message.timestamp);
        };
        self.note_correction(ADTS);
        let header = bare.sequence_header;
        let missing = header.filter(|_| self.intake.awaits_header(&bare.frame));
        missing
            .and_then(|header| self.take(header, message.timestamp))
            .or_else(|| self.take(bare.frame, message.timestamp))
    }

    fn take(&mut self, mut frame: Frame, timestamp: u32) -> Option<End> {
        for correction in self.intake.tracks().correct(&mut frame) {
            self.note_correction(correction.reason());
        }
        let changed = match self.intake.take(&frame, Instant::now()) {
            Ok(changed) => changed,
            Err(refused) => return self.refuse(refused, frame.body.len()),
        };
        self.timestamps.stamp(&mut frame, timestamp);
        let discontinuities = self.timestamps.discontinuities();
        self.context
            .metrics
            .timestamp_discontinuities
            .inc_by(discontinuities - self.discontinuities);
        self.discontinuities = discontinuities;
        let State::Publishing {
            publishing,
            live,
            farewell,
            ..
        } = &self.state
        else {
            return None;
        };
        let (tracks, changes) = (self.intake.tracks(), !changed.is_empty());
        if let Err(fault) = live.media(&frame, (tracks, changes), |stats| self.intake.note(stats)) {
            return Some(self.over_limit(fault));
        }
        let farewell = *farewell.borrow();
        let can_start = publishing.feed.push(frame);
        for id in changed {
            self.log_track(id);
        }
        (can_start && farewell == Farewell::Close).then_some(End::Drain)
    }

    /// A frame goes on, but not as the encoder described it.
    fn note_correction(&mut self, reason: &'static str) {
        let corrected = &self.context.metrics.frames_corrected;
        corrected.get_or_create(&Reason { reason }).inc();
        if self.intake.is_first(reason) {
            let (session_id, client_address) = (self.session_id(), self.client.address);
            info!(%session_id, %client_address, reason, "set a frame right; more of its kind are counted alone");
        }
    }

    /// A frame that does not go on. The end of the session, where that is no accident.
    fn refuse(&mut self, refused: Refused, bytes: usize) -> Option<End> {
        if let State::Publishing { live, .. } = &self.state
            && let Err(fault) = live.dropped(bytes)
        {
            return Some(self.over_limit(fault));
        }
        let reason = match refused {
            Refused::Dropped(reason) => reason,
            Refused::Fault(fault) => fault.reason(),
        };
        let dropped = &self.context.metrics.frames_dropped;
        dropped.get_or_create(&Reason { reason }).inc();
        let told = match refused {
            Refused::Dropped(reason) => {
                if self.intake.is_first(reason) {
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

    fn session_id(&self) -> &str {
        match &self.state {
            State::Publishing { live, .. } => live.session.as_str(),
            State::Await | State::Challenging(_) | State::Deciding(_) | State::Refused => "",
        }
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
