//! What becomes of sessions, for control's event log: a bounded queue, and a task that sends it to any control until one
//! has taken it. Sessions never wait for it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use proto::{
    internal::v1::{
        ReportSessionsRequest, SessionReport, admission_service_client::AdmissionServiceClient,
    },
    v1::{EventType, SessionEvent},
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep},
};
use tonic::{Code, Status};
use tracing::warn;
use uuid::Uuid;

use crate::{
    Context,
    admission::Refusal,
    metrics::{EdgeMetrics, Outcome},
    revocations::jittered,
    unix_ms,
};

/// Reports that wait, at most some 4 MB of them: 2000 sessions that come and go while no control answers.
const QUEUE_MAX: usize = 4096;
/// Reports in one request; control takes no more.
const BATCH_MAX: usize = 256;
/// The first pause before a batch is sent again; doubles up to [`PAUSE_MAX`], half of it random.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A key that is refused again within this time is not reported again.
const REFUSED_PERIOD: Duration = Duration::from_secs(10);
/// Keys and reasons that are remembered for it; beyond them none is reported.
const REFUSED_MAX: usize = 1024;
/// What an encoder calls itself, in bytes.
const ENCODER_BYTES_MAX: usize = 256;

/// Takes reports. The task behind it is [`Outbox::send`].
pub(crate) struct Reports {
    queue: mpsc::Sender<SessionReport>,
    metrics: EdgeMetrics,
    /// Queued, or on their way.
    waiting: AtomicU64,
    /// When a refusal of a key was reported, by its reason.
    refused: Mutex<BTreeMap<(String, &'static str), Instant>>,
    closed: Arc<Notify>,
}

/// The queue's other end.
pub(crate) struct Outbox {
    queue: mpsc::Receiver<SessionReport>,
    closed: Arc<Notify>,
}

impl Reports {
    pub(crate) fn new(metrics: EdgeMetrics) -> (Self, Outbox) {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let closed = Arc::new(Notify::new());
        let reports = Self {
            queue: sender,
            metrics,
            waiting: AtomicU64::new(0),
            refused: Mutex::default(),
            closed: closed.clone(),
        };
        let outbox = Outbox {
            queue: receiver,
            closed,
        };
        (reports, outbox)
    }

    /// Queues a report; where there is no room it is lost, and counted.
    pub(crate) fn add(&self, kind: EventType, mut session: SessionEvent) {
        let encoder = &mut session.encoder;
        encoder.truncate(encoder.floor_char_boundary(ENCODER_BYTES_MAX));
        let report = SessionReport {
            event_id: Uuid::now_v7().to_string(),
            time_ms: unix_ms(),
            r#type: kind.into(),
            session: Some(session),
        };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(report).is_err() {
            self.done("dropped", 1);
        }
    }

    /// A publisher whom control has let in is refused here: one report for each key, reason and [`REFUSED_PERIOD`].
    pub(crate) fn refused(&self, refusal: &Refusal, session: SessionEvent) {
        let now = Instant::now();
        let mut refused = self.refused.lock();
        refused.retain(|_, at| now.duration_since(*at) < REFUSED_PERIOD);
        let of = (session.stream_key_id.clone(), refusal.reason);
        if refused.contains_key(&of) || refused.len() >= REFUSED_MAX {
            return;
        }
        refused.insert(of, now);
        drop(refused);
        let session = SessionEvent {
            reason: refusal.reason.to_owned(),
            description: refusal.description.clone(),
            ..session
        };
        self.add(EventType::SessionRefused, session);
    }

    /// There is nothing more to report: [`Outbox::send`] ends once all is sent.
    pub(crate) fn close(&self) {
        self.closed.notify_one();
    }

    /// What nobody has taken by now is lost.
    pub(crate) fn give_up(&self) {
        let reports = self.waiting.load(Ordering::Relaxed);
        if reports > 0 {
            warn!(reports, "no control took the last reports of sessions");
            self.done("dropped", reports);
        }
    }

    fn done(&self, outcome: &'static str, reports: u64) {
        self.waiting.fetch_sub(reports, Ordering::Relaxed);
        self.metrics
            .session_reports
            .get_or_create(&Outcome { outcome })
            .inc_by(reports);
    }
}

impl Outbox {
    /// Sends what is reported, until that is closed.
    pub(crate) async fn send(mut self, context: Arc<Context>) {
        let mut batch = Vec::new();
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                taken = self.queue.recv_many(&mut batch, BATCH_MAX) => if taken == 0 {
                    return;
                },
                () = self.closed.notified(), if open => {
                    open = false;
                    self.queue.close();
                    continue;
                }
            }
            let reports = std::mem::take(&mut batch);
            let is_one = reports.len() == 1;
            let request = ReportSessionsRequest { reports };
            match deliver(&context, &request).await {
                Err(_one_of_them) if !is_one => send_apart(&context, request).await,
                outcome => note(&context, outcome, request.reports.len()),
            }
        }
    }
}

/// One that control refuses takes none of the others with it.
async fn send_apart(context: &Context, request: ReportSessionsRequest) {
    for report in request.reports {
        let reports = vec![report];
        let outcome = deliver(context, &ReportSessionsRequest { reports }).await;
        note(context, outcome, 1);
    }
}

fn note(context: &Context, outcome: Result<(), Status>, reports: usize) {
    let outcome = match outcome {
        Ok(()) => "sent",
        Err(status) => {
            warn!(code = ?status.code(), error = status.message(), "control refuses a report of a session");
            "refused"
        }
    };
    let reports = u64::try_from(reports).unwrap_or_default();
    context.reports.done(outcome, reports);
}

/// Until a control has taken it; an error where none ever will.
async fn deliver(context: &Context, request: &ReportSessionsRequest) -> Result<(), Status> {
    let mut pause = PAUSE;
    loop {
        let sent = context.admission.control().call(|channel| {
            let request = request.clone();
            async move {
                AdmissionServiceClient::new(channel)
                    .report_sessions(request)
                    .await
            }
        });
        match sent.await {
            Ok(_taken) => return Ok(()),
            Err(status) if !may_be_taken_later(&status) => return Err(status),
            Err(status) if pause == PAUSE => {
                warn!(code = ?status.code(), error = status.message(), "control does not take reports of sessions; they wait");
            }
            Err(_again) => {}
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn may_be_taken_later(status: &Status) -> bool {
    match status.code() {
        Code::Aborted
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::ResourceExhausted
        | Code::Unavailable
        | Code::Unknown => true,
        Code::AlreadyExists
        | Code::DataLoss
        | Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::NotFound
        | Code::Ok
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => false,
    }
}
