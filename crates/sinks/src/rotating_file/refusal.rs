//! Which logs are not taken at all, though their folders could be written: [`Writer::refusal`].

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fshipper_pipeline::{Batch, Escaped};

use super::names::FilePath;
use super::path::OWN_PREFIX;
use super::writer::Writer;

impl Writer {
    /// Why the log of `batch` is not taken, if it is not. Asked for the first batch of each log in a session.
    pub(super) fn refusal(&self, batch: &Batch) -> Option<String> {
        if self.outputs.author(self.ledger.state(), &batch.origin).is_none()
            && self.outputs.count_origins() as u64 >= self.plan.max_logs
        {
            return Some(format!(
                "this output has {} logs, and its `max_logs` allows no more; raise it, or see who makes up names of hosts or logs",
                self.outputs.count_origins()
            ));
        }
        self.is_own_output(batch).then(|| {
            format!(
                "`{}` is a file of this very output, which a source on this host reads again: lines would go in a circle; leave the output out with `exclude` in the `[source]` table",
                Escaped(batch.origin.path())
            )
        })
    }

    /// Whether the log of `batch` is one that this sink has written, or is about to.
    fn is_own_output(&self, batch: &Batch) -> bool {
        let origin = &batch.origin;
        if origin.host() != self.owner.host.as_bytes() {
            return false;
        }
        let log = Path::new(OsStr::from_bytes(origin.path()));
        let fixed = self.plan.template.fixed();
        // A source may know the folder by another name than this table does.
        let real = fs::canonicalize(fixed);
        let folders = [fixed].into_iter().chain(real.as_deref().ok());
        let below = folders.filter_map(|folder| log.strip_prefix(folder).ok());
        let mut below = below.filter_map(|below| FilePath::from_components(below.iter()));
        below.any(|path| {
            path.components().iter().any(|name| name.as_bytes().starts_with(OWN_PREFIX.as_bytes()))
                || self.ledger.state().file_at(&path).is_some()
                || self.files.claims(&path)
                || path == self.plan.template.render(origin, &self.plan.calendar.period_of(batch.time))
        })
    }
}
