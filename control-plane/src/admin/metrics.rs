//! What is counted, in Prometheus' text form.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::ResourceType;
use crate::control::Control;

pub(super) fn text(control: &Control) -> String {
    let mut out = String::new();
    let metrics = &control.metrics;
    let by_type = [
        ("pushes", "Responses sent.", &metrics.pushes),
        ("resources", "Resources sent.", &metrics.resources),
        (
            "refusals",
            "Responses refused by proxies.",
            &metrics.refusals,
        ),
    ];
    for (name, help, values) in by_type {
        head(&mut out, name, help, "counter");
        for kind in ResourceType::ALL {
            let value = values[kind.index()].load(Ordering::Relaxed);
            let _ = writeln!(
                out,
                "outrigger_control_plane_{name}_total{{type=\"{}\"}} {value}",
                kind.word()
            );
        }
    }
    let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
    let input = control.input_state();
    let counters = [
        (
            "identity_denied",
            "Streams not let in for their identity.",
            read(&metrics.denied),
        ),
        (
            "secret_denied",
            "Secrets of others asked for.",
            read(&metrics.stolen),
        ),
        (
            "certificates_signed",
            "Certificates signed by request.",
            read(&metrics.signed),
        ),
        ("input_accepted", "Inputs taken over.", input.accepted),
        ("input_refused", "Inputs refused.", input.refused),
    ];
    for (name, help, value) in counters {
        head(&mut out, name, help, "counter");
        let _ = writeln!(out, "outrigger_control_plane_{name}_total {value}");
    }
    let spans = &metrics.spans;
    head(
        &mut out,
        "spans",
        "Spans for the collector, by what became of them.",
        "counter",
    );
    for (result, value) in [
        ("exported", &spans.exported),
        ("failed", &spans.failed),
        ("dropped", &spans.dropped),
    ] {
        let _ = writeln!(
            out,
            "outrigger_control_plane_spans_total{{result=\"{result}\"}} {}",
            read(value)
        );
    }
    let answers = &control.limits.counts;
    head(
        &mut out,
        "rate_limit_answers",
        "Answers of the rate limit service; errors where its counters are away.",
        "counter",
    );
    for (answer, value) in [
        ("ok", &answers.ok),
        ("over_limit", &answers.over_limit),
        ("error", &answers.errors),
    ] {
        let _ = writeln!(
            out,
            "outrigger_control_plane_rate_limit_answers_total{{answer=\"{answer}\"}} {}",
            read(value)
        );
    }
    let proxies = control.proxies().len();
    head(&mut out, "proxies", "Connected proxies.", "gauge");
    let _ = writeln!(out, "outrigger_control_plane_proxies {proxies}");
    head(
        &mut out,
        "input_errors",
        "Errors of the input in the directory.",
        "gauge",
    );
    let _ = writeln!(
        out,
        "outrigger_control_plane_input_errors {}",
        input.errors.len()
    );
    out
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let suffix = if kind == "counter" { "_total" } else { "" };
    let name = format!("outrigger_control_plane_{name}{suffix}");
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
