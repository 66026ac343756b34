//! Files that the daemon has open for a moment, apart from the requests of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::forget_wait::ForgetWait;

/// Work on a file that no request of the file's own waits for: by the daemon's own threads, or for another
/// file's request.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    pub(crate) running: AtomicUsize,
    /// How often it has ended.
    pub(crate) ended: AtomicU64,
    forgets: Arc<ForgetWait>,
}

impl Aside {
    /// Whose end `forgets` is told of.
    pub(crate) fn new(forgets: &Arc<ForgetWait>) -> Arc<Self> {
        Arc::new(Self {
            forgets: Arc::clone(forgets),
            ..Self::default()
        })
    }

    /// Runs `work`: the file that it has open may be removed, released and forgotten meanwhile, and takes
    /// its space until `work` has closed it.
    pub(crate) fn run(&self, work: impl FnOnce()) {
        self.running.fetch_add(1, Ordering::SeqCst);
        work();
        self.ended.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.forgets.notify();
    }
}
