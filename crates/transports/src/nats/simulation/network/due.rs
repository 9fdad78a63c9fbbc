//! What is on its way: [`Due`].

use std::cmp::Ordering;

use async_nats::message::OutboundMessage;

use crate::nats::simulation::messages::Outgoing;

/// Something that happens at a moment, and the order of what happens at the same one.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) at: u64,
    pub(super) order: u64,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    ToServer { connection: u64, message: OutboundMessage },
    ToClient { client: u64, connection: u64, outgoing: Outgoing },
    Connect { client: u64 },
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
