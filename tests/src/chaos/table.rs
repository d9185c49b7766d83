//! What came of the faults, for people and as JSON.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    time::Duration,
};

use serde_json::{Value, json};

/// Of how many, and how long they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

/// What came of a fault.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub fault: String,
    pub rounds: usize,
    pub publishers: usize,
    pub took: Duration,
    pub disconnects: usize,
    pub moves: u64,
    pub received: u64,
    pub lost: u64,
    pub lost_between_sessions: u64,
    pub duplicated: u64,
    /// The longest of each stream in each round, where it was longer than 100 ms.
    pub pauses: Figures,
    pub pause_goal: Option<Duration>,
    /// From the fault to the admission of somebody new; from its end, where nobody is let in meanwhile.
    pub newcomers: Figures,
    pub newcomer_goal: Option<Duration>,
    pub refused: BTreeMap<String, usize>,
    pub told: BTreeMap<String, usize>,
    /// What was not allowed: the fault's test has failed.
    pub wrong: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Table {
    pub rows: Vec<Row>,
}

impl Figures {
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        // The smallest that so many of a hundred are not above.
        let percentile = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).copied().unwrap_or_default()
        };
        Self {
            count: times.len(),
            p50: percentile(50),
            p99: percentile(99),
            max: percentile(100),
        }
    }

    fn json(self) -> Value {
        json!({
            "count": self.count,
            "p50_seconds": self.p50.as_secs_f64(),
            "p99_seconds": self.p99.as_secs_f64(),
            "max_seconds": self.max.as_secs_f64(),
        })
    }
}

impl Table {
    /// What was not allowed, with its fault.
    pub fn wrong(&self) -> Vec<String> {
        let rows = self.rows.iter();
        rows.flat_map(|row| {
            let of = |wrong| format!("{}: {wrong}", row.fault);
            row.wrong.iter().map(of)
        })
        .collect()
    }

    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "fault": row.fault,
                "rounds": row.rounds,
                "publishers": row.publishers,
                "seconds": row.took.as_secs_f64(),
                "disconnects": row.disconnects,
                "moves": row.moves,
                "received": row.received,
                "lost": row.lost,
                "lost_between_sessions": row.lost_between_sessions,
                "duplicated": row.duplicated,
                "pauses": row.pauses.json(),
                "pause_goal_seconds": row.pause_goal.map(|goal| goal.as_secs_f64()),
                "newcomers": row.newcomers.json(),
                "newcomer_goal_seconds": row.newcomer_goal.map(|goal| goal.as_secs_f64()),
                "refused": row.refused,
                "told": row.told,
                "wrong": row.wrong,
            })
        });
        rows.collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:24} {:>6} {:>4} {:>5} {:>5} {:>9} {:>4} {:>5} {:>4}  {:28} {:20}  refused",
            "fault",
            "rounds",
            "pub.",
            "disc.",
            "moved",
            "frames",
            "lost",
            "betw.",
            "dup.",
            "media pause p50/p99/max <goal",
            "somebody new p50/max",
        )?;
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        let wrong = self.wrong();
        for wrong in &wrong {
            writeln!(f, "WRONG {wrong}")?;
        }
        write!(f, "{} faults, {} wrong", self.rows.len(), wrong.len())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: Duration| format!("{:.2}", time.as_secs_f64());
        let goal = |goal: Option<Duration>| goal.map_or_else(|| "-".to_owned(), seconds);
        let pauses = if self.pauses.count == 0 {
            "none above 0.1".to_owned()
        } else {
            let Figures { p50, p99, max, .. } = self.pauses;
            format!("{}/{}/{}", seconds(p50), seconds(p99), seconds(max))
        };
        let new = format!(
            "{}/{}",
            seconds(self.newcomers.p50),
            seconds(self.newcomers.max)
        );
        let mut refused = String::new();
        for (reason, times) in &self.refused {
            write!(refused, "{reason} {times} ")?;
        }
        write!(
            f,
            "{:24} {:>6} {:>4} {:>5} {:>5} {:>9} {:>4} {:>5} {:>4}  {:28} {:20}  {}",
            self.fault,
            self.rounds,
            self.publishers,
            self.disconnects,
            self.moves,
            self.received,
            self.lost,
            self.lost_between_sessions,
            self.duplicated,
            format!("{pauses} <{}", goal(self.pause_goal)),
            format!("{new} <{}", goal(self.newcomer_goal)),
            refused,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        let figures = Figures::of(times);
        let milliseconds = [figures.p50, figures.p99, figures.max].map(|time| time.as_millis());
        assert_eq!(milliseconds, [100, 198, 200]);
        assert_eq!(Figures::of(Vec::new()), Figures::default());
        let one = Figures::of(vec![Duration::from_secs(1)]);
        assert_eq!((one.p50, one.p99), (one.max, one.max));
    }
}
