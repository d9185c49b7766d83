//! Somebody who wants to publish at an edge that fails closed (`outage_policy`), while Redis is down.

use std::{slice, time::Duration};

use super::{
    field::Field,
    load,
    newcomer::{Door, Newcomer, Refusals, refusals, since},
};
use crate::{api::IssuedKey, deployment::APP};

/// Somebody who has a key.
pub struct Prepared {
    key: IssuedKey,
    before: Refusals,
}

/// Somebody who tries until it is let in.
pub struct Waiting {
    newcomer: Newcomer,
    before: Refusals,
}

impl Prepared {
    /// While all is well: who gives keys out may be busy later.
    pub async fn new(field: &Field) -> Self {
        let stream = format!("strict-{:.0}", load::now());
        Self {
            key: field.api().create_key(APP, &stream).await,
            before: refusals(slice::from_ref(&field.strict)).await,
        }
    }

    pub fn comes(self, field: &Field) -> Waiting {
        let door = Door::of(slice::from_ref(&field.strict), field);
        Waiting {
            newcomer: door.newcomer(self.key, 0),
            before: self.before,
        }
    }
}

impl Waiting {
    /// Before Redis is back: it has been refused, for this reason and no other.
    pub async fn was_refused(&self, field: &Field) {
        assert!(!self.newcomer.is_in(), "an edge that fails closed let in");
        let after = refusals(slice::from_ref(&field.strict)).await;
        let refused = since(&self.before, &after);
        let reasons: Vec<_> = refused.keys().map(String::as_str).collect();
        assert_eq!(
            reasons,
            ["registry_unavailable"],
            "why an edge that fails closed refused"
        );
    }

    /// Once it is back.
    pub async fn gets_in(self, within: Duration) {
        let admission = self.newcomer.admitted(within).await;
        let admission = admission.expect("an edge that fails closed lets in again");
        println!(
            "an edge that fails closed let in after {:.1} s, {} tries",
            admission.took.as_secs_f64(),
            1 + admission.refused.values().sum::<usize>()
        );
    }
}
