//! What a fault does, and how it ends.

use async_nats::message::OutboundMessage;

use super::broker::Broker;
use super::disk::Disk;
use super::logs::origin;
use super::plan::{FaultKind, QUIET_AFTER};
use super::truth::lock;
use super::world::{FLOOR, Later, STREAM, World, kill};

impl World {
    /// Lets something go wrong, and notes when it is over.
    pub(super) async fn fail(&mut self, now: u64, kind: FaultKind) {
        let network = self.network.clone();
        let after = |millis: u64| (now + millis).min(QUIET_AFTER);
        match kind {
            FaultKind::AnswersLost { count } => network.weather(|weather| weather.lose_answers += count),
            FaultKind::AnswersHeld { count, millis } => network.weather(|weather| {
                (weather.hold_answers, weather.hold_millis) = (count, millis);
            }),
            FaultKind::PublishesRepeated { count, millis } => network.weather(|weather| {
                (weather.repeat_publishes, weather.repeat_millis) = (count, millis);
            }),
            FaultKind::Noise { lost_up, lost_down, doubled, millis } => {
                network.weather(|weather| {
                    (weather.lost_up, weather.lost_down, weather.doubled) = (lost_up, lost_down, doubled);
                });
                let calm = |world: &Self| {
                    world.network.weather(|weather| {
                        (weather.lost_up, weather.lost_down, weather.doubled) = (0, 0, 0);
                    });
                };
                self.schedule(after(millis), Later::Calm(calm));
            }
            FaultKind::Cut { who } => network.cut(&who),
            FaultKind::Silence { who, millis } => {
                network.silence(&who);
                self.schedule(after(millis), Later::CutAgain(who));
            }
            FaultKind::ServerKilled { down } => {
                network.stop_server();
                self.schedule(after(down), Later::StartServer);
            }
            FaultKind::PowerCut { down, lost, notices_lost } => {
                network.stop_server();
                network.change(|broker| {
                    broker.roll_back(STREAM, lost);
                    broker.roll_back(FLOOR, notices_lost);
                });
                self.schedule(after(down), Later::StartServer);
            }
            FaultKind::JetStreamAbsent { millis } => {
                self.impair(after(millis), |broker, on| broker.absent = on);
            }
            FaultKind::JetStreamUnavailable { millis } => {
                self.impair(after(millis), |broker, on| broker.unavailable = on);
            }
            FaultKind::StreamFull { millis } => self.impair(after(millis), |broker, on| broker.full = on),
            FaultKind::StreamDeleted => network.operate(|broker| broker.delete_stream(STREAM)),
            FaultKind::OldestDeleted { count } => self.delete_messages(0, count),
            FaultKind::MessageDeleted { nth } => self.delete_messages(nth, 1),
            FaultKind::Purged => self.delete_messages(0, usize::MAX),
            // A server says nothing of a request that came just before.
            FaultKind::ConsumersDeleted { silently: true } => network.change(|broker| {
                broker.delete_consumers(STREAM);
            }),
            FaultKind::ConsumersDeleted { silently: false } => {
                network.operate(|broker| broker.delete_consumers(STREAM));
            }
            FaultKind::ConsumersStalled { millis } => {
                self.impair(after(millis), |broker, on| broker.stalled = on);
            }
            FaultKind::ProducerKilled { host, down, yields } => {
                yield_times(yields).await;
                self.kill_producer(host, after(down)).await;
            }
            FaultKind::ConsumerKilled { consumer, down, yields } => {
                yield_times(yields).await;
                self.kill_consumer(consumer, after(down)).await;
            }
            FaultKind::TwinProducer { host, millis } => {
                let name = format!("producer{host}-twin{}", self.twins.len());
                let twin = self.producer(host, &name);
                self.twins.push(twin);
                self.schedule(after(millis), Later::StopTwins);
            }
            FaultKind::DiskFull { consumer, millis } => {
                self.disks[consumer].set_full(true);
                let calm = |world: &Self| world.disks.iter().for_each(|disk| disk.set_full(false));
                self.schedule(after(millis), Later::Calm(calm));
            }
            FaultKind::OriginHeld { consumer, host, log, late, millis } => {
                self.disks[consumer].hold(&origin(host, log), late);
                let calm = |world: &Self| world.disks.iter().for_each(Disk::release);
                self.schedule(after(millis), Later::Calm(calm));
            }
            FaultKind::SourceLost { host, log, permille } => {
                let origin = origin(host, log);
                network.look(|broker| {
                    let mut truth = lock(&self.truth);
                    let log = &truth.logs[&origin];
                    let oldest = (log.written * permille / 1000).max(log.oldest);
                    truth.forget(&origin, oldest, broker);
                });
            }
            FaultKind::Foreign { count, covering } => self.publish_as_others(now, count, covering),
            FaultKind::NoticesLost { count } => network.weather(|weather| weather.lose_notices += count),
            FaultKind::NoticesHeld { count, millis } => network.weather(|weather| {
                (weather.hold_notices, weather.hold_notices_millis) = (count, millis);
            }),
            FaultKind::FloorDeleted => network.operate(|broker| broker.delete_stream(FLOOR)),
            FaultKind::WipedWhileDown { producers, consumers, floor, down } => {
                for host in (0..self.producers.len()).filter(|_| producers) {
                    self.kill_producer(host, after(down)).await;
                }
                for consumer in (0..self.consumers.len()).filter(|_| consumers) {
                    self.kill_consumer(consumer, after(down)).await;
                }
                network.operate(|broker| broker.delete_stream(STREAM));
                if floor {
                    network.operate(|broker| broker.delete_stream(FLOOR));
                }
            }
        }
    }

    async fn kill_producer(&mut self, host: usize, until: u64) {
        if let Some(task) = self.producers[host].take() {
            kill(task).await;
            self.schedule(until, Later::StartProducer(host));
        }
    }

    async fn kill_consumer(&mut self, consumer: usize, until: u64) {
        if let Some(task) = self.consumers[consumer].take() {
            kill(task).await;
            self.schedule(until, Later::StartConsumer(consumer));
        }
    }

    /// Something about the server is wrong until then.
    fn impair(&mut self, until: u64, set: fn(&mut Broker, bool)) {
        self.network.change(|broker| set(broker, true));
        self.schedule(until, Later::Mend(set));
    }

    fn delete_messages(&self, skip: usize, count: usize) {
        self.network.change(|broker| {
            let sequences = broker.stream(STREAM).map(|stream| stream.messages.keys().copied().collect());
            let sequences: Vec<u64> = sequences.unwrap_or_default();
            for sequence in sequences.into_iter().skip(skip).take(count) {
                broker.delete_message(STREAM, sequence);
            }
        });
    }

    fn publish_as_others(&self, now: u64, count: usize, covering: Option<(usize, usize)>) {
        let subject = match covering {
            Some((host, log)) => self.subjects.publish(&origin(host, log)),
            None if self.plan.partitions.is_some() => "s.p0.others".to_owned(),
            None => "s.others".to_owned(),
        };
        for number in 0..count {
            let payload = format!("line {number} of another at {now}").into();
            let subject = subject.as_str().into();
            self.network.publish(OutboundMessage { subject, reply: None, headers: None, payload });
        }
    }
}

async fn yield_times(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}
