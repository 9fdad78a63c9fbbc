//! How messages fare: [`Weather`].

/// How messages fare, and what is about to happen to some of them.
#[derive(Clone, Debug)]
pub(in crate::nats::simulation) struct Weather {
    /// The longest way of a message in milliseconds.
    pub(in crate::nats::simulation) latency: u64,
    /// Of 1000 messages to the server so many are lost; the same for those to clients; so many are doubled.
    pub(in crate::nats::simulation) lost_up: u32,
    pub(in crate::nats::simulation) lost_down: u32,
    pub(in crate::nats::simulation) doubled: u32,
    /// Longer messages never come to clients, as over a line that is too slow for them.
    pub(in crate::nats::simulation) longest: usize,
    /// So many answers to publishes are lost next.
    pub(in crate::nats::simulation) lose_answers: u32,
    /// So many answers come after this many milliseconds.
    pub(in crate::nats::simulation) hold_answers: u32,
    pub(in crate::nats::simulation) hold_millis: u64,
    /// So many publishes arrive a second time after this many milliseconds.
    pub(in crate::nats::simulation) repeat_publishes: u32,
    pub(in crate::nats::simulation) repeat_millis: u64,
    /// So many notices of the commit floor are lost next.
    pub(in crate::nats::simulation) lose_notices: u32,
    /// So many of them arrive only after this many milliseconds, and after those that were sent later.
    pub(in crate::nats::simulation) hold_notices: u32,
    pub(in crate::nats::simulation) hold_notices_millis: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            latency: 3,
            lost_up: 0,
            lost_down: 0,
            doubled: 0,
            longest: usize::MAX,
            lose_answers: 0,
            hold_answers: 0,
            hold_millis: 0,
            repeat_publishes: 0,
            repeat_millis: 0,
            lose_notices: 0,
            hold_notices: 0,
            hold_notices_millis: 0,
        }
    }
}
