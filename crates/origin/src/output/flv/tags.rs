//! Frames as the tags of one player's FLV file.

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};
use media::{
    Frame, FrameKind, flv,
    log::{Entry, Header},
};

use crate::output::timeline::Timeline;

/// One player's file: its header is written with the first frames.
#[derive(Debug, Default)]
pub(super) struct Tags {
    timeline: Timeline,
}

/// Bodies from here on go out as they are; smaller ones are gathered.
const GATHERED_BODY_BYTES_MAX: usize = 16 * 1024;

impl Tags {
    /// What a decoder needs before the frames that follow.
    pub(super) fn header(&mut self, header: Header) {
        self.timeline.header(header);
    }

    pub(super) fn write(&mut self, entries: &[Entry], out: &mut VecDeque<Bytes>) {
        let mut gathered = BytesMut::new();
        if !self.timeline.has_begun() && !entries.is_empty() {
            gathered.put_slice(&self.file_header(entries));
        }
        self.timeline.lay(entries, |frame, timestamp_ms| {
            write_tag(frame, timestamp_ms, &mut gathered, out);
        });
        if !gathered.is_empty() {
            out.push_back(gathered.freeze());
        }
    }

    /// Says which kinds come, where that is known: players wait for a kind that was promised.
    fn file_header(&self, entries: &[Entry]) -> [u8; 13] {
        let frames = || {
            self.timeline
                .headers()
                .iter()
                .chain(entries.iter().map(|entry| &entry.frame))
        };
        let has = |kind| frames().any(|frame| frame.kind == kind);
        let (audio, video) = (has(FrameKind::Audio), has(FrameKind::Video));
        // At the start of a stream, what has not come yet may come.
        let known = !self.timeline.headers().is_empty() && (audio || video);
        flv::file_header(audio || !known, video || !known)
    }
}

fn write_tag(frame: &Frame, timestamp_ms: i64, gathered: &mut BytesMut, out: &mut VecDeque<Bytes>) {
    let body = flv::player_body(frame);
    let Some(header) = flv::tag_header(frame.kind, timestamp_ms, body.len()) else {
        return;
    };
    gathered.put_slice(&header);
    let length = body.len();
    if length > GATHERED_BODY_BYTES_MAX {
        out.push_back(gathered.split().freeze());
        out.push_back(body);
    } else {
        gathered.put_slice(&body);
    }
    gathered.put_slice(&flv::previous_tag_size(length));
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use media::log::{Class, Event, Log, LogLimits, Start, Token};

    use super::*;

    fn log(timeline_offset_ms: i64) -> Log {
        let mut log = Log::new(LogLimits::default());
        let token = Token {
            slot: 0,
            epoch: 1,
            attempt: 1,
        };
        log.begin_session("s1", token, timeline_offset_ms, 0);
        let large = [&[0x17, 1, 0, 0, 0][..], &[7; 20_000]].concat();
        let frames = [
            (
                FrameKind::Script,
                0,
                b"\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData\x08\0\0\0\0\0\0\x09".to_vec(),
            ),
            (FrameKind::Video, 0, vec![0x17, 0, 0, 0, 0, 1]),
            (FrameKind::Video, 40, large),
            (FrameKind::Audio, 30, vec![0xaf, 1, 5]),
        ];
        for (sequence, (kind, timestamp_ms, body)) in (0..).zip(frames) {
            let frame = flv::parse(kind, timestamp_ms, body.into()).unwrap();
            log.append(sequence, frame, Instant::now()).unwrap();
        }
        log
    }

    /// The file that a player gets now, and its tags: (type, timestamp, body's length).
    fn play(log: &Log, start: Start<'_>) -> (Vec<u8>, Vec<(u8, u32, usize)>) {
        let mut reader = log.reader(Class::Live, start);
        let (mut tags, mut out) = (Tags::default(), VecDeque::new());
        while let Some(event) = log.read(&mut reader, usize::MAX).unwrap() {
            match event {
                Event::Frames(entries) => tags.write(&entries, &mut out),
                Event::Gap(gap) => panic!("{gap:?}"),
                Event::Header(header) => tags.header(header),
            }
        }
        let file: Vec<u8> = out.into_iter().flatten().collect();
        let mut listed = Vec::new();
        let mut rest = &file[13..];
        while let Some((header, behind)) = rest.split_first_chunk::<11>() {
            let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
            let length = number(&header[1..4]) as usize;
            let timestamp = number(&header[4..7]) | u32::from(header[7]) << 24;
            listed.push((header[0], timestamp, length));
            assert_eq!(number(&behind[length..][..4]) as usize, length + 11);
            rest = &behind[length + 4..];
        }
        assert!(rest.is_empty());
        (file, listed)
    }

    #[test]
    fn an_early_player_gets_the_file_as_it_was_published() {
        let (file, tags) = play(&log(0), Start::Oldest);
        assert_eq!(&file[..5], b"FLV\x01\x05");
        let metadata = b"\x02\x00\x0aonMetaData\x08\0\0\0\0\0\0\x09".len();
        assert_eq!(
            tags,
            [(18, 0, metadata), (9, 0, 6), (9, 40, 20_005), (8, 30, 3)]
        );
    }

    #[test]
    fn a_late_player_starts_near_zero_with_headers_and_the_av_offset_kept() {
        let (_, tags) = play(&log(90_000_000_000), Start::CurrentGop);
        let times: Vec<_> = tags.iter().map(|(tag, time, _)| (*tag, *time)).collect();
        assert_eq!(times, [(18, 500), (9, 500), (9, 500), (8, 490)]);
    }
}
