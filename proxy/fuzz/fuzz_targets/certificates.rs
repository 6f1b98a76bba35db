//! A chain of certificates, each with its length before it: taken apart, matched by names, and judged. A certificate has each of
//! its own names, and never one that nobody has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::transport_sockets::tls::fuzzing::{has_name, judge};
use outrigger::x509::{Certificate, SubjectAltName};
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as matcher;
use core::data_source::Specifier;
use matcher::string_matcher::MatchPattern;
use pb::subject_alt_name_matcher::SanType;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let mut chain = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (der, after) = after.split_at(length);
        chain.push(der);
        rest = after;
        if chain.len() == 4 {
            break;
        }
    }
    let Some(leaf) = chain.first().and_then(|der| Certificate::from_der(der).ok()) else {
        return;
    };
    names(&leaf);
    // The last one is what is trusted.
    let Some((trusted, chain)) = chain.split_last() else {
        return;
    };
    let Ok(trusted) = Certificate::from_der(trusted) else {
        return;
    };
    let context = |names: Vec<pb::SubjectAltNameMatcher>| pb::CertificateValidationContext {
        trusted_ca: Some(core::DataSource {
            watched_directory: None,
            specifier: Some(Specifier::InlineString(trusted.pem())),
        }),
        match_typed_subject_alt_names: names,
        ..Default::default()
    };
    let judged = judge(context(Vec::new()), chain, None).expect("a certificate can be trusted");
    let nobody = name(SanType::Dns, MatchPattern::Exact("nobody.invalid".into()), "");
    let named = judge(context(vec![nobody]), chain, None).expect("so can a name");
    assert!(named.is_some(), "nobody has this name");
    assert!(judged.is_none() || judged == named, "{judged:?} comes before {named:?}");
    let _ = judge(context(Vec::new()), chain, Some("server.example"));
});

fn name(san_type: SanType, pattern: MatchPattern, oid: &str) -> pb::SubjectAltNameMatcher {
    pb::SubjectAltNameMatcher {
        san_type: san_type.into(),
        matcher: Some(matcher::StringMatcher {
            ignore_case: false,
            match_pattern: Some(pattern),
        }),
        oid: oid.into(),
    }
}

fn names(certificate: &Certificate) {
    for own in &certificate.subject_alt_names {
        let (kind, oid) = match own {
            SubjectAltName::Dns(_) => (SanType::Dns, ""),
            SubjectAltName::Uri(_) => (SanType::Uri, ""),
            SubjectAltName::Email(_) => (SanType::Email, ""),
            SubjectAltName::Ip(_) => (SanType::IpAddress, ""),
            SubjectAltName::OtherName { oid, .. } => (SanType::OtherName, &**oid),
        };
        let text = own.to_text();
        // Matchers of nothing are refused, and so is an otherName without a kind.
        if text.is_empty() || (kind == SanType::OtherName && oid.is_empty()) {
            continue;
        }
        for pattern in [
            MatchPattern::Exact(text.clone()),
            MatchPattern::Prefix(text.clone()),
            MatchPattern::Suffix(text.clone()),
            MatchPattern::Contains(text.clone()),
        ] {
            let matched = has_name(certificate, name(kind, pattern, oid));
            assert_ne!(matched, Some(false), "it has {text:?}");
        }
        let longer = MatchPattern::Prefix(format!("{text}\u{1}nobody"));
        let others = certificate.subject_alt_names.iter().any(|name| name.to_text().contains('\u{1}'));
        assert!(others || has_name(certificate, name(kind, longer, oid)) != Some(true));
    }
}
