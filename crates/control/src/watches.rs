//! Methods whose answer stays open: so many at a time, of them so many for one tenant, until their watcher goes, its
//! credential ends, or control drains.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use proto::error::status;
use runtime::shutdown::Shutdown;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status};

/// One watcher's stream.
pub(crate) type Answers<T> = ReceiverStream<Result<T, Status>>;

/// What one watcher is told.
pub(crate) trait Watch: Send + 'static {
    type Answer: Send + 'static;

    /// The next answer, once there is one. An error is the last; given up on, nothing is lost but the watch.
    fn next(&mut self) -> impl Future<Output = Result<Self::Answer, Status>> + Send;
}

/// The open watches of one method of this process.
pub(crate) struct Watches {
    free: Arc<Semaphore>,
    by_tenant: Arc<Mutex<HashMap<Arc<str>, usize>>>,
    /// Answers that wait for one watcher to read them.
    queued_max: usize,
    shutdown: Shutdown,
}

/// One of the open watches, for as long as it is kept.
pub(crate) struct Room {
    _free: OwnedSemaphorePermit,
    _share: Option<Share>,
}

/// One of a tenant's.
struct Share {
    by_tenant: Arc<Mutex<HashMap<Arc<str>, usize>>>,
    tenant: Arc<str>,
}

impl Watches {
    pub(crate) fn new(open_max: usize, queued_max: usize, shutdown: Shutdown) -> Self {
        Self {
            free: Arc::new(Semaphore::new(open_max)),
            by_tenant: Arc::default(),
            queued_max,
            shutdown,
        }
    }

    /// Room for one more watch, of a tenant where one is named.
    pub(crate) fn room(&self, tenant: Option<&Arc<str>>) -> Result<Room, Status> {
        let free = self.free.clone().try_acquire_owned();
        let free = free.map_err(|_none_left| too_many("too many open watches"))?;
        let share = tenant.map(|tenant| self.share(tenant)).transpose()?;
        Ok(Room {
            _free: free,
            _share: share,
        })
    }

    fn share(&self, tenant: &Arc<str>) -> Result<Share, Status> {
        let mut by_tenant = self.by_tenant.lock();
        let open = by_tenant.entry(tenant.clone()).or_default();
        if *open >= TENANT_WATCHES_MAX {
            return Err(too_many("too many open watches of the tenant"));
        }
        *open = open.saturating_add(1);
        Ok(Share {
            by_tenant: self.by_tenant.clone(),
            tenant: tenant.clone(),
        })
    }

    /// Answers from now on, until `end` says why no more. What is held is let go with the watch: its room above all.
    pub(crate) fn serve<W: Watch>(
        &self,
        watch: W,
        end: impl Future<Output = Status> + Send + 'static,
        held: impl Send + 'static,
    ) -> Response<Answers<W::Answer>> {
        // One more for the last answer, which waits for nobody.
        let (answers, stream) = mpsc::channel(self.queued_max.saturating_add(1));
        let last = answers.clone().try_reserve_owned().ok();
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let status = tokio::select! {
                biased;
                () = answers.closed() => None,
                () = shutdown.draining() => {
                    let description = "this control is going away";
                    Some(status(Code::Unavailable, "DRAINING", description))
                }
                status = end => Some(status),
                status = tell(watch, &answers) => status,
            };
            if let (Some(last), Some(status)) = (last, status) {
                last.send(Err(status));
            }
            drop(held);
        });
        Response::new(ReceiverStream::new(stream))
    }
}

/// Until the watch has no more to tell, and why; `None` where nobody listens.
async fn tell<W: Watch>(
    mut watch: W,
    answers: &mpsc::Sender<Result<W::Answer, Status>>,
) -> Option<Status> {
    loop {
        match watch.next().await {
            Ok(answer) => answers.send(Ok(answer)).await.ok()?,
            Err(status) => return Some(status),
        }
    }
}

fn too_many(what: &str) -> Status {
    let description = format!("{what}; try another control");
    status(Code::ResourceExhausted, "TOO_MANY_WATCHES", description)
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut by_tenant = self.by_tenant.lock();
        if let Some(open) = by_tenant.get_mut(&self.tenant) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                by_tenant.remove(&self.tenant);
            }
        }
    }
}

/// Public watches of one method at one control process.
pub(crate) const PUBLIC_WATCHES_MAX: usize = 256;
/// Of them, those of callers of one tenant: none keeps all others out.
pub(crate) const TENANT_WATCHES_MAX: usize = 64;
