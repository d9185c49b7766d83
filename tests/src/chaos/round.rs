//! One fault, over and over under load, and what came of it.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::{
    fault::{Allowed, Fault},
    field::{Field, WELL},
    load::{self, Encoders, Load, Outcome},
    newcomer::{Admission, Door, Newcomer, Refusals, refusals, since},
    table::{Figures, Row},
};
use crate::{api::IssuedKey, deployment::APP};

/// Who comes in the course of one rollout, at most: edges drain for twelve seconds each, and start.
const NEWCOMERS: usize = 60;
/// From the beginning of a rollout to the first of them: somebody is on the way out then.
const FIRST: Duration = Duration::from_millis(100);
/// From one of them to the next.
const EACH: Duration = Duration::from_secs(1);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub publishers: usize,
    pub rounds: usize,
    /// Times are held against this many times their goals.
    pub patience: u32,
    /// No round begins later.
    pub until: Instant,
}

/// What happened in the rounds, beside what the load tells.
#[derive(Default)]
struct Rounds {
    /// From the fault until all is well: in seconds since the Unix epoch.
    windows: Vec<(f64, f64)>,
    newcomers: Vec<Duration>,
    /// What newcomers were told.
    told: BTreeMap<String, usize>,
    /// Why edges refused them.
    refused: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

/// A row for each kind of encoder.
pub async fn run(mut field: Field, fault: Fault, plan: Plan) -> (Field, Vec<Row>) {
    let name = fault.name();
    let began = Instant::now();
    let mut loads = Vec::new();
    let edges = field.deployments();
    if fault == Fault::EdgesReplaced {
        let half = plan.publishers / 2;
        for (kind, encoders, publishers) in [
            ("capable", Encoders::Capable, half),
            ("legacy", Encoders::Legacy, plan.publishers - half),
        ] {
            let prefix = format!("{name}-{kind}");
            let load = Load::start(&edges, &prefix, publishers, encoders, &loads).await;
            loads.push(load);
        }
    } else {
        loads.push(Load::start(&edges, &name, plan.publishers, Encoders::Legacy, &[]).await);
    }
    let keys = keys(&field, fault, plan).await;
    let mut rounds = Rounds::default();
    for (number, keys) in (1..).zip(keys) {
        if Instant::now() > plan.until {
            let left_out = 1 + plan.rounds - number;
            let why = format!("{left_out} rounds were left out: the time for all is over");
            rounds.wrong.push(why);
            break;
        }
        let before = refusals(&field.edges).await;
        let from = load::now();
        rounds.one(&mut field, fault, plan, keys, number).await;
        field.is_well(plan.publishers, &name).await;
        let to = load::now();
        rounds.windows.push((from, to));
        rounds.count_refusals(&before, &refusals(&field.edges).await);
        let left = plan.until.saturating_duration_since(Instant::now());
        println!(
            "{name}: round {number} of {} took {:.1} s; {} s are left to begin others",
            plan.rounds,
            to - from,
            left.as_secs(),
        );
    }
    let mut rows = Vec::new();
    for load in loads {
        let (encoders, publishers) = (load.encoders, load.publishers);
        let allowed = fault.allowed(encoders == Encoders::Capable);
        let kind = match (fault, encoders) {
            (Fault::EdgesReplaced, Encoders::Capable) => ", capable",
            (Fault::EdgesReplaced, Encoders::Legacy) => ", legacy",
            (_, Encoders::Capable | Encoders::Legacy) => "",
        };
        let outcome = load.finish().await;
        let mut row = rounds.row(&outcome, &allowed, plan);
        row.fault = format!("{name}{kind}");
        row.publishers = publishers;
        row.took = began.elapsed();
        rows.push(row);
    }
    (field, rows)
}

/// Those of each round's newcomers. Before anything is struck: who gives them out may be struck too, or busy.
async fn keys(field: &Field, fault: Fault, plan: Plan) -> Vec<Vec<IssuedKey>> {
    let newcomers = if fault.is_rollout() { NEWCOMERS } else { 1 };
    let mut keys = Vec::new();
    for round in 0..plan.rounds {
        let mut of_round = Vec::new();
        for number in 0..newcomers {
            let stream = format!("new-{}-{round}-{number}", fault.name());
            of_round.push(field.api().create_key(APP, &stream).await);
        }
        keys.push(of_round);
    }
    keys
}

/// Who came while the rollout went on. They do not wait for each other: one that is not let in keeps nobody from trying.
async fn during(
    rollout: impl Future<Output = ()>,
    mut newcomers: impl Iterator<Item = Newcomer>,
) -> Vec<Newcomer> {
    let mut rollout = pin!(rollout);
    let mut came = Vec::new();
    let mut pause = FIRST;
    while timeout(pause, &mut rollout).await.is_err() {
        came.extend(newcomers.next());
        pause = EACH;
    }
    came
}

impl Rounds {
    async fn one(
        &mut self,
        field: &mut Field,
        fault: Fault,
        plan: Plan,
        keys: Vec<IssuedKey>,
        number: usize,
    ) {
        let allowed = fault.allowed(false);
        let victim = field.victim(fault).await;
        let door = Door::of(&field.edges, field);
        // Each comes when it is asked for.
        let turns = keys.into_iter().zip(number..);
        let mut newcomers = turns.map(|(key, turn)| door.newcomer(key, turn));
        let within = allowed.newcomer.map(|goal| goal * plan.patience);
        if fault.is_rollout() {
            let came = during(field.strike(fault, victim), newcomers).await;
            self.let_in(came, within.expect("a goal"), number).await;
            return;
        }
        field.strike(fault, victim).await;
        let struck = Instant::now();
        let newcomer = newcomers.next().expect("a key for each round");
        if let Some(within) = within {
            // It lasts no longer where somebody new takes long.
            let over = async {
                sleep(fault.lasts().saturating_sub(struck.elapsed())).await;
                field.heal(fault, victim).await;
            };
            tokio::join!(self.let_in(vec![newcomer], within, number), over);
            return;
        }
        sleep(fault.lasts()).await;
        if allowed.closed && newcomer.is_in() {
            self.wrong
                .push(format!("round {number}: somebody new was let in"));
        }
        field.heal(fault, victim).await;
        let healed = struck.elapsed();
        match newcomer.admitted(healed + WELL).await {
            Some(admission) => self.admit(admission, healed),
            None => self
                .wrong
                .push(format!("round {number}: nobody is let in again")),
        }
    }

    /// At least one must have come, and each must be let in soon after it came.
    async fn let_in(&mut self, came: Vec<Newcomer>, within: Duration, number: usize) {
        if came.is_empty() {
            self.wrong
                .push(format!("round {number}: nobody new has come"));
        }
        for newcomer in came {
            let Some(admission) = newcomer.admitted(within).await else {
                self.wrong
                    .push(format!("round {number}: nobody new is let in"));
                continue;
            };
            // Nobody asks before the end of a rollout: it may have taken longer, and be in by then.
            if admission.took > within {
                let late = admission.took;
                self.wrong.push(format!(
                    "round {number}: somebody new is let in after {late:?}"
                ));
            }
            self.admit(admission, Duration::ZERO);
        }
    }

    fn admit(&mut self, admission: Admission, healed: Duration) {
        self.newcomers.push(admission.took.saturating_sub(healed));
        for (told, times) in admission.refused {
            *self.told.entry(told).or_default() += times;
        }
    }

    fn count_refusals(&mut self, before: &Refusals, after: &Refusals) {
        for (reason, count) in since(before, after) {
            *self.refused.entry(reason).or_default() += count;
        }
    }

    fn row(&self, outcome: &Outcome, allowed: &Allowed, plan: Plan) -> Row {
        let mut wrong = self.wrong.clone();
        wrong.extend(faults_of(outcome, allowed));
        let rounds = self.pauses(outcome);
        for (number, pauses) in (1..).zip(&rounds) {
            let longest = pauses.iter().max().copied().unwrap_or_default();
            if allowed.shows.is_some_and(|least| longest < least) {
                wrong.push(format!(
                    "round {number}: media paused for {longest:?} at most, as without a fault"
                ));
            }
        }
        let pauses = Figures::of(rounds.concat());
        if let Some(goal) = allowed.pause
            && pauses.p99 > goal * plan.patience
        {
            wrong.push(format!("media paused for {:?}", pauses.p99));
        }
        for reason in self.refused.keys() {
            if !allowed.refused.contains(&&**reason) {
                wrong.push(format!("refused for {reason}"));
            }
        }
        for told in self.told.keys() {
            if allowed.told.is_some_and(|may| !may.contains(&&**told)) {
                wrong.push(format!("somebody new was told: {told}"));
            }
        }
        if allowed.closed && self.refused.is_empty() {
            wrong.push("nobody was refused".to_owned());
        }
        Row {
            rounds: self.windows.len(),
            disconnects: outcome.disconnects.len(),
            moves: outcome.moves,
            received: outcome.received,
            lost: outcome.lost,
            lost_between_sessions: outcome.lost_between_sessions,
            duplicated: outcome.duplicated,
            pauses,
            pause_goal: allowed.pause,
            newcomers: Figures::of(self.newcomers.clone()),
            newcomer_goal: allowed.newcomer,
            refused: self.refused.clone(),
            told: self.told.clone(),
            wrong,
            ..Row::default()
        }
    }

    /// By round: the longest of each stream.
    fn pauses(&self, outcome: &Outcome) -> Vec<Vec<Duration>> {
        let mut pauses = Vec::new();
        for (from, to) in &self.windows {
            let of_round = outcome.pauses.iter().filter(|pause| {
                // Each belongs to the round in which it ended, or that it outlasted.
                pause.to > *from && pause.from < *to
            });
            let mut longest = BTreeMap::<&str, f64>::new();
            for pause in of_round {
                let longest = longest.entry(&pause.stream).or_default();
                *longest = longest.max(pause.to - pause.from);
            }
            let longest = longest.into_values().map(Duration::from_secs_f64);
            pauses.push(longest.collect());
        }
        pauses
    }
}

/// What must not be, however slow the machine is.
pub fn faults_of(outcome: &Outcome, allowed: &Allowed) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut must_be_none = |what: &str, count: u64| {
        if count > 0 {
            wrong.push(format!("{count} {what}"));
        }
    };
    must_be_none("publishers never let in", outcome.never_admitted);
    must_be_none("frames lost", outcome.lost);
    must_be_none(
        "frames lost by the cluster's numbers",
        outcome.lost_of_sessions,
    );
    must_be_none("frames doubled", outcome.duplicated);
    must_be_none("frames in another order", outcome.reordered);
    must_be_none("frames changed", outcome.corrupted);
    must_be_none("timestamps that went back", outcome.timestamps_back);
    must_be_none("tokens that went back", outcome.tokens_back);
    must_be_none(
        "sessions that came back behind others",
        outcome.sessions_back,
    );
    let ends = outcome.ends.iter();
    wrong.extend(ends.map(|end| format!("a reader saw an end: {end}")));
    if !allowed.disconnects {
        let between = outcome.lost_between_sessions;
        if between > 0 {
            wrong.push(format!("{between} frames lost between sessions"));
        }
        for disconnect in &outcome.disconnects {
            wrong.push(format!(
                "a publisher was disconnected: {}",
                disconnect.reason
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        fault::Part,
        load::{Disconnect, Pause},
        newcomer::UNREACHABLE,
    };

    fn plan() -> Plan {
        Plan {
            publishers: 1,
            rounds: 1,
            patience: 1,
            until: Instant::now(),
        }
    }

    fn wrong(outcome: &Outcome, fault: Fault) -> Vec<String> {
        let rounds = Rounds {
            windows: vec![(100.0, 110.0)],
            ..Rounds::default()
        };
        rounds.row(outcome, &fault.allowed(false), plan()).wrong
    }

    /// What is wrong where newcomers were told that nobody was there, and no.
    fn told(fault: Fault) -> Vec<String> {
        let rounds = Rounds {
            told: [UNREACHABLE, "no"].map(|told| (told.to_owned(), 1)).into(),
            ..Rounds::default()
        };
        let row = rounds.row(&Outcome::default(), &fault.allowed(false), plan());
        row.wrong
    }

    #[test]
    fn what_must_not_be_is_wrong() {
        let killed = Fault::Killed(Part::Origin);
        assert_eq!(wrong(&Outcome::default(), killed), Vec::<String>::new());
        let disconnected = || Outcome {
            disconnects: vec![Disconnect {
                at: 101.0,
                reason: "closed".to_owned(),
            }],
            lost_between_sessions: 1,
            ..Outcome::default()
        };
        assert_eq!(wrong(&disconnected(), killed).len(), 2);
        assert!(wrong(&disconnected(), Fault::Killed(Part::Edge)).is_empty());
        for outcome in [
            Outcome {
                lost: 1,
                ..Outcome::default()
            },
            Outcome {
                duplicated: 1,
                ..Outcome::default()
            },
            Outcome {
                tokens_back: 1,
                ..Outcome::default()
            },
            Outcome {
                sessions_back: 1,
                ..Outcome::default()
            },
            Outcome {
                lost_of_sessions: 1,
                ..Outcome::default()
            },
            Outcome {
                ends: vec!["one".to_owned()],
                ..Outcome::default()
            },
        ] {
            assert_eq!(wrong(&outcome, killed).len(), 1, "{outcome:?}");
            assert_eq!(wrong(&outcome, Fault::Killed(Part::Edge)).len(), 1);
        }
    }

    #[test]
    fn pauses_count_where_they_are_of_a_round_and_refusals_where_they_are_not_allowed() {
        let pause = |from, to| Outcome {
            pauses: vec![Pause {
                stream: "one".to_owned(),
                from,
                to,
            }],
            ..Outcome::default()
        };
        let killed = Fault::Killed(Part::Origin);
        assert!(wrong(&pause(90.0, 99.0), killed).is_empty());
        assert!(wrong(&pause(100.0, 100.9), killed).is_empty());
        assert_eq!(wrong(&pause(100.0, 101.1), killed).len(), 1);
        assert_eq!(wrong(&pause(109.0, 120.0), killed).len(), 1);
        let frozen = Fault::Frozen(Part::Origin);
        assert!(wrong(&pause(100.0, 102.2), frozen).is_empty());
        assert_eq!(wrong(&pause(100.0, 101.0), frozen).len(), 1);
        assert_eq!(wrong(&pause(90.0, 92.2), frozen).len(), 1);

        let mut rounds = Rounds::default();
        let refused = |count| Refusals::from([((0, "no_origin".to_owned()), count)]);
        rounds.count_refusals(&refused(3), &refused(3));
        assert!(rounds.refused.is_empty());
        rounds.count_refusals(&refused(3), &refused(4));
        rounds.count_refusals(&refused(3), &refused(2));
        assert_eq!(rounds.refused["no_origin"], 3);
        let row = rounds.row(&Outcome::default(), &killed.allowed(false), plan());
        assert_eq!(row.wrong, ["refused for no_origin"]);
        assert_eq!(told(killed), Vec::<String>::new());
        assert_eq!(told(Fault::EdgesReplaced), ["somebody new was told: no"]);
        let closed = Fault::ControlsDown.allowed(false);
        let row = Rounds::default().row(&Outcome::default(), &closed, plan());
        assert_eq!(row.wrong, ["nobody was refused"]);
    }
}
