use super::*;

fn pairs(fields: &Fields) -> Vec<(String, String)> {
    let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
    fields.iter().map(|(n, v)| (text(n), text(v))).collect()
}

#[test]
fn lines_are_written_with_every_change_that_was_made_to_them() {
    let head = b"GET / HTTP/1.1\r\nX-A: 1\r\nx-b:2\r\nContent-Length: 3\r\nx-c: 4\r\nx-d: 5\r\nx-e: 6\r\n\r\n";
    let mut fields = Fields::new();
    fields.append("x-first", "0");
    let base = fields.load(head);
    for line in [16..22, 24..29, 31..48, 50..56, 58..64, 66..72] {
        let colon = line.start + head[line.clone()].iter().position(|b| *b == b':').unwrap();
        let value = colon + 1 + usize::from(head[colon + 1] == b' ');
        let name = base + line.start..base + colon;
        fields.append_loaded(name, base + value..base + line.end, |_| false);
    }
    let written = |fields: &Fields| {
        let mut out = Vec::new();
        fields.write_lines(&mut out, |known, _| known == Known::ContentLength);
        String::from_utf8(out).unwrap().replace("\r\n", "|")
    };
    let all = "x-first: 0|x-a: 1|x-b: 2|x-c: 4|x-d: 5|x-e: 6|";
    assert_eq!(written(&fields), all);
    fields.set("x-a", "7");
    fields.append_to("x-e", b",", "8");
    fields.remove("x-d");
    fields.append("x-f", "9");
    assert_eq!(
        written(&fields),
        "x-first: 0|x-a: 7|x-b: 2|x-c: 4|x-e: 6,8|x-f: 9|"
    );
}

#[test]
fn order_of_repeated_and_mixed_names_is_kept() {
    let mut fields = Fields::new();
    for (name, value) in [("A", "1"), ("b", "2"), ("a", "3")] {
        fields.append_wire(name.as_bytes(), value.as_bytes());
    }
    assert_eq!(
        pairs(&fields),
        [("a", "1"), ("b", "2"), ("a", "3")].map(|(n, v)| (n.to_owned(), v.to_owned()))
    );
    assert_eq!(fields.get_all("a").collect::<Vec<_>>(), [b"1", b"3"]);
}

#[test]
fn set_replaces_the_first_and_removes_the_others() {
    let mut fields = Fields::new();
    for value in ["1", "2"] {
        fields.append(Known::Via, value);
        fields.append("x-a", value);
    }
    fields.set(Known::Via, "only");
    fields.set("x-a", "one");
    assert_eq!(fields.len(), 2);
    assert_eq!(fields.get(Known::Via), Some(&b"only"[..]));
    assert_eq!(fields.get("x-a"), Some(&b"one"[..]));
}

#[test]
fn removed_names_are_gone_and_can_come_back() {
    let mut fields = Fields::new();
    fields.append("host", "a");
    fields.append("x-y", "b");
    assert_eq!(fields.remove("host"), 1);
    assert!(!fields.contains(Known::Host));
    fields.append(Known::Host, "c");
    assert_eq!(fields.get("host"), Some(&b"c"[..]));
    fields.retain(|name, _| name != b"host");
    assert!(fields.get("host").is_none());
    assert_eq!(fields.len(), 1);
}

#[test]
fn a_name_after_255_fields_is_still_found() {
    let mut fields = Fields::new();
    for i in 0..300 {
        fields.append(format!("x-{i}").as_str(), "v");
    }
    fields.append(Known::Te, "trailers");
    assert_eq!(fields.get(Known::Te), Some(&b"trailers"[..]));
}

#[test]
fn wire_fields_that_merge_are_joined_whether_they_were_loaded_or_not() {
    let head = b"Via: x|via: y|Via: |a: 1|A: 2|";
    let places = [
        (0..3, 5..6),
        (7..10, 12..13),
        (14..17, 19..19),
        (20..21, 23..24),
        (25..26, 28..29),
    ];
    let mut loaded = Fields::new();
    let base = loaded.load(head);
    let mut copied = Fields::new();
    let at = |r: &Range<usize>| r.start + base..r.end + base;
    for (name, value) in &places {
        loaded.append_loaded(at(name), at(value), |_| true);
        copied.append_wire_merging(&head[name.clone()], &head[value.clone()], |_| true);
    }
    let want = [("via", "x,y"), ("a", "1"), ("a", "2")];
    assert_eq!(
        pairs(&loaded),
        want.map(|(n, v)| (n.to_owned(), v.to_owned()))
    );
    assert_eq!(pairs(&copied), pairs(&loaded));
    let mut apart = Fields::new();
    for value in ["1", "2"] {
        apart.append_wire_merging(b"Via", value.as_bytes(), |_| false);
    }
    assert_eq!(apart.get_all("via").count(), 2);
}

#[test]
fn append_to_joins_with_the_separator() {
    let mut fields = Fields::new();
    fields.append_to(Known::ForwardedFor, b",", "10.0.0.1");
    fields.append_to(Known::ForwardedFor, b",", "10.0.0.2");
    assert_eq!(
        fields.get(Known::ForwardedFor),
        Some(&b"10.0.0.1,10.0.0.2"[..])
    );
}

#[test]
fn what_no_message_may_carry_is_found_in_what_was_added() {
    let mut fields = Fields::new();
    fields.append("x-a", b"tab\tand \xff are fine");
    assert_eq!(fields.first_illegal(), None);
    fields.append("x-b", "a\r\nx-c: d");
    let found = Some((&b"x-b"[..], IllegalField::Value));
    assert_eq!(fields.first_illegal(), found);
    fields.set("x-b", "a");
    assert_eq!(fields.first_illegal(), None);
    for name in [&b"a b"[..], b"", b":path"] {
        fields.append_wire(name, b"c");
        assert_eq!(fields.first_illegal(), Some((name, IllegalField::Name)));
        fields.retain(|known, _| known != name);
    }
    assert_eq!(fields.first_illegal(), None);
}
