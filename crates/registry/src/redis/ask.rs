//! One question to several servers.

use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{error::kind, node::Node};

/// The answers of all that give one by the deadline, or soon after the first: who hangs is not waited for. Each with
/// the place of its node in the list.
pub(super) async fn ask(
    nodes: &[Node],
    question: &Pipeline,
    mut deadline: Instant,
) -> Vec<(usize, Vec<Value>)> {
    let mut asked = JoinSet::new();
    for (at, node) in nodes.iter().cloned().enumerate() {
        let question = question.clone();
        asked.spawn(async move { (at, node.send(&question, deadline).await) });
    }
    let mut answers = Vec::with_capacity(nodes.len());
    while let Ok(Some(answer)) = timeout_at(deadline, asked.join_next()).await {
        if let Ok((at, Ok(values))) = answer
            && values.first().is_some_and(|value| {
                kind(value).is_none() && !matches!(value, Value::ServerError(_))
            })
        {
            deadline = deadline.min(Instant::now() + LATER_MAX);
            answers.push((at, values));
        }
    }
    answers
}

/// How much later than the first an answer may come.
const LATER_MAX: Duration = Duration::from_millis(100);
