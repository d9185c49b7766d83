//! Methods whose answer stays open: so many at a time, until their watcher goes or control drains.

use std::sync::Arc;

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
    /// Answers that wait for one watcher to read them.
    queued_max: usize,
    shutdown: Shutdown,
}

impl Watches {
    pub(crate) fn new(open_max: usize, queued_max: usize, shutdown: Shutdown) -> Self {
        Self {
            free: Arc::new(Semaphore::new(open_max)),
            queued_max,
            shutdown,
        }
    }

    /// Room for one more watch.
    pub(crate) fn room(&self) -> Result<OwnedSemaphorePermit, Status> {
        let room = self.free.clone().try_acquire_owned();
        room.map_err(|_none_left| {
            let description = "too many open watches; try another control";
            status(Code::ResourceExhausted, "TOO_MANY_WATCHES", description)
        })
    }

    /// Answers from now on. What is held is let go with the watch: its room above all.
    pub(crate) fn serve<W: Watch>(
        &self,
        watch: W,
        held: impl Send + 'static,
    ) -> Response<Answers<W::Answer>> {
        let (answers, stream) = mpsc::channel(self.queued_max);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            run(watch, answers, shutdown).await;
            drop(held);
        });
        Response::new(ReceiverStream::new(stream))
    }
}

async fn run<W: Watch>(
    mut watch: W,
    answers: mpsc::Sender<Result<W::Answer, Status>>,
    shutdown: Shutdown,
) {
    loop {
        let answer = tokio::select! {
            biased;
            () = answers.closed() => return,
            () = shutdown.draining() => {
                Err(status(Code::Unavailable, "DRAINING", "this control is going away"))
            }
            answer = watch.next() => answer,
        };
        let last = answer.is_err();
        let sent = tokio::select! {
            sent = answers.send(answer) => sent.is_ok(),
            () = shutdown.stopping() => false,
        };
        if last || !sent {
            return;
        }
    }
}
