//! What is done to the field, and what is allowed to come of it.

use std::time::Duration;

use super::newcomer::UNREACHABLE;

/// Which part is struck: of several the busiest, or the one that is in charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Origin,
    Edge,
    Control,
    Primary,
    Replica,
    Sentinel,
    Database,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, and started again at the same address.
    Killed(Part),
    /// SIGSTOP, and SIGCONT.
    Frozen(Part),
    /// An origin's wire is pulled out.
    OriginUnplugged,
    /// An origin's wire to the edges is cut: everybody else reaches it.
    OriginCutFromEdges,
    /// An edge reaches nobody but its encoders.
    EdgeAlone,
    /// Edges and origins lose packets at random.
    Lossy,
    /// An edge's wire carries less than its publishers send.
    Limited,
    /// What goes between edges and origins takes longer.
    Delayed,
    /// What goes between edges and one origin stands still: shorter than an edge waits, and longer.
    StalledShortly,
    Stalled,
    /// Each edge is drained and started again, one after the other.
    EdgesReplaced,
    OriginsReplaced,
    /// Primary and replica are killed, and come back empty. Meanwhile somebody tries at an edge that fails closed.
    RedisDown,
    RedisFlushed,
    RedisPaused,
    /// The primary is cut off from its replica and the sentinels; its clients still reach it.
    RedisPartitioned,
    /// The link to the replica is cut, and then the primary dies: what was written between is lost, a takeover with it.
    RedisLosesWrites,
    ControlsDown,
    /// Names lead where nobody is.
    NamesWrong,
    /// Names do not resolve.
    NamesGone,
}

/// What may come of a fault. Always: no frame lost or doubled for a reader with a cursor, no token that goes back, no end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// Publishers are disconnected: their edge died or left. What was under way then may be lost.
    pub disconnects: bool,
    /// How long media may pause; of a hundred pauses one may be longer.
    pub pause: Option<Duration>,
    /// How long media must pause for some stream in each round: else nothing was done to it.
    pub shows: Option<Duration>,
    /// Until somebody new is let in, while the fault lasts; nobody need be where there is none.
    pub newcomer: Option<Duration>,
    /// Why edges may refuse somebody new.
    pub refused: &'static [&'static str],
    /// What somebody new may be told, where edges that end take with them what they counted.
    pub told: Option<&'static [&'static str]>,
    /// Somebody new must be refused while the fault lasts.
    pub closed: bool,
}

impl Fault {
    pub const ALL: [Self; 32] = [
        Self::Killed(Part::Origin),
        Self::Frozen(Part::Origin),
        Self::Killed(Part::Edge),
        Self::Frozen(Part::Edge),
        Self::EdgesReplaced,
        Self::OriginsReplaced,
        Self::Killed(Part::Control),
        Self::Frozen(Part::Control),
        Self::Killed(Part::Primary),
        Self::Frozen(Part::Primary),
        Self::RedisLosesWrites,
        Self::Killed(Part::Replica),
        Self::Frozen(Part::Replica),
        Self::Killed(Part::Sentinel),
        Self::Frozen(Part::Sentinel),
        Self::Killed(Part::Database),
        Self::Frozen(Part::Database),
        Self::OriginUnplugged,
        Self::OriginCutFromEdges,
        Self::EdgeAlone,
        Self::Lossy,
        Self::Limited,
        Self::Delayed,
        Self::StalledShortly,
        Self::Stalled,
        Self::RedisDown,
        Self::RedisFlushed,
        Self::RedisPaused,
        Self::RedisPartitioned,
        Self::ControlsDown,
        Self::NamesWrong,
        Self::NamesGone,
    ];

    /// What it is called on the command line and in the table.
    pub fn name(self) -> String {
        let part = |part: Part| match part {
            Part::Origin => "origin",
            Part::Edge => "edge",
            Part::Control => "control",
            Part::Primary => "redis-primary",
            Part::Replica => "redis-replica",
            Part::Sentinel => "sentinel",
            Part::Database => "database",
        };
        match self {
            Self::Killed(of) => return format!("{}-killed", part(of)),
            Self::Frozen(of) => return format!("{}-frozen", part(of)),
            Self::OriginUnplugged => "origin-unplugged",
            Self::OriginCutFromEdges => "origin-cut-from-edges",
            Self::EdgeAlone => "edge-alone",
            Self::Lossy => "packets-lost",
            Self::Limited => "edge-limited",
            Self::Delayed => "origins-delayed",
            Self::StalledShortly => "origin-stalled-1s",
            Self::Stalled => "origin-stalled-5s",
            Self::EdgesReplaced => "edges-replaced",
            Self::OriginsReplaced => "origins-replaced",
            Self::RedisDown => "redis-down",
            Self::RedisFlushed => "redis-flushed",
            Self::RedisPaused => "redis-paused",
            Self::RedisPartitioned => "redis-partitioned",
            Self::RedisLosesWrites => "redis-loses-writes",
            Self::ControlsDown => "controls-down",
            Self::NamesWrong => "names-wrong",
            Self::NamesGone => "names-gone",
        }
        .to_owned()
    }

    /// How often it is done in a whole run.
    pub fn rounds(self) -> usize {
        match self {
            Self::Killed(Part::Origin) | Self::Frozen(Part::Origin) => 20,
            Self::EdgesReplaced | Self::OriginsReplaced => 2,
            Self::NamesWrong | Self::NamesGone => 1,
            Self::ControlsDown | Self::RedisDown | Self::RedisPaused | Self::EdgeAlone => 3,
            Self::Killed(_)
            | Self::Frozen(_)
            | Self::OriginUnplugged
            | Self::OriginCutFromEdges
            | Self::Lossy
            | Self::Limited
            | Self::Delayed
            | Self::StalledShortly
            | Self::Stalled
            | Self::RedisFlushed
            | Self::RedisPartitioned
            | Self::RedisLosesWrites => 5,
        }
    }

    /// From the fault to its end. What is replaced takes its own time.
    pub fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            Self::Killed(Part::Primary) | Self::Frozen(Part::Primary) => 8_000,
            Self::RedisLosesWrites | Self::RedisDown | Self::EdgeAlone => 8_000,
            Self::RedisPartitioned => 10_000,
            Self::Frozen(_) => 5_000,
            Self::Killed(_) => 3_000,
            Self::OriginUnplugged | Self::OriginCutFromEdges => 6_000,
            Self::Lossy | Self::Limited | Self::Delayed | Self::Stalled => 5_000,
            Self::StalledShortly => 1_000,
            Self::EdgesReplaced | Self::OriginsReplaced | Self::RedisFlushed => 0,
            Self::RedisPaused | Self::ControlsDown => 5_000,
            Self::NamesWrong | Self::NamesGone => 3_000,
        })
    }

    /// Whether it is done process by process, and somebody new comes meanwhile.
    pub fn is_rollout(self) -> bool {
        matches!(self, Self::EdgesReplaced | Self::OriginsReplaced)
    }

    /// Whether it is over only once the replica is the primary.
    pub fn fails_over(self) -> bool {
        matches!(
            self,
            Self::Killed(Part::Primary)
                | Self::Frozen(Part::Primary)
                | Self::RedisPartitioned
                | Self::RedisLosesWrites
        )
    }

    /// Whether it needs a proxy between the edges and the origins.
    pub fn is_proxied(self) -> bool {
        matches!(self, Self::Delayed | Self::StalledShortly | Self::Stalled)
    }

    /// The pause of which somewhat less is sure.
    fn shows(self) -> Option<Duration> {
        let milliseconds = match self {
            // An edge waits for two seconds before it leaves an origin.
            Self::Frozen(Part::Origin)
            | Self::OriginUnplugged
            | Self::OriginCutFromEdges
            | Self::Stalled => 1_500,
            // As long as it lasts.
            Self::Frozen(Part::Edge) => 4_000,
            Self::EdgeAlone => 6_000,
            Self::StalledShortly => 800,
            Self::Delayed => 150,
            Self::Killed(_)
            | Self::Frozen(_)
            | Self::Lossy
            | Self::Limited
            | Self::EdgesReplaced
            | Self::OriginsReplaced
            | Self::RedisDown
            | Self::RedisFlushed
            | Self::RedisPaused
            | Self::RedisPartitioned
            | Self::RedisLosesWrites
            | Self::ControlsDown
            | Self::NamesWrong
            | Self::NamesGone => return None,
        };
        Some(Duration::from_millis(milliseconds))
    }

    /// What may come of it, at encoders that follow requests to connect elsewhere, or that do not.
    pub fn allowed(self, capable: bool) -> Allowed {
        const SECOND: Duration = Duration::from_secs(1);
        let within = |pause: u64, newcomer: u64| Allowed {
            pause: Some(Duration::from_millis(pause)),
            newcomer: Some(Duration::from_millis(newcomer)),
            shows: self.shows(),
            ..Allowed::default()
        };
        match self {
            Self::Killed(Part::Origin) => within(1_000, 2_000),
            // An edge waits for two seconds before it leaves an origin.
            Self::Frozen(Part::Origin) | Self::OriginUnplugged | Self::OriginCutFromEdges => {
                within(3_000, 5_000)
            }
            Self::Stalled => within(3_000, 5_000),
            // The encoder comes back after two seconds, and once more where the old session is not silent for three yet.
            Self::Killed(Part::Edge) => Allowed {
                disconnects: true,
                refused: &["already_publishing"],
                ..within(5_000, 2_000)
            },
            Self::Frozen(Part::Edge) => within(6_500, 2_000),
            Self::EdgesReplaced => Allowed {
                disconnects: !capable,
                refused: &["draining"],
                told: Some(&[
                    UNREACHABLE,
                    "The service is not available right now, please try again",
                    "The server is restarting, please reconnect",
                ]),
                ..within(if capable { 1_000 } else { 3_000 }, 2_000)
            },
            Self::OriginsReplaced => within(1_000, 2_000),
            // An edge asks another one after a moment, and has 2.5 s for all of it.
            Self::Killed(Part::Control) | Self::Frozen(Part::Control) => within(1_000, 3_500),
            // While Redis does not answer, the origins fence alone.
            Self::Killed(Part::Primary)
            | Self::Frozen(Part::Primary)
            | Self::RedisLosesWrites
            | Self::RedisDown
            | Self::RedisPaused
            | Self::RedisPartitioned => within(1_000, 4_000),
            Self::Killed(Part::Replica | Part::Sentinel)
            | Self::Frozen(Part::Replica | Part::Sentinel)
            | Self::RedisFlushed
            | Self::NamesGone => within(1_000, 2_000),
            Self::Killed(Part::Database) | Self::Frozen(Part::Database) => Allowed {
                pause: Some(SECOND),
                refused: &["control_unavailable", "control_timeout"],
                closed: true,
                ..Allowed::default()
            },
            Self::ControlsDown => Allowed {
                pause: Some(SECOND),
                refused: &["control_unavailable", "control_timeout"],
                closed: true,
                ..Allowed::default()
            },
            Self::NamesWrong => Allowed {
                pause: Some(SECOND),
                refused: &["control_unavailable", "control_timeout"],
                ..Allowed::default()
            },
            Self::EdgeAlone => Allowed {
                refused: &["control_unavailable", "control_timeout"],
                ..within(11_000, 5_000)
            },
            // A lost packet is sent again after 200 ms, and a lost repetition after 400 ms.
            Self::Lossy => within(2_000, 5_000),
            Self::Limited => Allowed {
                pause: None,
                ..within(0, 10_000)
            },
            Self::Delayed => within(1_000, 4_000),
            Self::StalledShortly => within(2_000, 4_000),
        }
    }
}
