//! What one publisher sends, and when it is due.

use std::{sync::Arc, time::Duration};

use rtmp::MediaMessage;

use super::{
    flv_file::Tag,
    payload::{Stamp, now_us},
    synthetic::{Position, Profile, wrapped},
};

/// What all publishers of a run send.
#[derive(Clone, Debug)]
pub(crate) enum Media {
    /// A file, over and over.
    File(Arc<[Tag]>),
    /// Stamped frames.
    Stamped(Arc<Profile>),
}

/// One publisher's media. Stamps go on counting over a [`restart`](Self::restart).
#[derive(Debug)]
pub(crate) struct Source {
    media: Media,
    publisher: u32,
    /// Of the next stamp: so many were made.
    sequence: u64,
    /// Headers that were not sent yet are due at once.
    headers: usize,
    position: Position,
    file: FilePosition,
}

#[derive(Clone, Copy, Debug, Default)]
struct FilePosition {
    next: usize,
    /// What earlier rounds took, in milliseconds.
    offset_ms: u64,
}

/// Between the last frame of a file and the first of its next round, in milliseconds.
const ROUND_PAUSE_MS: u64 = 40;

impl Source {
    pub(crate) fn new(media: Media, publisher: u32) -> Self {
        Self {
            media,
            publisher,
            sequence: 0,
            headers: 0,
            position: Position::default(),
            file: FilePosition::default(),
        }
    }

    /// For another connection: headers, then a keyframe at time zero.
    pub(super) fn restart(&mut self) {
        self.headers = 0;
        self.position = Position::default();
        self.file = FilePosition::default();
    }

    /// How many stamps were made.
    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence
    }

    /// When the next message is due, from the start of the connection.
    pub(crate) fn due(&self) -> Duration {
        match &self.media {
            Media::File(tags) => {
                let at = tags
                    .get(self.file.next)
                    .map_or(ROUND_PAUSE_MS, |tag| u64::from(tag.timestamp_ms));
                Duration::from_millis(self.file.offset_ms.saturating_add(at))
            }
            Media::Stamped(profile) if self.headers < profile.headers().len() => Duration::ZERO,
            Media::Stamped(profile) => Duration::from_millis(profile.due_ms(self.position)),
        }
    }

    /// The next message, stamped now.
    pub(crate) fn next(&mut self) -> MediaMessage {
        let tag = match &self.media {
            Media::File(tags) => self.file.next(tags),
            Media::Stamped(profile) => {
                if let Some(header) = profile.headers().get(self.headers) {
                    self.headers += 1;
                    header.clone()
                } else {
                    let stamp = Stamp {
                        publisher: self.publisher,
                        sequence: self.sequence,
                        sent_us: now_us(),
                    };
                    self.sequence += 1;
                    profile.next(&mut self.position, stamp)
                }
            }
        };
        MediaMessage {
            kind: tag.kind,
            timestamp: tag.timestamp_ms,
            body: tag.body,
        }
    }
}

impl FilePosition {
    fn next(&mut self, tags: &[Tag]) -> Tag {
        let tag = tags.get(self.next).or_else(|| tags.first());
        let mut tag = tag.cloned().unwrap_or_else(|| Tag {
            kind: rtmp::MediaKind::Script,
            timestamp_ms: 0,
            body: bytes::Bytes::new(),
        });
        tag.timestamp_ms = wrapped(self.offset_ms.saturating_add(tag.timestamp_ms.into()));
        self.next += 1;
        if self.next >= tags.len() {
            let longest = tags.iter().map(|tag| tag.timestamp_ms).max();
            self.offset_ms += u64::from(longest.unwrap_or_default()) + ROUND_PAUSE_MS;
            self.next = 0;
        }
        tag
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use media::FrameKind;
    use rtmp::MediaKind;

    use super::{
        super::payload::{self, Payload},
        *,
    };

    #[test]
    fn stamps_count_on_over_a_new_connection_that_begins_with_headers() {
        let profile = Profile::new(1_000_000, 30, Duration::from_secs(2));
        let mut source = Source::new(Media::Stamped(Arc::new(profile)), 3);
        let sequence = |message: &MediaMessage| {
            let kind = match message.kind {
                MediaKind::Audio => FrameKind::Audio,
                MediaKind::Script => FrameKind::Script,
                MediaKind::Video => FrameKind::Video,
            };
            match payload::read(kind, &message.body) {
                Payload::Stamped(stamp) => Some((stamp.publisher, stamp.sequence)),
                Payload::Corrupted | Payload::Foreign | Payload::NotMedia => None,
            }
        };
        let mut found = Vec::new();
        for _ in 0..5 {
            found.push(sequence(&source.next()));
        }
        source.restart();
        assert_eq!(source.due(), Duration::ZERO);
        for _ in 0..5 {
            found.push(sequence(&source.next()));
        }
        let headers = [None, None, None];
        let expected = [
            &headers[..],
            &[Some((3, 0)), Some((3, 1))],
            &headers[..],
            &[Some((3, 2)), Some((3, 3))],
        ]
        .concat();
        assert_eq!(found, expected);
        assert_eq!(source.next_sequence(), 4);
    }

    #[test]
    fn a_file_starts_over_and_its_time_goes_on() {
        let tag = |timestamp_ms| Tag {
            kind: MediaKind::Video,
            timestamp_ms,
            body: Bytes::new(),
        };
        let mut source = Source::new(Media::File([tag(0), tag(100)].into()), 0);
        let mut times = Vec::new();
        for _ in 0..5 {
            let due = source.due();
            let message = source.next();
            assert_eq!(due, Duration::from_millis(message.timestamp.into()));
            times.push(message.timestamp);
        }
        assert_eq!(times, [0, 100, 140, 240, 280]);
    }
}
