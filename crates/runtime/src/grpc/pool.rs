//! Connections that sessions share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tonic::transport::Channel;

use super::{Target, channel};

/// Sessions (long-lived RPCs) on one HTTP/2 connection; hyper's own limit of 200 would hang the 201st.
pub const SESSIONS_PER_CONNECTION: usize = 64;

/// The connections to each destination.
pub struct Pool<D> {
    connections: Mutex<BTreeMap<D, Vec<Weak<Connection<D>>>>>,
}

/// One HTTP/2 connection. Its sessions hold it, and it ends with the last of them: of one that nobody uses nobody knows
/// whether it still leads anywhere, and the next session would have to find out.
pub struct Connection<D> {
    destination: D,
    channel: Channel,
}

impl<D: Clone + Ord> Pool<D> {
    /// A connection with room for one more session.
    pub fn connection(
        &self,
        destination: &D,
        target: impl FnOnce() -> Target,
    ) -> Arc<Connection<D>> {
        let mut connections = self.connections.lock();
        connections.retain(|_, pool| {
            pool.retain(|connection| connection.strong_count() > 0);
            !pool.is_empty()
        });
        let pool = connections.entry(destination.clone()).or_default();
        let mut with_room = pool
            .iter()
            .filter(|connection| connection.strong_count() < SESSIONS_PER_CONNECTION);
        if let Some(connection) = with_room.find_map(Weak::upgrade) {
            return connection;
        }
        let connection = Arc::new(Connection {
            destination: destination.clone(),
            channel: channel(&target()),
        });
        pool.push(Arc::downgrade(&connection));
        connection
    }

    /// The connection was of no use: new sessions get another one.
    pub fn give_up(&self, connection: &Arc<Connection<D>>) {
        let mut connections = self.connections.lock();
        if let Some(pool) = connections.get_mut(&connection.destination) {
            pool.retain(|pooled| !std::ptr::eq(pooled.as_ptr(), Arc::as_ptr(connection)));
        }
    }
}

impl<D> Default for Pool<D> {
    fn default() -> Self {
        Self {
            connections: Mutex::default(),
        }
    }
}

impl<D> Connection<D> {
    /// Where it leads.
    pub fn destination(&self) -> &D {
        &self.destination
    }

    /// To make calls on; it lasts as long as the connection is held.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::in_process, *};
    use crate::identity::Role;

    fn connection(
        pool: &Pool<&'static str>,
        destination: &'static str,
    ) -> Arc<Connection<&'static str>> {
        pool.connection(&destination, || {
            let (_listener, target) = in_process(Role::Edge);
            Target::InProcess(target)
        })
    }

    fn pooled(pool: &Pool<&'static str>) -> Vec<usize> {
        let connections = pool.connections.lock();
        let counts = connections.values().flatten().map(Weak::strong_count);
        counts.collect()
    }

    #[tokio::test]
    async fn no_connection_carries_more_sessions_than_it_should() {
        let pool = Pool::default();
        let sessions: Vec<_> = (0..SESSIONS_PER_CONNECTION * 2 + 1)
            .map(|_| connection(&pool, "a"))
            .collect();
        assert_eq!(
            pooled(&pool),
            [SESSIONS_PER_CONNECTION, SESSIONS_PER_CONNECTION, 1]
        );
        assert!(!Arc::ptr_eq(&sessions[0], &connection(&pool, "b")));
    }

    #[tokio::test]
    async fn a_connection_ends_with_its_last_session() {
        let pool = Pool::default();
        let (first, second) = (connection(&pool, "a"), connection(&pool, "a"));
        assert!(Arc::ptr_eq(&first, &second));
        drop(first);
        assert!(Arc::ptr_eq(&second, &connection(&pool, "a")));
        drop(second);
        assert_eq!(pooled(&pool), [0]);
        let _other = connection(&pool, "b");
        assert_eq!(pooled(&pool), [1], "nothing is kept of the first");
    }

    #[tokio::test]
    async fn a_connection_that_was_given_up_gets_no_more_sessions() {
        let pool = Pool::default();
        let (given_up, other) = (connection(&pool, "a"), connection(&pool, "b"));
        pool.give_up(&given_up);
        let next = connection(&pool, "a");
        assert!(!Arc::ptr_eq(&given_up, &next));
        pool.give_up(&given_up);
        assert!(
            Arc::ptr_eq(&next, &connection(&pool, "a")),
            "once is enough"
        );
        assert!(Arc::ptr_eq(&other, &connection(&pool, "b")));
    }
}
