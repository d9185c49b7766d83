//! What readers may rely on, whatever happens to the log.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    Read(usize),
    Session(u64),
    Skip(u64),
    Shrink(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0u8..7).prop_map(Step::Append),
        6 => (0usize..30).prop_map(Step::Read),
        1 => (0u64..5).prop_map(Step::Session),
        1 => (1u64..5).prop_map(Step::Skip),
        1 => (0usize..1000).prop_map(Step::Shrink),
    ]
}

/// What a reader's events must keep to.
#[derive(Default)]
struct Checked {
    /// The last frame, or the end of the last gap.
    expected: Option<(Arc<str>, u64)>,
    header: Option<Arc<str>>,
    after_gap: bool,
    last_output_ms: BTreeMap<(FrameKind, u8), i64>,
}

impl Checked {
    fn check(&mut self, event: Event, class: Class) {
        match event {
            Event::Gap(gap) => {
                assert!(gap.from_sequence < gap.to_sequence);
                if let Some((session_id, sequence)) = &self.expected
                    && *session_id == gap.session_id
                {
                    assert_eq!(gap.from_sequence, *sequence);
                }
                self.header = None;
                self.after_gap = true;
                self.expected = Some((gap.session_id, gap.to_sequence));
            }
            Event::Header(header) => {
                self.header = Some(header.session_id);
                assert!(header.headers.is_sorted_by_key(|(sequence, _)| *sequence));
            }
            Event::Frames(frames) => {
                let first = frames.first().expect("never empty");
                if self.after_gap && class == Class::Live {
                    assert!(first.random_access, "a live reader goes on at a keyframe");
                }
                self.after_gap = false;
                for entry in frames {
                    self.check_frame(&entry);
                }
            }
        }
    }

    fn check_frame(&mut self, entry: &Entry) {
        assert_eq!(self.header.as_ref(), Some(&entry.session_id));
        if let Some((session_id, sequence)) = &self.expected
            && *session_id == entry.session_id
        {
            assert_eq!(*sequence, entry.sequence, "contiguous");
        }
        self.expected = Some((Arc::clone(&entry.session_id), entry.sequence + 1));
        let track = (
            entry.frame.kind,
            entry.frame.parts.first().map_or(0, |part| part.track),
        );
        let last = self.last_output_ms.insert(track, entry.frame.timestamp_ms);
        assert!(last.is_none_or(|last| last <= entry.frame.timestamp_ms));
    }
}

fn random_frame(selector: u8) -> Frame {
    match selector {
        0 => keyframe(100),
        1 | 2 => inter(90),
        3 => audio(95),
        4 => video_header(1),
        5 => audio_header(),
        _ => metadata(),
    }
}

proptest! {
    #[test]
    fn readers_get_contiguous_frames_or_are_told(
        steps in proptest::collection::vec(step(), 1..150),
        bytes_max in 300usize..4000,
        lossless in any::<bool>(),
        cursor in proptest::option::of(0u64..20),
    ) {
        let class = if lossless { Class::Lossless } else { Class::Live };
        let mut log = log(bytes_max);
        let start = cursor.map_or(Start::CurrentGop, |sequence| Start::Resume {
            session_id: "s1",
            next_sequence: sequence,
        });
        let mut reader = log.reader(class, start);
        let mut checked = Checked::default();
        let mut sessions = 1;
        for step in steps {
            match step {
                Step::Append(selector) => append(&mut log, random_frame(selector)),
                Step::Session(first_sequence) => {
                    sessions += 1;
                    let offset_ms = log.latest_output_ms().map_or(0, |last| last + 1);
                    log.begin_session(&format!("s{sessions}"), TOKEN, offset_ms, first_sequence);
                }
                Step::Skip(frames) => {
                    let next = log.session().unwrap().1;
                    log.continue_session(TOKEN, next + frames);
                }
                Step::Shrink(bytes) => log.shrink(bytes),
                Step::Read(bytes) => match log.read(&mut reader, bytes) {
                    Ok(Some(event)) => checked.check(event, class),
                    Ok(None) => {}
                    Err(LagError { frames }) => {
                        prop_assert!(lossless && frames > 0);
                        return Ok(());
                    }
                },
            }
            let charged: usize = log.entries.iter().map(Entry::charged_bytes).sum();
            prop_assert_eq!(charged, log.bytes());
            prop_assert!(log.bytes() <= bytes_max || log.entries.len() == 1);
        }
    }
}
