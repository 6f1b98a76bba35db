//! What changes something.

use std::cell::{Cell, RefCell};

use outrigger_proto::pb::envoy::admin::v3::server_info::State;

use super::super::*;
use super::{Fake, admin_with, get, post};

#[tokio::test]
async fn what_changes_something_is_refused_without_post() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    let refused = (405, "Method GET not allowed, POST required.".to_owned());
    for handler in paths::HANDLERS.iter().filter(|handler| handler.post) {
        assert_eq!(get(&admin, handler.path), refused, "{}", handler.path);
    }
    assert!(fake.calls.borrow().is_empty());
}

#[tokio::test]
async fn ready_follows_the_state_and_the_health_checks() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    assert_eq!(get(&admin, "/ready"), (200, "LIVE\n".into()));
    assert_eq!(post(&admin, "/healthcheck/fail"), (200, "OK\n".into()));
    assert_eq!(get(&admin, "/ready"), (503, "DRAINING\n".into()));
    post(&admin, "/healthcheck/ok");
    fake.state.set(State::PreInitializing);
    assert_eq!(get(&admin, "/ready"), (503, "PRE_INITIALIZING\n".into()));
}

#[tokio::test]
async fn draining_passes_its_parameters_on() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    post(&admin, "/drain_listeners?inboundonly&graceful");
    post(&admin, "/drain_listeners?skip_exit=1");
    let drain = |inbound_only, graceful, skip_exit| {
        format!(
            "{:?}",
            DrainListeners {
                inbound_only,
                graceful,
                skip_exit
            }
        )
    };
    assert_eq!(
        *fake.calls.borrow(),
        [drain(true, true, false), drain(false, false, true)]
    );
}

#[tokio::test]
async fn levels_are_changed_for_all_some_or_one() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    let list = (200, "active loggers:\n  admin: info\n".to_owned());
    for target in [
        "/logging",
        "/logging?level=debug",
        "/logging?paths=admin:trace",
        "/logging?admin=off&level=",
    ] {
        assert_eq!(post(&admin, target), list, "{target}");
    }
    let one = |level: &str| LogLevels::Some(vec![("admin".into(), level.into())]);
    assert_eq!(
        *fake.calls.borrow(),
        [LogLevels::All("debug".into()), one("trace"), one("off")].map(|c| format!("{c:?}"))
    );
    for (target, error) in [
        ("/logging?level=loud", "unknown logger level"),
        ("/logging?nope=debug", "unknown logger name"),
        (
            "/logging?paths=admin",
            "empty logger name or empty logger level",
        ),
        ("/logging?a=b&c=d", "invalid number of parameters"),
    ] {
        let (status, body) = post(&admin, target);
        assert_eq!(status, 400);
        assert!(
            body.starts_with(&format!("error: {error}\n\nusage: ")),
            "{body}"
        );
        assert!(body.ends_with(&list.1));
    }
}

#[tokio::test]
async fn runtime_values_can_be_overridden_and_freed() {
    let (admin, fake) = admin_with(&AdminConfig::default());
    let values = [("a.b".to_owned(), "1".to_owned())];
    fake.server.runtime.set_layer("s", values.into());
    fake.server.runtime.set_layer("admin", Default::default());
    assert_eq!(post(&admin, "/runtime_modify").0, 400);
    assert_eq!(post(&admin, "/runtime_modify?a.b=2&c=x").0, 200);
    let (_, shown) = get(&admin, "/runtime");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        shown,
        serde_json::json!({"layers": ["s", "admin"], "entries": {
            "a.b": {"final_value": "2", "layer_values": ["1", "2"]},
            "c": {"final_value": "x", "layer_values": ["", "x"]},
        }})
    );
    post(&admin, "/runtime_modify?a.b=");
    assert_eq!(fake.server.runtime.get("a.b"), Some("1".into()));
}

#[tokio::test]
async fn runtime_cannot_be_modified_without_an_admin_layer() {
    let (_, fake) = admin_with(&AdminConfig::default());
    let fake = Fake {
        admin_layer: None,
        server: fake.server.clone(),
        started: fake.started,
        state: Cell::new(State::Live),
        calls: RefCell::default(),
    };
    let admin = Admin::new(Rc::new(fake), &AdminConfig::default());
    assert_eq!(
        post(&admin, "/runtime_modify?a=1"),
        (503, "No admin layer specified\n".into())
    );
}
