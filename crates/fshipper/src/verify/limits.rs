//! What bounds the memory of a comparison: [`Limits`].

/// How much is remembered at once. With the default ones a comparison stays below 128 MiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Lines that may become anchors; when there are more, every other one is dropped. About 15 MiB.
    pub(super) samples: usize,
    /// Lines of a gap that are looked at together. About 40 MiB with what is made of them.
    pub(super) window_lines: usize,
    /// Different lines that are told apart; what comes beyond is only counted, which is said. About 60 MiB.
    pub(super) different_lines: usize,
    /// Different lines of the source that are counted in one pass over a shared file. About 60 MiB.
    pub(super) counted_lines: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { samples: 1 << 17, window_lines: 1 << 17, different_lines: 900_000, counted_lines: 900_000 }
    }
}
