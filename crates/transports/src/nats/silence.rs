//! How long a connection says nothing before something is wrong: [`silence`].

use std::time::Duration;

use super::client::Received;

/// What was heard during a [`silence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Not a byte since long before its end: the connection is dead.
    Nothing,
    /// Something else: the consumer is gone.
    Others,
}

/// Two heartbeats and some delay: nothing for so long means that the consumer, or the server, is gone.
pub(super) const SILENCE: Duration = Duration::from_secs(12);

/// How often a silence is looked at more closely. A part of [`SILENCE`].
const LISTENING: Duration = Duration::from_secs(3);

/// A connection without a byte for so long, in the end, is dead: longer than the next heartbeat was due when it died.
const DEAD: Duration = Duration::from_secs(6);

/// So many bytes since the last whole message are a part of the next one: a PING and a PONG have six, and they do
/// not come within a message.
const PART_BYTES: u64 = 1 << 10;

/// For a connection that messages are read from: after three intervals without anything whole, a minute and a
/// half, the client gives it up. A large message must have come by then, over however slow a line; that a
/// connection is dead is noticed sooner, by the [`silence`].
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Resolves when nothing has come for [`SILENCE`], not even a part of a message: over a slow line a large one is
/// under way for long, and heartbeats wait behind it.
pub(super) async fn silence(received: impl Fn() -> Received) -> Heard {
    let (mut before, mut whole) = (received(), received());
    let (mut silent, mut dead) = (Duration::ZERO, Duration::ZERO);
    while silent < SILENCE {
        tokio::time::sleep(LISTENING).await;
        silent += LISTENING;
        let now = received();
        dead = if now == before { dead + LISTENING } else { Duration::ZERO };
        before = now;
        if now.messages != whole.messages {
            // They were for somebody else; what has come of the next one since is not known.
            whole = now;
        } else if now.bytes >= whole.bytes + PART_BYTES {
            (whole, silent) = (now, Duration::ZERO);
        }
    }
    if dead >= DEAD { Heard::Nothing } else { Heard::Others }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    /// How long the silence lasts, of two minutes in which `more` comes each second; and what was heard in it.
    async fn silence_while(more: impl Fn(u64) -> Received) -> Option<(Duration, Heard)> {
        let (start, sum) = (Instant::now(), Cell::new(Received::default()));
        let coming = async {
            for second in 1..120 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let (before, more) = (sum.get(), more(second));
                let bytes = before.bytes + more.bytes;
                sum.set(Received { bytes, messages: before.messages + more.messages });
            }
        };
        tokio::select! {
            heard = silence(|| sum.get()) => Some((start.elapsed(), heard)),
            () = coming => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_comes_slowly_is_no_silence() {
        let part = |bytes| Received { bytes, messages: 0 };
        assert_eq!(silence_while(|_| part(0)).await, Some((SILENCE, Heard::Nothing)));
        assert_eq!(
            silence_while(|_| part(6)).await,
            Some((SILENCE, Heard::Others)),
            "the client's own PINGs"
        );
        let dies = silence_while(|second| part(if second < 5 { 6 } else { 0 })).await;
        assert_eq!(
            dies,
            Some((SILENCE, Heard::Nothing)),
            "what comes before a connection dies is no sign of life"
        );
        assert_eq!(silence_while(|_| part(200)).await, None);
        let ends = silence_while(|second| part(if second < 60 { 40_000 } else { 0 })).await;
        assert_eq!(ends, Some((Duration::from_secs(60) + SILENCE, Heard::Nothing)));
        let others = |_| Received { bytes: 5_000, messages: 1 };
        assert_eq!(silence_while(others).await, Some((SILENCE, Heard::Others)), "messages for somebody else");
        let between = |second| Received { bytes: 2_000, messages: u64::from(second % 10 == 0) };
        assert_eq!(silence_while(between).await, None, "a long message behind those for somebody else");
    }
}
