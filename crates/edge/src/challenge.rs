//! The second step of Adobe authentication: control makes a challenge, and the encoder comes back with an answer.

use std::sync::Arc;

use rtmp::AdobeChallenge;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use crate::{Context, admission::Refusal, session::Client};

/// A challenge that control is asked for. Dropping it ends the question.
pub(crate) struct Challenging {
    /// Once.
    pub(crate) decided: oneshot::Receiver<Result<AdobeChallenge, Refusal>>,
    _asking: AbortOnDropHandle<()>,
}

/// Asks for a challenge for whoever calls itself `user`.
pub(crate) fn begin(context: &Arc<Context>, user: String, client: Client) -> Challenging {
    let (decision, decided) = oneshot::channel();
    let context = context.clone();
    let asking = tokio::spawn(async move {
        let challenge = ask(&context, user, &client).await;
        if let Err(refusal) = &challenge {
            info!(client_address = %client.address, reason = refusal.reason,
                description = ?refusal.description, "no challenge for the encoder");
        }
        // An encoder that left does not need it.
        decision.send(challenge).ok();
    });
    Challenging {
        decided,
        _asking: AbortOnDropHandle::new(asking),
    }
}

/// Each counts as a refused attempt until it is answered rightly.
async fn ask(context: &Context, user: String, client: &Client) -> Result<AdobeChallenge, Refusal> {
    let address = client.address.ip();
    context.guesses.turn(address).await?;
    if context.drain.is_begun() {
        return Err(Refusal::not_available("draining"));
    }
    tokio::time::sleep(context.guesses.refused(address)).await;
    let patience = context.config.relay.authorize_timeout;
    context
        .admission
        .challenge(user, client.address, patience)
        .await
}
