//! Two publishers, a clock that is made up, and who is on air.

use proptest::prelude::*;

use super::*;

const P: Slot = Slot::PRIMARY;
const B: Slot = Slot::BACKUP;
/// From one frame to the next.
const STEP_MS: u64 = 40;
/// From one keyframe to the next.
const GOP_MS: u64 = 2000;

/// What one publisher does in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// Is not connected.
    Away,
    /// Is connected, and sends nothing.
    Silent,
    /// Sends every frame.
    Well,
    /// Sends every other frame's worth of time.
    Half,
    /// Sends sound alone.
    Mute,
}

struct Scene {
    selection: Selection,
    begun: Instant,
    now_ms: u64,
    connected: Slots<bool>,
    /// What each has sent, in milliseconds.
    sent_ms: Slots<u64>,
    keyframe: Slots<Option<Instant>>,
    /// When, to whom, why.
    switches: Vec<(u64, Slot, Reason)>,
}

impl Scene {
    /// The primary on air, and nobody connected.
    fn new() -> Self {
        let begun = Instant::now();
        Self {
            selection: Selection::new(Backup::default(), P, begun),
            begun,
            now_ms: 0,
            connected: Slots::default(),
            sent_ms: Slots::default(),
            keyframe: Slots::default(),
            switches: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        self.begun + Duration::from_millis(self.now_ms)
    }

    fn run(&mut self, for_ms: u64, primary: Does, backup: Does) -> &mut Self {
        let until_ms = self.now_ms + for_ms;
        while self.now_ms < until_ms {
            self.step(P, primary);
            self.step(B, backup);
            self.now_ms += STEP_MS;
        }
        self
    }

    fn step(&mut self, slot: Slot, does: Does) {
        let now = self.now();
        let connected = does != Does::Away;
        let was = std::mem::replace(self.connected.of_mut(slot), connected);
        if connected && !was {
            self.selection.joined(slot, now);
        } else if was && !connected {
            self.selection.lost(slot);
            *self.keyframe.of_mut(slot) = None;
            self.decide(now);
        }
        let kind = match does {
            Does::Away | Does::Silent => return,
            Does::Half if self.now_ms / STEP_MS % 2 == 1 => return,
            Does::Mute => FrameKind::Audio,
            Does::Well | Does::Half => FrameKind::Video,
        };
        let sent_ms = self.sent_ms.of_mut(slot);
        if kind == FrameKind::Video && sent_ms.is_multiple_of(GOP_MS) {
            *self.keyframe.of_mut(slot) = Some(now);
        }
        let timestamp_ms = i64::try_from(*sent_ms).unwrap();
        *sent_ms += STEP_MS;
        self.selection.heard(slot, kind, timestamp_ms, now);
        if slot != self.selection.on_air() {
            self.decide(now);
        }
    }

    fn decide(&mut self, now: Instant) {
        let to = self.selection.on_air().other();
        let keyframe = *self.keyframe.of(to);
        if let Some(reason) = self.selection.decide(keyframe, now) {
            self.switches.push((self.now_ms, to, reason));
        }
    }

    /// To whom and why.
    fn reasons(&self) -> Vec<(Slot, Reason)> {
        self.switches
            .iter()
            .map(|(_, to, why)| (*to, *why))
            .collect()
    }

    fn last_ms(&self) -> u64 {
        self.switches.last().unwrap().0
    }
}

#[test]
fn two_publishers_that_are_well_are_left_as_they_are() {
    let mut scene = Scene::new();
    scene.run(60_000, Does::Well, Does::Well);
    assert_eq!(scene.reasons(), []);
}

#[test]
fn a_publisher_that_is_lost_is_left_within_half_a_second() {
    // Wherever in the backup's GOP it is.
    for at_ms in (10_000..12_000).step_by(200) {
        let mut scene = Scene::new();
        scene.run(at_ms, Does::Well, Does::Well);
        scene.run(3000, Does::Away, Does::Well);
        assert_eq!(scene.reasons(), [(B, Reason::Lost)]);
        assert!(
            scene.last_ms() <= at_ms + 500,
            "{at_ms}: {}",
            scene.last_ms()
        );
    }
}

#[test]
fn a_publisher_that_starves_is_left_within_a_second() {
    for at_ms in (10_000..12_000).step_by(200) {
        let mut scene = Scene::new();
        scene.run(at_ms, Does::Well, Does::Well);
        scene.run(3000, Does::Silent, Does::Well);
        assert_eq!(scene.reasons(), [(B, Reason::Starved)]);
        assert!(
            scene.last_ms() <= at_ms + 1000,
            "{at_ms}: {}",
            scene.last_ms()
        );
    }
}

#[test]
fn a_keyframe_that_comes_soon_is_waited_for() {
    let mut scene = Scene::new();
    scene.run(9_800, Does::Well, Does::Well);
    scene.run(1000, Does::Away, Does::Well);
    assert_eq!(scene.switches, [(10_000, B, Reason::Lost)]);
}

#[test]
fn a_publisher_with_half_of_its_media_is_worse_and_one_without_video_too() {
    for does in [Does::Half, Does::Mute] {
        let mut scene = Scene::new();
        scene.run(20_000, Does::Well, Does::Well);
        scene.run(10_000, does, Does::Well);
        assert_eq!(scene.reasons(), [(B, Reason::Worse)], "{does:?}");
        scene.run(30_000, does, Does::Well);
        assert_eq!(scene.reasons().len(), 1, "{does:?}: it is not well");
    }
}

#[test]
fn what_both_lack_is_no_reason() {
    let mut scene = Scene::new();
    scene.run(60_000, Does::Half, Does::Half);
    assert_eq!(scene.reasons(), []);
}

#[test]
fn the_primary_returns_once_it_has_been_well_for_the_clear_time() {
    let mut scene = Scene::new();
    scene.run(10_000, Does::Well, Does::Well);
    scene.run(3000, Does::Away, Does::Well);
    scene.run(9_900, Does::Well, Does::Well);
    assert_eq!(scene.reasons(), [(B, Reason::Lost)]);
    scene.run(2_200, Does::Well, Does::Well);
    assert_eq!(scene.reasons()[1..], [(P, Reason::Preferred)]);
    assert!((23_000..=25_000).contains(&scene.last_ms()));
}

#[test]
fn nobody_is_left_for_somebody_who_is_silent_or_gone() {
    for does in [Does::Silent, Does::Away] {
        let mut scene = Scene::new();
        scene.run(10_000, Does::Well, Does::Well);
        scene.run(10_000, Does::Silent, does);
        assert_eq!(scene.reasons(), [], "{does:?}");
    }
}

#[test]
fn whom_readers_had_elsewhere_is_waited_for() {
    let mut scene = Scene::new();
    scene.run(800, Does::Away, Does::Well);
    assert_eq!(scene.reasons(), []);
    scene.run(400, Does::Away, Does::Well);
    assert_eq!(scene.reasons(), [(B, Reason::Starved)]);
}

#[test]
fn a_primary_that_fails_right_after_its_return_waits_longer_each_time() {
    let mut scene = Scene::new();
    let mut returns = Vec::new();
    scene.run(10_000, Does::Well, Does::Well);
    for _ in 0..3 {
        scene.run(1000, Does::Away, Does::Well);
        let came_ms = scene.now_ms;
        while scene.selection.on_air() != P {
            scene.run(STEP_MS, Does::Well, Does::Well);
        }
        returns.push((scene.now_ms - came_ms) / 10_000);
    }
    assert_eq!(returns, [1, 2, 4]);
    // It stays, and is forgiven.
    scene.run(60_000, Does::Well, Does::Well);
    scene.run(1000, Does::Away, Does::Well);
    assert_eq!(scene.selection.relapses, 0);
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        1 => Just(Does::Away),
        1 => Just(Does::Silent),
        3 => Just(Does::Well),
        1 => Just(Does::Half),
        1 => Just(Does::Mute),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_primary_that_comes_and_goes_causes_one_switch_per_clear_time(
        ups in prop::collection::vec((does(), 40_u64..40_000), 1..30),
    ) {
        let mut scene = Scene::new();
        scene.run(20_000, Does::Well, Does::Well);
        let began_ms = scene.now_ms;
        for (does, for_ms) in ups {
            scene.run(for_ms, does, Does::Well);
        }
        let clear_ms = u64::try_from(Backup::default().clear_time.as_millis()).unwrap();
        let switches = scene.switches.len() as u64;
        // The first failure, and the one after a return that came first, are nobody's to put off.
        prop_assert!(switches <= 2 + (scene.now_ms - began_ms) / clear_ms, "{:?}", scene.switches);
    }

    #[test]
    fn switches_that_need_not_be_are_a_clear_time_apart_and_nobody_who_is_well_is_off_air_alone(
        acts in prop::collection::vec((does(), does(), 40_u64..20_000), 1..40),
    ) {
        let mut scene = Scene::new();
        let mut silent_ms = 0;
        for (primary, backup, for_ms) in acts {
            for _ in 0..for_ms / STEP_MS {
                scene.run(STEP_MS, primary, backup);
                let (air, standby) = match scene.selection.on_air() {
                    P => (primary, backup),
                    _ => (backup, primary),
                };
                let gives_nothing = matches!(air, Does::Away | Does::Silent);
                let could_be_had = standby == Does::Well;
                silent_ms = if gives_nothing && could_be_had { silent_ms + STEP_MS } else { 0 };
                // The time to starve, and one GOP for who has just come.
                prop_assert!(silent_ms <= 1000 + GOP_MS + STEP_MS, "at {}", scene.now_ms);
            }
        }
        for pair in scene.switches.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            if matches!(after.2, Reason::Preferred | Reason::Worse) {
                prop_assert!(after.0 - before.0 >= 10_000, "{:?}", scene.switches);
            }
        }
    }
}
