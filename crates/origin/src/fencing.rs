//! Who may write: what follows from a token that comes, from the highest that this origin has seen, and from what the
//! registry says. Pure; [`stream`](crate::stream) holds to it.

use registry::{EPOCH_AHEAD_MS_MAX, FencingToken, OriginName, Owner};

use crate::config::OutagePolicy;

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It would shut the stream for everybody who comes later.
    EpochInFuture,
    /// A higher one was seen.
    Fenced(FencingToken),
    /// This origin grants no epochs.
    NoEpochs,
    /// The registry did not say whether there is a higher one.
    Unchecked,
}

/// What the registry's word makes of a stream that this origin owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its publisher has to go, and the stream waits for another one.
    Fenced(FencingToken),
    /// Another origin has it.
    Moved(OriginName),
    Stays,
}

/// Below every other one.
pub(crate) const NONE: FencingToken = FencingToken {
    epoch: 0,
    attempt: 0,
};

/// The highest token known of a stream that this origin does not own. `followed`: of its log here; `registered`: what the
/// registry says, `None` where it does not answer. It is asked because this origin's memory may have gone with a restart.
pub(crate) fn known(
    followed: Option<FencingToken>,
    registered: Option<FencingToken>,
    policy: OutagePolicy,
) -> Result<FencingToken, Refused> {
    let registered = match (registered, policy) {
        (Some(token), _) => token,
        (None, OutagePolicy::Keep) => NONE,
        (None, OutagePolicy::FailClosed) => return Err(Refused::Unchecked),
    };
    Ok(registered.max(followed.unwrap_or(NONE)))
}

/// The token under which a publisher may open a stream of which `seen` is known. Epoch 0 asks for one, because the registry
/// could not be asked.
pub(crate) fn admit(
    presented: FencingToken,
    seen: FencingToken,
    policy: OutagePolicy,
    now_ms: u64,
) -> Result<FencingToken, Refused> {
    if presented.epoch > now_ms.saturating_add(EPOCH_AHEAD_MS_MAX) {
        return Err(Refused::EpochInFuture);
    }
    let token = match (presented.epoch, policy) {
        (0, OutagePolicy::FailClosed) => return Err(Refused::NoEpochs),
        (0, OutagePolicy::Keep) => FencingToken {
            epoch: seen.epoch.saturating_add(1).max(now_ms),
            attempt: presented.attempt,
        },
        (1.., _) => presented,
    };
    if token < seen {
        return Err(Refused::Fenced(seen));
    }
    Ok(token)
}

/// What becomes of a stream of which the registry says this. The answer may be old: it says what was granted by then.
pub(crate) fn judge(owner: &Owner, seen: FencingToken, here: &OriginName) -> Verdict {
    match &owner.lease {
        Some(lease) => {
            let token = FencingToken {
                epoch: lease.epoch,
                attempt: lease.attempt,
            };
            // A higher token of a lease here is a publisher that is about to open.
            if token > seen && lease.origin != *here {
                Verdict::Moved(lease.origin.clone())
            } else {
                Verdict::Stays
            }
        }
        // Kicked: the epoch was raised and nobody holds it.
        None if owner.epoch > seen.epoch => Verdict::Fenced(FencingToken {
            epoch: owner.epoch,
            attempt: 0,
        }),
        None => Verdict::Stays,
    }
}

/// The highest token that an answer of the registry tells of.
pub(crate) fn token(owner: &Owner) -> FencingToken {
    let lease = owner.lease.as_ref();
    FencingToken {
        epoch: owner.epoch,
        attempt: lease
            .filter(|lease| lease.epoch == owner.epoch)
            .map_or(0, |lease| lease.attempt),
    }
}
