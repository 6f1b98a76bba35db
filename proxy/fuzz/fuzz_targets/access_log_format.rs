//! The text of an access-log format: parsed, and rendered where it parses.
#![no_main]

use std::rc::Rc;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use outrigger::formatter::{FormatData, Formatter};
use outrigger::http::{Fields, RequestHead, ResponseHead};
use outrigger::http::Protocol;
use outrigger::stream_info::StreamInfo;
use outrigger_fuzz::connection;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime starts")
});

fuzz_target!(|text: &str| {
    let Ok(formatter) = Formatter::try_parse(text) else {
        return;
    };
    let _guard = RUNTIME.enter();
    let mut request = RequestHead::new(Protocol::Http11, b"GET");
    request.set_path(b"/p/a?x=1&y=a%20b&z");
    request.set_authority(b"Foo.com:80");
    request.fields.append("x-a", b"va\xff\"l");
    let response = ResponseHead::new(200);
    let trailers = Fields::new();
    let mut info = StreamInfo::new(Rc::new(connection()), 7, Some(Protocol::Http11));
    info.response_code = Some(200);
    let data = FormatData {
        info: &info,
        request: Some(&request),
        response: Some(&response),
        request_trailers: Some(&trailers),
        response_trailers: None,
        local_reply_body: b"body",
        log_type: "DownstreamEnd",
    };
    formatter.render(&data, &mut Vec::new());
});
