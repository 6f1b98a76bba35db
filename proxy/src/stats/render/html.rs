//! `/stats?format=html`: the text page, with a form to choose what it shows.

use super::{Format, Request, Store, text};

/// Makes a text safe to stand in HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn render(store: &Store, request: &Request) -> String {
    let request = Request {
        format: Format::Text,
        ..request.clone()
    };
    escape(&text::render(store, &request))
}
