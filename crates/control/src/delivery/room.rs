//! How many requests are under way at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::shares::{Share, Shares};

/// Bounds them for the process, and for each tenant: receivers that hang are all of one tenant, as a rule. What finds no
/// room waits in the database.
pub(super) struct Room {
    all: Arc<Semaphore>,
    of_tenants: Shares<String>,
}

/// For one request, until it is dropped.
pub(super) struct Place {
    _any: OwnedSemaphorePermit,
    _of_tenant: Share<String>,
}

impl Room {
    pub(super) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(REQUESTS_MAX)),
            of_tenants: Shares::new(TENANT_REQUESTS_MAX),
        }
    }

    /// `None`: not now.
    pub(super) fn place(&self, tenant: &String) -> Option<Place> {
        let of_tenant = self.of_tenants.take(tenant)?;
        let any = self.all.clone().try_acquire_owned().ok()?;
        Some(Place {
            _any: any,
            _of_tenant: of_tenant,
        })
    }
}

/// Requests under way, of one process.
const REQUESTS_MAX: usize = 128;
/// Of them those of one tenant.
pub(crate) const TENANT_REQUESTS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_at_its_bound_leaves_room_for_others() {
        let room = Room::new();
        let (one, other) = ("one".to_owned(), "other".to_owned());
        let taken: Vec<Place> = std::iter::from_fn(|| room.place(&one)).collect();
        assert_eq!(taken.len(), TENANT_REQUESTS_MAX);
        assert!(room.place(&other).is_some());
        drop(taken);
        let tenants = (0..REQUESTS_MAX).map(|number| number.to_string());
        let taken: Vec<Place> = tenants.map(|name| room.place(&name).unwrap()).collect();
        assert!(room.place(&one).is_none(), "of all");
        drop(taken);
        assert!(room.of_tenants.is_empty());
    }
}
