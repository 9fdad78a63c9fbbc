//! Where variables come from: [`Environment`].

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::Arc;

/// The variables that a pipeline file may name. Cloning is cheap.
#[derive(Clone)]
pub struct Environment(Arc<Lookup>);

type Lookup = dyn Fn(&str) -> Option<OsString> + Send + Sync;

impl Environment {
    /// The variables of this process.
    pub fn process() -> Self {
        Self::new(|name| std::env::var_os(name))
    }

    /// The variables that `lookup` knows.
    pub fn new(lookup: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static) -> Self {
        Self(Arc::new(lookup))
    }

    /// What a variable holds; `None` when it is not set.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        (self.0)(name)
    }

    /// What a variable holds; `None` when it is not set, or empty.
    pub(super) fn filled(&self, name: &str) -> Option<OsString> {
        self.variable(name).filter(|value| !value.is_empty())
    }
}

/// These variables and no others.
impl<N: Into<String>, V: AsRef<OsStr>, const COUNT: usize> From<[(N, V); COUNT]> for Environment {
    fn from(variables: [(N, V); COUNT]) -> Self {
        let known: HashMap<String, OsString> =
            variables.into_iter().map(|(name, value)| (name.into(), value.as_ref().to_owned())).collect();
        Self::new(move |name| known.get(name).cloned())
    }
}

/// Shows nothing: variables hold secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}
