//! The ways from main to the workers: every message arrives, in order, however long a worker takes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::mpsc::error::TrySendError;

use crate::server::{WorkerMessage, WorkerSender};

/// The ways to all workers, by index.
pub(super) struct WorkerLinks(Vec<Rc<Link>>);

struct Link {
    sender: WorkerSender,
    /// What the queue of the worker had no room for: as much as there were changes of configuration meanwhile. None: nothing
    /// waits, and no task sends.
    waiting: RefCell<Option<VecDeque<WorkerMessage>>>,
}

impl WorkerLinks {
    /// The ways to these workers.
    pub(super) fn new(workers: &[WorkerSender]) -> Self {
        let link = |sender: &WorkerSender| {
            Rc::new(Link {
                sender: sender.clone(),
                waiting: RefCell::new(None),
            })
        };
        Self(workers.iter().map(link).collect())
    }

    /// Sends a message to all.
    pub(super) fn broadcast(&self, message: impl Fn() -> WorkerMessage) {
        for worker in 0..self.0.len() {
            self.send(worker, message());
        }
    }

    /// Sends a message to one. One that has ended needs none.
    pub(super) fn send(&self, worker: usize, message: WorkerMessage) {
        let Some(link) = self.0.get(worker) else {
            return;
        };
        let mut waiting = link.waiting.borrow_mut();
        if let Some(waiting) = waiting.as_mut() {
            waiting.push_back(message);
            return;
        }
        if let Err(TrySendError::Full(message)) = link.sender.try_send(message) {
            *waiting = Some(VecDeque::from([message]));
            tokio::task::spawn_local(link.clone().send_waiting());
        }
    }
}

impl Link {
    async fn send_waiting(self: Rc<Self>) {
        loop {
            let next = {
                let mut waiting = self.waiting.borrow_mut();
                let next = waiting.as_mut().and_then(VecDeque::pop_front);
                if next.is_none() {
                    *waiting = None;
                }
                next
            };
            let Some(message) = next else { return };
            // A worker that has ended needs no message.
            let _ = self.sender.send(message).await;
        }
    }
}
