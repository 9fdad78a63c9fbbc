//! Scenarios, played with real files and a clock that is moved by hand. Each checks that the bytes which
//! arrived, put together by their offsets, are those that were written.

mod bench;
mod compressed;
mod copies;
mod events;
mod limits;
mod losses;
mod random;
mod restarts;
mod rotations;
mod stale;
mod wake;
mod zeros;
