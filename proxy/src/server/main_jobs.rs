//! What conversions leave for main to do, on the thread that lives as long as the process.

use std::fmt;
use std::rc::Rc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Worker;

type Job = Box<dyn FnOnce(&Rc<Worker>) + Send>;

/// Takes jobs from any thread; main does them, as soon as it has clusters to do them with.
pub struct MainJobs {
    jobs: mpsc::UnboundedSender<Job>,
    waiting: Mutex<Option<mpsc::UnboundedReceiver<Job>>>,
}

impl MainJobs {
    /// Leaves a job for main, in whose local runtime it may spawn tasks. As many as there are configurations that ask for one.
    pub fn run(&self, job: impl FnOnce(&Rc<Worker>) + Send + 'static) {
        // Where main never runs (a configuration that is only validated) there is nothing to do.
        let _ = self.jobs.send(Box::new(job));
    }

    /// Does the jobs, those that come later too. There is one main: the second call ends at once.
    pub(super) async fn serve(&self, main: Rc<Worker>) {
        let Some(mut waiting) = self.waiting.lock().take() else {
            return;
        };
        while let Some(job) = waiting.recv().await {
            job(&main);
        }
    }
}

impl Default for MainJobs {
    #[expect(
        clippy::disallowed_methods,
        reason = "conversions do not wait, and a configuration leaves few jobs"
    )]
    fn default() -> Self {
        let (jobs, waiting) = mpsc::unbounded_channel();
        Self {
            jobs,
            waiting: Mutex::new(Some(waiting)),
        }
    }
}

impl fmt::Debug for MainJobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MainJobs").finish_non_exhaustive()
    }
}
