//! What a span is part of.

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Makes a span part of the trace that a request's `traceparent` names, if it does.
pub fn continue_trace(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    let context =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Fields(headers));
    // Nobody may write spans: then there is nothing to continue.
    let _ = span.set_parent(context);
}

/// The span that has caused something that happens later, in another task. It may have ended by then.
#[derive(Clone, Debug, Default)]
pub struct Cause(Option<SpanContext>);

impl Cause {
    /// A span.
    #[must_use]
    pub fn of(span: &Span) -> Self {
        if span.is_disabled() {
            return Self(None);
        }
        let context = span.context();
        let context = context.span().span_context().clone();
        Self(context.is_valid().then_some(context))
    }

    /// The span in which this is called.
    #[must_use]
    pub fn current() -> Self {
        Self::of(&Span::current())
    }

    /// Makes a span part of the cause's trace.
    pub fn lead_to(&self, span: &Span) {
        if let Some(context) = self.0.as_ref().filter(|_| !span.is_disabled()) {
            let parent = Context::new().with_remote_span_context(context.clone());
            let _ = span.set_parent(parent);
        }
    }
}

struct Fields<'a>(&'a HeaderMap);

impl Extractor for Fields<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
