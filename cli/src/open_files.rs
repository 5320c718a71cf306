//! How many files llq may have open: as many as models have, which their authors cut as they like.

/// More than any model has, and not more than macOS grants.
#[cfg(unix)]
const ENOUGH: u64 = 10240;

/// Raises the limit, with which shells start programs (256 or 1024), as far as the system allows.
/// Where it does not, opening the file that is one too many fails.
#[cfg(unix)]
pub(crate) fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
    if current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

/// Elsewhere there is none to raise.
#[cfg(not(unix))]
pub(crate) fn raise_limit() {}
