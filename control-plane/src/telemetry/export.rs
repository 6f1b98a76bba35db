//! The way of a span to the collector.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor};
use tokio::sync::{mpsc, oneshot};

use super::{Collector, TelemetryError};
use crate::spawn;

/// Spans that may wait; more are dropped.
const QUEUE: usize = 4096;
/// Most spans in one call.
const BATCH: usize = 512;
/// How long a span waits for others to go with it.
const GATHER: Duration = Duration::from_millis(200);
/// Time for one call.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// Time for what is left at the end.
const END: Duration = Duration::from_secs(2);

/// What became of spans, since the start.
#[derive(Debug, Default)]
pub struct SpanCounts {
    /// The collector has taken them.
    pub exported: AtomicU64,
    /// There was no room in the queue.
    pub dropped: AtomicU64,
    /// The collector was away, too slow, or has refused them.
    pub failed: AtomicU64,
}

/// The task that sends, and the way to it.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) provider: SdkTracerProvider,
    pub(super) counts: Arc<SpanCounts>,
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Export {
    pub(super) fn start(collector: &Collector) -> Result<Self, TelemetryError> {
        let mut exporter = collector.exporter()?;
        exporter.set_resource(&collector.resource());
        let (queue, spans) = Queue::new(QUEUE);
        let counts = Arc::clone(&queue.counts);
        let (end, is_over) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let task = Task {
            exporter,
            spans,
            counts: Arc::clone(&counts),
            has_failed: false,
        };
        spawn(async move {
            task.run(is_over).await;
            // Nobody may wait for it.
            let _ = done.send(());
        });
        Ok(Self {
            provider: collector.provider(queue),
            counts,
            end,
            ended,
        })
    }

    pub(super) async fn end(self) {
        let _ = self.end.send(());
        let _ = tokio::time::timeout(END, self.ended).await;
    }
}

/// Takes spans that have ended.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    counts: Arc<SpanCounts>,
}

impl Queue {
    fn new(room: usize) -> (Self, mpsc::Receiver<SpanData>) {
        let (spans, receiver) = mpsc::channel(room);
        let counts = Arc::default();
        (Self { spans, counts }, receiver)
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.spans.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Nothing: the task sends by itself.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    /// Nothing: [`Export::end`] does it.
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

struct Task<E> {
    exporter: E,
    spans: mpsc::Receiver<SpanData>,
    counts: Arc<SpanCounts>,
    has_failed: bool,
}

impl<E: SpanExporter> Task<E> {
    /// Sends until all senders are gone, or `end` comes and nothing is left.
    async fn run(mut self, mut end: oneshot::Receiver<()>) {
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                count = self.spans.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                }
                _ = &mut end => break,
            }
            let is_full = batch.len() == BATCH;
            let is_over = !is_full && tokio::time::timeout(GATHER, &mut end).await.is_ok();
            self.fill(&mut batch);
            self.send(batch).await;
            if is_over {
                break;
            }
        }
        self.spans.close();
        loop {
            let mut batch = Vec::new();
            self.fill(&mut batch);
            if batch.is_empty() {
                return;
            }
            self.send(batch).await;
        }
    }

    fn fill(&mut self, batch: &mut Vec<SpanData>) {
        while batch.len() < BATCH
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let sent = tokio::time::timeout(TIMEOUT, self.exporter.export(batch)).await;
        let error = match sent {
            Ok(Ok(())) => {
                self.counts.exported.fetch_add(count, Ordering::Relaxed);
                if std::mem::take(&mut self.has_failed) {
                    tracing::info!("The collector of spans is there again.");
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        self.counts.failed.fetch_add(count, Ordering::Relaxed);
        // Once, not for each batch.
        if !std::mem::replace(&mut self.has_failed, true) {
            tracing::warn!(error, "Spans cannot be sent to their collector.");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    /// Takes spans, or fails while it is away.
    #[derive(Clone, Debug, Default)]
    struct Fake(Arc<AtomicBool>);

    impl SpanExporter for Fake {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            match self.0.load(Ordering::Relaxed) {
                true => Err(OTelSdkError::InternalFailure("away".to_owned())),
                false => Ok(()),
            }
        }
    }

    fn figures(counts: &SpanCounts) -> [u64; 3] {
        [&counts.exported, &counts.failed, &counts.dropped].map(|it| it.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
        let (queue, spans) = Queue::new(3);
        let counts = Arc::clone(&queue.counts);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .build();
        let tracer = provider.tracer("test");
        let make = |count: usize| (0..count).for_each(|_| drop(tracer.start("span")));
        make(5);
        assert_eq!(figures(&counts), [0, 0, 2], "nobody takes them");
        let fake = Fake::default();
        fake.0.store(true, Ordering::Relaxed);
        let (end, is_over) = oneshot::channel();
        let task = Task {
            exporter: fake.clone(),
            spans,
            counts: Arc::clone(&counts),
            has_failed: false,
        };
        let (done, ended) = oneshot::channel();
        spawn(async move {
            task.run(is_over).await;
            let _ = done.send(());
        });
        tokio::time::sleep(GATHER * 2).await;
        assert_eq!(figures(&counts), [0, 3, 2]);
        fake.0.store(false, Ordering::Relaxed);
        make(2);
        tokio::time::sleep(GATHER * 2).await;
        assert_eq!(figures(&counts), [2, 3, 2]);
        make(1);
        end.send(()).unwrap();
        ended.await.unwrap();
        assert_eq!(figures(&counts), [3, 3, 2], "what is left goes at the end");
    }
}
