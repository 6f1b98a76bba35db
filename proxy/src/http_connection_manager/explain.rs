//! What the connection manager would do with a request: its checks, rewrites and route look-up, without a stream.

use std::rc::Rc;
use std::sync::Arc;

use super::config::HcmConfig;
use super::manager::Hcm;
use crate::explain::{HttpVerdict, Limits};
use crate::http::{Protocol, RequestHead};
use crate::http_filters::router;
use crate::route::{SelectedRoute, Selection};
use crate::server::Worker;
use crate::stream_info::{ConnectionInfo, StreamInfo};

/// Takes a head through everything that happens to a request before its filters run.
pub(super) fn judge(
    config: Arc<HcmConfig>,
    worker: &Rc<Worker>,
    connection: &Rc<ConnectionInfo>,
    mut head: RequestHead,
) -> HttpVerdict {
    let hcm = Hcm::new(config, worker);
    let by_head = hcm.routing_by_head(&head);
    let routing = by_head.unwrap_or_else(|| hcm.routing());
    let table = routing.table.clone();
    let mut info = StreamInfo::new(connection.clone(), 0, Some(Protocol::Http11));
    let mut refused = None;
    let mut lookup = None;
    let mut upgrade = false;
    match hcm.admit(&mut head, &mut info, &routing) {
        Ok(asked) => {
            // With 0, whatever chance may choose is chosen.
            let found = table.explain(&head, &info, 0);
            if let Selection::Route(index) = found.selection {
                let table = table.clone();
                info.route = Some(SelectedRoute { table, index });
            }
            lookup = Some(found);
            match hcm.take_upgrade(asked, &head, &info) {
                Ok(taken) => upgrade = taken,
                Err(rejection) => refused = Some(rejection.reply),
            }
        }
        Err(rejection) => refused = Some(rejection.reply),
    }
    let selected = info.route.clone();
    let action = selected.as_ref().and_then(|s| s.route().forward());
    let limits = action.map(|action| {
        let [timeout, per_try_timeout, per_try_idle_timeout] =
            router::limits(action, &mut head.clone(), &hcm.router.config);
        Limits {
            timeout,
            per_try_timeout,
            per_try_idle_timeout,
        }
    });
    HttpVerdict {
        filters: hcm
            .chain_for(&routing, upgrade, &head)
            .verdicts(selected.as_ref()),
        refused: refused.map(|reply| (reply.status, reply.details.to_string())),
        head,
        info,
        table: Arc::clone(&table),
        lookup,
        selected,
        limits,
    }
}
