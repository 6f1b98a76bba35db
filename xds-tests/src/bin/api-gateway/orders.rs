//! The service of the example, in two versions: it says who calls. `/flaky` answers 503 every second time, on purpose.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use outrigger_xds_tests::Error;

use crate::server::{Request, serve};

/// Serves until the process ends.
pub(crate) fn start(name: &'static str, address: SocketAddr) -> Result<(), Error> {
    let turn = AtomicU32::new(0);
    serve(address, move |request: &Request| {
        if request.target.starts_with("/flaky")
            && turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
        {
            return (503, format!("{name} fails on purpose\n"));
        }
        let user = request.headers.get("x-user").map(String::as_str);
        let user = user.unwrap_or("somebody");
        let body = match request.headers.contains_key("authorization") {
            // The gateway has read it; nobody else needs it.
            true => format!("{name} got the token of {user}\n"),
            false => format!("{name} for {user}\n"),
        };
        (200, body)
    })?;
    Ok(())
}
