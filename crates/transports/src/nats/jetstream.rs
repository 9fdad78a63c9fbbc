//! From a `[transport]` table with a `stream` to its two ends.

use anyhow::Result;
use fshipper_pipeline::{Checkpoint, Context, Ends, Settings, Sink, Source};

use super::api::Api;
use super::config::{Framing, Nats, StreamTable};
use super::connect::{Connection, connect, connect_and_ping};
use super::floor::FloorPlan;
use super::probe;
use super::receiver::{FloorTable, Receiver};
use super::requests::Requests;
use super::sender::Sender;
use super::stream::Plan;
use super::wire::Encoding;
use super::{receiver, sender, silence};

/// Opens the sending end.
///
/// # Errors
///
/// The connection, the stream or a permission is missing.
pub(super) async fn open_sender(
    nats: &Nats,
    stream: &StreamTable,
    context: Context,
) -> Result<Box<dyn Sink>> {
    let connection = connect(nats, &context.settings, sender::QUEUES).await?;
    sender_over(nats, stream, connection, context).await
}

/// Opens the receiving end at `from`.
///
/// # Errors
///
/// The connection, the stream or a permission is missing.
pub(super) async fn open_receiver(
    nats: &Nats,
    stream: &StreamTable,
    from: Checkpoint,
    context: Context,
) -> Result<Box<dyn Source>> {
    let (queues, ping_interval) = (receiver::QUEUES, silence::PING_INTERVAL);
    let connection = connect_and_ping(nats, &context.settings, queues, ping_interval).await?;
    receiver_over(nats, stream, connection, from, context).await
}

/// The sending end over a connection that stands.
pub(super) async fn sender_over(
    nats: &Nats,
    stream: &StreamTable,
    connection: Connection,
    context: Context,
) -> Result<Box<dyn Sink>> {
    let api = Api::new(Requests::new(connection).await?);
    let encoding = Encoding { compression: nats.compression, host: false };
    let (plan, floor) = (plan(nats, stream), floor(nats, stream));
    let sender = Sender::open(api, &plan, floor, nats.subjects(), nats.framing, encoding, context).await?;
    Ok(Box::new(sender))
}

/// The receiving end over a connection that stands.
pub(super) async fn receiver_over(
    nats: &Nats,
    stream: &StreamTable,
    connection: Connection,
    from: Checkpoint,
    context: Context,
) -> Result<Box<dyn Source>> {
    let api = Api::new(Requests::new(connection).await?);
    let (plan, subjects) = (plan(nats, stream), nats.subjects());
    let filters = subjects.receive(nats.read_partitions.as_deref());
    let floor = floor(nats, stream).map(|plan| FloorTable {
        plan,
        read_partitions: nats.read_partitions.clone(),
        gap_wait: stream.gap_wait.0,
        purge: stream.purge,
    });
    let receiver = Receiver::open(api, plan, floor, subjects, filters, from, &context).await?;
    Ok(Box::new(receiver))
}

/// Verifies what the ends need, and says what it found.
///
/// # Errors
///
/// What is missing or forbidden, with the remedy.
pub(super) async fn probe(
    nats: &Nats,
    stream: &StreamTable,
    connection: Connection,
    ends: Ends,
    settings: &Settings,
) -> Result<Vec<String>> {
    let api = Api::new(Requests::new(connection).await?);
    let (plan, floor, subjects) = (plan(nats, stream), floor(nats, stream), nats.subjects());
    let filters = subjects.receive(nats.read_partitions.as_deref());
    probe::probe(&api, &plan, floor.as_ref(), &subjects, &filters, ends, settings.host.as_bytes()).await
}

fn floor(nats: &Nats, table: &StreamTable) -> Option<FloorPlan> {
    let plan = || FloorPlan::new(&table.name, table.create, table.replicas, &nats.subject, nats.partitions);
    table.floor.then(plan)
}

fn plan(nats: &Nats, table: &StreamTable) -> Plan {
    Plan {
        name: table.name.clone(),
        create: table.create,
        storage: table.storage,
        replicas: table.replicas,
        max_age: table.max_age.map(|age| age.0),
        max_bytes: table.max_bytes.map(|size| size.0),
        atomic: nats.framing == Framing::Line,
    }
}
