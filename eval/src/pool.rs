//! Buffers that threads lend from each other.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Buffers that no thread uses just now: there are never more than threads.
#[derive(Debug, Default)]
pub(crate) struct Pool<T> {
    idle: Mutex<Vec<T>>,
}

impl<T: Default> Pool<T> {
    /// Runs `work` with buffers for itself.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let mut own = self.lock().pop().unwrap_or_default();
        let result = work(&mut own);
        self.lock().push(own);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        // A thread that panicked elsewhere leaves the list whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
