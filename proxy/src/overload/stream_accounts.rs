//! The action `envoy.overload_actions.reset_high_memory_stream`: breaks off the streams that hold the most bytes.
//!
//! Each stream of HTTP/2 has an account with its worker. Nothing is added up while requests come and go: when the action becomes
//! stronger or weaker, a worker asks its streams how much they hold, and breaks off those of the highest classes. A class is
//! twice the one below it; the lowest begins at half of `minimum_account_to_track_power_of_two`, there are eight, and the
//! stronger the action the more of them end.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use tokio::sync::watch;
use tracing::warn;

crate::stats_group! {
    /// `envoy.overload_actions.reset_high_memory_stream.`
    pub struct StreamResetStats {
        counter count;
    }
}

/// Classes of accounts.
const CLASSES: u32 = 8;

/// Streams of a worker that end at once.
const MAX_RESETS: usize = 50;

/// How strongly the action holds, as main tells it to workers. Without the action it says nothing.
#[derive(Debug, Default)]
pub struct StreamResets(OnceLock<Tracking>);

#[derive(Debug)]
struct Tracking {
    power: u32,
    strength: watch::Sender<f64>,
}

/// The accounts of a worker's streams.
#[derive(Debug)]
pub struct StreamAccounts {
    power: u32,
    strength: watch::Receiver<f64>,
    accounts: RefCell<Vec<Rc<Account>>>,
    /// Streams that were asked what they hold and have not said.
    unanswered: Cell<usize>,
    asking: RefCell<Option<Waker>>,
}

/// The account of one stream. It is closed when it is dropped.
#[derive(Debug)]
pub struct StreamAccount {
    account: Rc<Account>,
    all: Rc<StreamAccounts>,
}

#[derive(Debug, Default)]
struct Account {
    /// Where it is in the list.
    index: Cell<usize>,
    state: Cell<State>,
    stream: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The stream is to say what it holds.
    Asked,
    /// It has said so, in bytes.
    Holds(u64),
    /// It is to end.
    Doomed,
}

impl StreamResets {
    /// There is the action. `power`: of two, of the bytes from which on accounts matter.
    pub(super) fn track(&self, power: u32) {
        let strength = watch::Sender::new(0.0);
        let _ = self.0.set(Tracking { power, strength });
    }

    /// The action holds more strongly, or less, from 0 to 1.
    pub(super) fn changed(&self, strength: f64) {
        if let Some(tracking) = self.0.get() {
            tracking.strength.send_replace(strength);
        }
    }

    /// The accounts of a worker. None: no stream is ever broken off.
    pub fn accounts(&self) -> Option<Rc<StreamAccounts>> {
        let tracking = self.0.get()?;
        Some(Rc::new(StreamAccounts {
            power: tracking.power,
            strength: tracking.strength.subscribe(),
            accounts: RefCell::default(),
            unanswered: Cell::new(0),
            asking: RefCell::default(),
        }))
    }
}

impl StreamAccounts {
    /// Opens the account of a stream, which must ask it at each of its turns.
    pub fn open(self: &Rc<Self>) -> StreamAccount {
        let mut accounts = self.accounts.borrow_mut();
        let account = Rc::new(Account::default());
        account.index.set(accounts.len());
        accounts.push(account.clone());
        StreamAccount {
            account,
            all: self.clone(),
        }
    }

    /// Breaks streams off whenever the action becomes stronger or weaker, as long as main lives.
    pub async fn run(self: Rc<Self>, stats: StreamResetStats) {
        let mut strength = self.strength.clone();
        while strength.changed().await.is_ok() {
            let now = *strength.borrow_and_update();
            let count = self.reset(now).await;
            stats.count().add(count);
        }
    }

    /// Lets the streams end that hold the most. How many these are.
    async fn reset(&self, strength: f64) -> u64 {
        self.ask();
        poll_fn(|cx| self.poll_answered(cx)).await;
        let accounts = self.accounts.borrow();
        let lowest = CLASSES - classes_to_reset(strength);
        let mut doomed: Vec<(u64, &Rc<Account>)> = Vec::new();
        for account in accounts.iter() {
            if let State::Holds(bytes) = account.state.replace(State::Open)
                && class(bytes, self.power).is_some_and(|class| class >= lowest)
            {
                doomed.push((bytes, account));
            }
        }
        doomed.sort_by_key(|(bytes, _)| Reverse(*bytes));
        doomed.truncate(MAX_RESETS);
        if let Some((most, _)) = doomed.first() {
            warn!(
                streams = doomed.len(),
                most, "Streams that hold many bytes are reset."
            );
        }
        for (_, account) in &doomed {
            account.turn(State::Doomed);
        }
        doomed.len() as u64
    }

    fn ask(&self) {
        let accounts = self.accounts.borrow();
        self.unanswered.set(accounts.len());
        for account in accounts.iter() {
            account.turn(State::Asked);
        }
    }

    fn poll_answered(&self, cx: &Context<'_>) -> Poll<()> {
        if self.unanswered.get() == 0 {
            return Poll::Ready(());
        }
        *self.asking.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn answered(&self) {
        self.unanswered.set(self.unanswered.get().saturating_sub(1));
        if self.unanswered.get() == 0
            && let Some(waker) = self.asking.take()
        {
            waker.wake();
        }
    }
}

impl StreamAccount {
    /// Whether the stream is to end. `held`: the bytes that it holds, which most turns do not need.
    #[inline]
    pub fn is_doomed(&self, cx: &Context<'_>, held: impl FnOnce() -> usize) -> bool {
        self.account.wait(cx);
        match self.account.state.get() {
            State::Open | State::Holds(_) => false,
            State::Asked => {
                self.account.state.set(State::Holds(held() as u64));
                self.all.answered();
                false
            }
            State::Doomed => true,
        }
    }
}

impl Drop for StreamAccount {
    fn drop(&mut self) {
        let index = self.account.index.get();
        let mut accounts = self.all.accounts.borrow_mut();
        accounts.swap_remove(index);
        if let Some(moved) = accounts.get(index) {
            moved.index.set(index);
        }
        drop(accounts);
        if self.account.state.get() == State::Asked {
            self.all.answered();
        }
    }
}

impl Account {
    fn wait(&self, cx: &Context<'_>) {
        match &mut *self.stream.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Changes its state, and lets the stream look.
    fn turn(&self, state: State) {
        self.state.set(state);
        if let Some(waker) = self.stream.take() {
            waker.wake();
        }
    }
}

/// The class of an account. None: too small to matter.
fn class(bytes: u64, power: u32) -> Option<u32> {
    let halves = bytes >> power.saturating_sub(1);
    let highest = halves.checked_ilog2()?;
    Some(highest.min(CLASSES - 1))
}

/// How many classes end, from the highest on. As in Envoy it is one even when the action does not hold any more.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes an integer by saturation"
)]
fn classes_to_reset(strength: f64) -> u32 {
    ((strength * f64::from(CLASSES)) as u32 + 1).min(CLASSES)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stats::Store;

    /// Streams of one worker, each with what it holds; those that end say their number.
    struct Streams {
        resets: StreamResets,
        accounts: Rc<StreamAccounts>,
        stats: StreamResetStats,
        ended: Rc<RefCell<Vec<usize>>>,
        begun: Cell<usize>,
    }

    impl Streams {
        fn new() -> Self {
            let resets = StreamResets::default();
            assert!(resets.accounts().is_none());
            resets.track(11);
            let accounts = resets.accounts().unwrap();
            let stats = StreamResetStats::new(&Store::new(0).scope("r."));
            tokio::task::spawn_local(accounts.clone().run(stats.clone()));
            Self {
                resets,
                accounts,
                stats,
                ended: Rc::default(),
                begun: Cell::new(0),
            }
        }

        fn begin(&self, held: usize) {
            let (account, ended) = (self.accounts.open(), self.ended.clone());
            let number = self.begun.replace(self.begun.get() + 1);
            tokio::task::spawn_local(async move {
                poll_fn(|cx| match account.is_doomed(cx, || held) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                })
                .await;
                ended.borrow_mut().push(number);
            });
        }

        /// The streams that end when the action holds this strongly.
        async fn at(&self, strength: f64) -> Vec<usize> {
            self.resets.changed(strength);
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.ended.take()
        }
    }

    async fn locally(test: impl AsyncFnOnce()) {
        tokio::task::LocalSet::new().run_until(test()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_stronger_the_action_the_smaller_the_streams_that_end() {
        locally(async || {
            let streams = Streams::new();
            for power in 9..20 {
                streams.begin(1 << power);
            }
            // The highest class begins at 128 times 1024 bytes, and has three streams in it.
            assert_eq!(streams.at(0.1).await, [10, 9, 8]);
            assert_eq!(streams.at(0.25).await, [7, 6]);
            assert!(streams.at(0.2).await.is_empty());
            assert_eq!(streams.at(1.0).await, [5, 4, 3, 2, 1]);
            assert!(streams.at(0.5).await.is_empty());
            assert_eq!(streams.stats.count().value(), 10);
            assert_eq!(streams.accounts.accounts.borrow().len(), 1);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_fifty_streams_end_at_once() {
        locally(async || {
            let streams = Streams::new();
            for size in 0..60 {
                streams.begin(100_000 + size);
            }
            let ended = streams.at(1.0).await;
            assert_eq!(ended, (10..60).rev().collect::<Vec<_>>());
            assert_eq!(streams.at(0.9).await.len(), 10);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ends_by_itself_is_not_waited_for() {
        locally(async || {
            let streams = Streams::new();
            let never_polled = streams.accounts.open();
            streams.begin(1 << 20);
            assert!(streams.at(1.0).await.is_empty());
            drop(never_polled);
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(streams.ended.take(), [0]);
        })
        .await;
    }
}
