//! Any origin serves any stream: one that another origin owns is followed there, once for all readers here.
//!
//! A reader that finds no log here starts a [`search`](Follower::search), or waits for the one that is under way: the
//! registry says who owns the stream, one Follow RPC brings its log, and readers cannot tell it from one that is published
//! here. The log outlives its owner: it goes on at the next one, behind what it holds. What is followed is never given on, so
//! that two origins which take each other for the owner have nothing to give each other.
//!
//! | file | what |
//! |---|---|
//! | `directory` | who owns a stream, as the registry has it |
//! | `upstream` | one Follow RPC, and the connections that they share |
//! | `following` | one followed stream, from owner to owner |

mod directory;
mod following;
mod upstream;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use registry::{Origin, OriginName, Registry, StreamId};
use runtime::{grpc::Target, shutdown::Shutdown};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use self::{directory::Directory, following::Following, upstream::Upstreams};
use crate::{
    config::Config,
    stream::{Stream, Streams},
};

/// How another origin's relay port is reached.
pub type Dialer = Arc<dyn Fn(&Origin) -> Target + Send + Sync>;

/// Finds streams for readers. A cheap handle.
#[derive(Clone)]
pub(crate) struct Follower {
    shared: Arc<Shared>,
}

struct Shared {
    config: Arc<Config>,
    /// `None`: there are no other origins.
    elsewhere: Option<Elsewhere>,
    searches: Mutex<BTreeMap<StreamId, watch::Sender<Progress>>>,
    shutdown: Shutdown,
    streams: Streams,
}

struct Elsewhere {
    directory: Directory,
    upstreams: Upstreams,
}

/// What a search has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Asking,
    /// Somebody owns the stream, and its log is not there yet, or not any more.
    NotThere,
    /// Nobody publishes it.
    NotLive,
}

/// Streams that are looked for at a time; those of readers that were told that there is none included.
const SEARCHES_MAX: usize = 4096;
/// How long the answer that nobody publishes a stream stands, and how often it is asked for those who wait.
const NOT_LIVE_PERIOD: Duration = Duration::from_secs(1);
/// Between tries while a stream has an owner that does not have it (it is about to open, or has just died), doubling.
const NOT_THERE_PAUSE: Duration = Duration::from_millis(50);
const NOT_THERE_PAUSE_MAX: Duration = Duration::from_millis(400);
/// Origins that are asked for what they have of a stream before its publisher goes on here.
const ORIGINS_BEFORE_MAX: usize = 8;
/// How long a publisher waits for what another origin has of its stream: less than its edge waits for an acceptance.
const TAKE_IN_TIMEOUT: Duration = Duration::from_secs(1);

impl Follower {
    pub(crate) fn new(
        config: &Arc<Config>,
        registry: &Registry,
        dialer: Option<Dialer>,
        shutdown: &Shutdown,
        streams: &Streams,
    ) -> Self {
        let elsewhere = dialer.map(|dialer| Elsewhere {
            directory: Directory::new(config, registry, streams.metrics()),
            upstreams: Upstreams::new(dialer, streams.metrics()),
        });
        Self {
            shared: Arc::new(Shared {
                config: Arc::clone(config),
                elsewhere,
                searches: Mutex::default(),
                shutdown: shutdown.clone(),
                streams: streams.clone(),
            }),
        }
    }

    /// The stream as players see it, from wherever it is. One that nobody publishes is waited for
    /// as long as `wait`; whether it was, too.
    pub(crate) async fn find(
        &self,
        stream_id: StreamId,
        wait: Duration,
    ) -> Option<(Arc<Stream>, bool)> {
        let streams = &self.shared.streams;
        if let Some(stream) = streams.readable(stream_id) {
            return Some((stream, false));
        }
        let mut opened = streams.opened();
        let mut search = self.search(stream_id);
        if search.is_none() && wait.is_zero() {
            return None;
        }
        let _waiting = streams.waiting();
        let deadline = Instant::now() + wait.max(self.shared.config.timing.find_wait);
        let (mut began, mut waited) = (false, search.is_none());
        loop {
            opened.borrow_and_update();
            if let Some(stream) = streams.readable(stream_id) {
                let here = stream.owner().is_none();
                return Some((stream, waited || (here && !began)));
            }
            match search.as_mut().map(|search| *search.borrow_and_update()) {
                Some(Progress::NotLive) if wait.is_zero() => return None,
                Some(Progress::NotLive) => waited = true,
                Some(Progress::NotThere) => began = true,
                Some(Progress::Asking) | None => {}
            }
            let news = async {
                tokio::select! {
                    Ok(()) = opened.changed() => {}
                    Ok(()) = changed(search.as_mut()) => {}
                    else => std::future::pending().await,
                }
            };
            if timeout_at(deadline, news).await.is_err() {
                return streams.readable(stream_id).map(|stream| (stream, true));
            }
        }
    }

    /// Before a new session goes on here with a stream that one of these origins may have: takes in what it has, so that readers
    /// find that here, and the session's place in time behind it. Not for long.
    pub(crate) async fn take_in(&self, id: StreamId, origins: &[String]) {
        let streams = &self.shared.streams;
        let taken_in = async {
            if !origins.is_empty() && streams.find(id).is_none() {
                self.follow_one_of(id, origins).await;
            }
            if let Some(stream) = streams.find(id) {
                stream.taken_in().await;
            }
        };
        timeout(TAKE_IN_TIMEOUT, taken_in).await.ok();
    }

    async fn follow_one_of(&self, id: StreamId, origins: &[String]) -> Option<()> {
        let elsewhere = self.shared.elsewhere.as_ref()?;
        let names = origins.iter().take(ORIGINS_BEFORE_MAX);
        let names: Vec<_> = names
            .filter_map(|name| OriginName::new(name).ok())
            .collect();
        let candidates = elsewhere.directory.announced(id, &names).await;
        let admitted = self.shared.streams.admit_followed()?;
        let following = Following::begin(self, id, &candidates, admitted).await?;
        tokio::spawn(following.run());
        Some(())
    }

    /// The search for a stream that is not here: the one under way, or a new one. `None`: there is nowhere to look, or too
    /// much is looked for.
    fn search(&self, id: StreamId) -> Option<watch::Receiver<Progress>> {
        self.shared.elsewhere.as_ref()?;
        let mut searches = self.shared.searches.lock();
        if let Some(search) = searches.get(&id) {
            return Some(search.subscribe());
        }
        if searches.len() >= SEARCHES_MAX {
            return None;
        }
        let (search, receiver) = watch::channel(Progress::Asking);
        searches.insert(id, search);
        drop(searches);
        tokio::spawn(self.clone().look(id));
        Some(receiver)
    }

    /// Looks for a stream until it is here or nobody waits for it.
    async fn look(self, id: StreamId) {
        let mut pause = NOT_THERE_PAUSE;
        while self.shared.streams.find(id).is_none() {
            let asked = Instant::now();
            let Some(progress) = self.ask(id).await else {
                break;
            };
            if let Some(search) = self.shared.searches.lock().get(&id) {
                search.send_replace(progress);
            }
            if progress == Progress::NotLive {
                sleep(NOT_LIVE_PERIOD).await;
            } else {
                // An owner that said nothing took long enough.
                sleep_until(asked + pause).await;
                pause = (pause * 2).min(NOT_THERE_PAUSE_MAX);
            }
            let mut searches = self.shared.searches.lock();
            let waited_for = |search: &watch::Sender<Progress>| search.receiver_count() > 0;
            if !searches.get(&id).is_some_and(waited_for) {
                searches.remove(&id);
                return;
            }
        }
        self.shared.searches.lock().remove(&id);
    }

    /// Asks once, and follows where the answer leads. `None`: the stream is here.
    async fn ask(&self, id: StreamId) -> Option<Progress> {
        let elsewhere = self.shared.elsewhere.as_ref()?;
        let follow = async |candidates: Vec<Origin>| {
            let admitted = self.shared.streams.admit_followed();
            let admitted = admitted.filter(|_| !self.shared.shutdown.is_draining());
            let admitted = admitted.ok_or(Progress::NotLive)?;
            Ok(Following::begin(self, id, &candidates, admitted).await)
        };
        let (followed, told) = elsewhere.directory.ask(id, follow).await;
        match followed {
            Ok(Some(following)) => {
                tokio::spawn(following.run());
                None
            }
            Ok(None) if told.may_be_owned() => Some(Progress::NotThere),
            Ok(None) => Some(Progress::NotLive),
            Err(not_admitted) => Some(not_admitted),
        }
    }
}

async fn changed(
    search: Option<&mut watch::Receiver<Progress>>,
) -> Result<(), watch::error::RecvError> {
    match search {
        Some(search) => search.changed().await,
        None => std::future::pending().await,
    }
}
