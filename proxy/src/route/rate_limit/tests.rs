use super::super::tests::{head, info, server};
use super::*;
use crate::matchers::HeaderKey;

fn rule(actions: Vec<Action>) -> RateLimit {
    RateLimit {
        stage: 0,
        apply_on_stream_done: false,
        enabled: None,
        x_ratelimit: None,
        actions: actions.into(),
        limit: None,
        hits_addend: None,
    }
}

fn header(skip_if_absent: bool) -> Action {
    Action::Header {
        header: HeaderKey::new("x-user"),
        key: "user".into(),
        skip_if_absent,
    }
}

fn generic() -> Action {
    Action::Generic {
        key: "generic_key".into(),
        value: "v".into(),
    }
}

fn entries(rule: &RateLimit, head: &RequestHead) -> Option<Vec<(String, String)>> {
    let (info, server) = (info(), server());
    let descriptor = rule.descriptor(head, &info, &server)?;
    let text = |text: &Cow<'_, str>| text.to_string();
    let entries = descriptor.entries.iter();
    Some(entries.map(|(k, v)| (text(k), text(v))).collect())
}

#[test]
fn the_entries_of_a_descriptor_stand_in_the_order_of_its_actions() {
    let mut head = head("GET", "a", "/?q=1");
    head.fields.append("x-user", "eve");
    let rule = rule(vec![
        generic(),
        header(false),
        Action::RemoteAddress,
        Action::MaskedRemoteAddress { v4: 8, v6: 64 },
        Action::Query {
            name: "q".into(),
            key: "query".into(),
            skip_if_absent: false,
        },
    ]);
    let expected = [
        ("generic_key", "v"),
        ("user", "eve"),
        ("remote_address", "10.1.2.3"),
        ("masked_remote_address", "10.0.0.0/8"),
        ("query", "1"),
    ];
    assert_eq!(
        entries(&rule, &head).unwrap(),
        expected.map(|(k, v)| (k.to_owned(), v.to_owned()))
    );
}

#[test]
fn a_missing_header_ends_the_descriptor_unless_it_may_be_skipped() {
    let head = head("GET", "a", "/");
    assert_eq!(entries(&rule(vec![generic(), header(false)]), &head), None);
    let skipping = rule(vec![generic(), header(true)]);
    assert_eq!(entries(&skipping, &head).unwrap().len(), 1);
    assert_eq!(entries(&rule(vec![header(true)]), &head), None);
}
