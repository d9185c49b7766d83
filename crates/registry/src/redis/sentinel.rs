//! Where sentinels say that the primary is.
//!
//! All are asked, over connections of their own, and whoever has seen the latest failover is believed: one that was cut
//! off may still name the old primary. They are asked every second and when one of them tells of a failover; the
//! subscription alone would lose what was told while its connection was rebuilt.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use redis::{Pipeline, Value, from_redis_value};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use super::{
    ask::ask,
    config::Address,
    error::ConnectError,
    node::{Node, Place},
    pause::jittered,
};

/// Asks for as long as somebody wants to know.
pub(super) async fn follow(
    sentinels: Vec<Node>,
    master_name: String,
    switched: Arc<Notify>,
    timeout: Duration,
    place: watch::Sender<Place>,
) {
    let mut question = Pipeline::with_capacity(2);
    question
        .cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(&master_name);
    question.cmd("SENTINEL").arg("MASTER").arg(&master_name);
    // Of the failover that made the primary that is believed in.
    let mut believed = 0;
    loop {
        let answers = ask(&sentinels, &question, Instant::now() + timeout);
        let answers = tokio::select! {
            () = place.closed() => return,
            answers = answers => answers,
        };
        let known = answers
            .iter()
            .filter_map(|(_, answer)| read(answer))
            .max_by_key(|(epoch, _)| *epoch);
        // A sentinel that was cut off names a primary of before. Most of them together may have been made anew.
        let most = answers.len() * 2 > sentinels.len();
        let now = match known {
            Some((epoch, _)) if epoch < believed && !most => Place::Asking,
            Some((epoch, address)) => {
                believed = epoch;
                Place::At(address)
            }
            None if answers.is_empty() => Place::Unknown(Arc::new(ConnectError::NoSentinel)),
            None => Place::Unknown(Arc::new(ConnectError::UnknownMaster {
                master_name: master_name.clone(),
            })),
        };
        place.send_if_modified(|before| before.follow(now));
        tokio::select! {
            () = place.closed() => return,
            () = switched.notified() => {}
            () = sleep(jittered(ASK_PERIOD)) => {}
        }
    }
}

/// The number of the failover that made it, and the primary.
fn read(answer: &[Value]) -> Option<(u64, Address)> {
    let [address, master] = answer else {
        return None;
    };
    let (host, port): (String, u16) = from_redis_value(address.clone()).ok()?;
    let master: BTreeMap<String, String> = from_redis_value(master.clone()).unwrap_or_default();
    let epoch = master
        .get("config-epoch")
        .and_then(|epoch| epoch.parse().ok());
    Some((epoch.unwrap_or(0), Address::new(&host, port)))
}

impl Place {
    /// Whether that is news. A primary that is known stays so while no sentinel knows better.
    fn follow(&mut self, now: Self) -> bool {
        let news = match (&*self, &now) {
            (Self::At(before), Self::At(now)) => before != now,
            (Self::At(_), Self::Asking | Self::Unknown(_)) => false,
            (Self::Asking | Self::Unknown(_), _) => true,
        };
        if news {
            if let Self::At(address) = &now {
                tracing::info!(%address, "the sentinels name the primary");
            }
            *self = now;
        }
        news
    }
}

/// How often the sentinels are asked.
const ASK_PERIOD: Duration = Duration::from_secs(1);
