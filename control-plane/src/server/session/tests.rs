//! A session with clients of both variants.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Answer, PATIENCE, Push, Request, Session, Variant};
use crate::cache::{Resource, ResourceType, Snapshot};

fn snapshot(resources: &[(ResourceType, &str, &str)]) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::default();
    for (kind, name, content) in resources {
        let resource = Resource::new(*kind, name, content.as_bytes().to_vec());
        snapshot.insert(*kind, Arc::new(resource));
    }
    Arc::new(snapshot)
}

fn subscribe(names: &[&str]) -> Request {
    Request {
        subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Request::default()
    }
}

fn names(push: &Push) -> Vec<&str> {
    push.resources
        .iter()
        .map(|resource| &*resource.name)
        .collect()
}

/// A client that takes everything as Envoy does: it asks for the endpoints of each cluster and the routes of each
/// listener that it is sent, and accepts at once. Gives type, names and removed names of each push.
fn drain(session: &mut Session) -> Vec<(ResourceType, Vec<String>, Vec<String>)> {
    let mut seen = Vec::new();
    while let Some(push) = session.next(Instant::now()) {
        let sent: Vec<_> = names(&push).iter().map(|name| (*name).to_owned()).collect();
        let follow = match push.kind {
            ResourceType::Cluster => Some(ResourceType::Endpoints),
            ResourceType::Listener => Some(ResourceType::Route),
            _ => None,
        };
        if let Some(kind) = follow {
            let known = session.types[kind.index()].names.clone();
            let all = known.iter().map(|name| name.to_string());
            let fresh = sent
                .iter()
                .filter(|name| !known.contains(name.as_str()))
                .cloned();
            let subscribe: Vec<_> = match session.variant {
                Variant::Delta => fresh.collect(),
                Variant::Sotw => all.chain(fresh).collect(),
            };
            let nonce = session.types[kind.index()].last_nonce.clone();
            session.request(
                kind,
                Request {
                    subscribe,
                    nonce,
                    ..Request::default()
                },
            );
        }
        let removed = push.removed.iter().map(|name| name.to_string()).collect();
        seen.push((push.kind, sent, removed));
        let subscribe = match session.variant {
            Variant::Delta => Vec::new(),
            Variant::Sotw => session.types[push.kind.index()]
                .names
                .iter()
                .map(|name| name.to_string())
                .collect(),
        };
        let request = Request {
            subscribe,
            nonce: push.nonce,
            ..Request::default()
        };
        assert_eq!(session.request(push.kind, request), Answer::Accepted);
        assert!(seen.len() < 50);
    }
    seen
}

const MESH: &[(ResourceType, &str, &str)] = &[
    (ResourceType::Cluster, "a", "1"),
    (ResourceType::Endpoints, "a", "1"),
    (ResourceType::Listener, "a", "1"),
    (ResourceType::Route, "a", "1"),
];

fn connected(variant: Variant) -> Session {
    let mut session = Session::new(variant, snapshot(MESH));
    use ResourceType::{Cluster, Endpoints, Listener, Route};
    session.request(Cluster, Request::default());
    session.request(Listener, Request::default());
    let order: Vec<_> = drain(&mut session)
        .into_iter()
        .map(|(kind, ..)| kind)
        .collect();
    assert_eq!(order, [Cluster, Endpoints, Listener, Route]);
    session
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_again_that_did_not_change() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut session = connected(variant);
        session.set_snapshot(snapshot(MESH));
        assert_eq!(session.next(Instant::now()), None, "{variant:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_changed_resource_is_sent() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut session = connected(variant);
        let mut changed = MESH.to_vec();
        changed[1].2 = "2";
        session.set_snapshot(snapshot(&changed));
        let seen = drain(&mut session);
        assert_eq!(
            seen,
            [(ResourceType::Endpoints, vec!["a".to_owned()], vec![])],
            "{variant:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_follow_a_cluster_that_changed() {
    let mut session = connected(Variant::Delta);
    let mut changed = MESH.to_vec();
    changed[0].2 = "2";
    session.set_snapshot(snapshot(&changed));
    let order: Vec<_> = drain(&mut session)
        .into_iter()
        .map(|(kind, ..)| kind)
        .collect();
    assert_eq!(order, [ResourceType::Cluster, ResourceType::Endpoints]);
}

#[tokio::test(start_paused = true)]
async fn the_new_is_made_before_the_old_is_broken() {
    use ResourceType::{Cluster, Endpoints, Route};
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut session = connected(variant);
        session.set_snapshot(snapshot(&[
            (Cluster, "b", "1"),
            (Endpoints, "b", "1"),
            (ResourceType::Listener, "a", "1"),
            (Route, "a", "to b"),
        ]));
        let seen = drain(&mut session);
        let order: Vec<_> = seen.iter().map(|(kind, ..)| *kind).collect();
        let both = vec!["b".to_owned(), "a".to_owned()];
        if variant == Variant::Delta {
            assert_eq!(order, [Cluster, Endpoints, Route, Cluster, Endpoints]);
            assert_eq!(seen[3].2, ["a"], "the old cluster goes last");
        } else {
            assert_eq!(order, [Cluster, Endpoints, Route, Cluster]);
            assert_eq!(seen[0].1, both, "the old cluster stays");
            assert_eq!(seen[3].1, ["b"], "and goes last");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_again_is_sent_what_changed_only() {
    let old = snapshot(MESH);
    let mut changed = MESH.to_vec();
    changed.push((ResourceType::Cluster, "b", "1"));
    let mut session = Session::new(Variant::Delta, snapshot(&changed));
    let version = |kind: ResourceType| old.of(kind)["a"].version.to_string();
    session.request(
        ResourceType::Cluster,
        Request {
            initial_versions: [("a".to_owned(), version(ResourceType::Cluster))].into(),
            ..Request::default()
        },
    );
    session.request(
        ResourceType::Endpoints,
        Request {
            initial_versions: [("a".to_owned(), version(ResourceType::Endpoints))].into(),
            ..subscribe(&["a"])
        },
    );
    let push = session.next(Instant::now()).unwrap();
    assert_eq!(
        (push.kind, names(&push)),
        (ResourceType::Cluster, vec!["b"])
    );
    assert_eq!(session.next(Instant::now()), None);
}

#[tokio::test(start_paused = true)]
async fn a_sotw_client_that_comes_again_with_the_same_version_is_sent_nothing() {
    let mut session = Session::new(Variant::Sotw, snapshot(MESH));
    session.request(ResourceType::Cluster, Request::default());
    let version = session.next(Instant::now()).unwrap().version;
    let mut session = Session::new(Variant::Sotw, snapshot(MESH));
    session.request(
        ResourceType::Cluster,
        Request {
            version,
            ..Request::default()
        },
    );
    assert_eq!(session.next(Instant::now()), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_said_once_to_a_delta_client() {
    let mut session = Session::new(Variant::Delta, snapshot(MESH));
    session.request(ResourceType::Secret, subscribe(&["stolen"]));
    let push = session.next(Instant::now()).unwrap();
    assert_eq!((push.resources.len(), &*push.removed[0]), (0, "stolen"));
    session.request(
        ResourceType::Secret,
        Request {
            nonce: push.nonce,
            ..Request::default()
        },
    );
    assert_eq!(session.next(Instant::now()), None);
}

#[tokio::test(start_paused = true)]
async fn an_empty_world_is_answered() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut session = Session::new(variant, snapshot(&[]));
        session.request(ResourceType::Listener, Request::default());
        let push = session.next(Instant::now()).unwrap();
        assert_eq!(
            (push.kind, push.resources.len()),
            (ResourceType::Listener, 0)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_resource_is_not_sent_again_until_it_changes() {
    let mut session = Session::new(Variant::Delta, snapshot(MESH));
    session.request(ResourceType::Cluster, Request::default());
    let push = session.next(Instant::now()).unwrap();
    let request = Request {
        nonce: push.nonce,
        error: Some("no such field".to_owned()),
        ..Request::default()
    };
    let answer = session.request(ResourceType::Cluster, request);
    assert_eq!(answer, Answer::Refused("no such field".to_owned()));
    let refused = session.progress()[0].refused.clone().unwrap();
    assert_eq!(
        (refused.resources[0].as_str(), refused.reason.as_str()),
        ("a", "no such field")
    );
    assert_eq!(session.next(Instant::now()), None);
    let mut changed = MESH.to_vec();
    changed[0].2 = "2";
    session.set_snapshot(snapshot(&changed));
    assert_eq!(names(&session.next(Instant::now()).unwrap()), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_gets_the_newest_only() {
    let mut session = Session::new(Variant::Delta, snapshot(MESH));
    session.request(ResourceType::Endpoints, subscribe(&["a"]));
    let first = session.next(Instant::now()).unwrap();
    for content in ["2", "3", "4"] {
        session.set_snapshot(snapshot(&[(ResourceType::Endpoints, "a", content)]));
        assert_eq!(session.next(Instant::now()), None, "one is under way");
    }
    session.request(
        ResourceType::Endpoints,
        Request {
            nonce: first.nonce,
            ..Request::default()
        },
    );
    let second = session.next(Instant::now()).unwrap();
    assert_eq!(second.resources[0].body.value, b"4");
}

#[tokio::test(start_paused = true)]
async fn listeners_wait_for_clusters_but_not_for_ever() {
    let mut session = Session::new(Variant::Delta, snapshot(MESH));
    session.request(ResourceType::Cluster, Request::default());
    session.request(ResourceType::Listener, Request::default());
    assert_eq!(
        session.next(Instant::now()).unwrap().kind,
        ResourceType::Cluster
    );
    assert_eq!(session.next(Instant::now()), None);
    tokio::time::advance(PATIENCE).await;
    assert!(session.deadline().is_some());
    assert_eq!(
        session.next(Instant::now()).unwrap().kind,
        ResourceType::Listener
    );
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_not_there_is_answered_once_where_sotw_can_say_it() {
    let mut session = Session::new(Variant::Sotw, snapshot(MESH));
    session.request(ResourceType::Listener, subscribe(&["nobody"]));
    let push = session.next(Instant::now()).unwrap();
    assert!(push.resources.is_empty() && push.removed.is_empty());
    let accepted = Request {
        nonce: push.nonce,
        version: push.version,
        ..subscribe(&["nobody"])
    };
    session.request(ResourceType::Listener, accepted);
    assert_eq!(session.next(Instant::now()), None);
    session.request(ResourceType::Route, subscribe(&["nobody"]));
    assert_eq!(session.next(Instant::now()), None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_an_older_push_is_none() {
    let mut session = Session::new(Variant::Sotw, snapshot(MESH));
    session.request(ResourceType::Cluster, Request::default());
    session.next(Instant::now()).unwrap();
    let stale = Request {
        nonce: "0".to_owned(),
        ..Request::default()
    };
    assert_eq!(session.request(ResourceType::Cluster, stale), Answer::None);
    assert!(session.progress()[0].waiting);
}
