//! Names of clients: which ones a matcher takes, which digests, and what is said of them in `x-forwarded-client-cert`.

use std::process::Command;

use crate::feature::{Feature, GOOD, ca, compare, pair};
use crate::peers::HCM;
use crate::pki::Pki;

const WRONG: &str = "SAN_matcher,_certificate_SANs_are_[*.star.example,_a*.part.example,_Host.Example,_Some.Body@mail.example,_127.0.0.9,_2001:db8::1,_spiffe://td/ns/n/sa/names,_user@realm]";

/// A listener for clients with such a name.
fn name(title: &'static str, pki: &Pki, matcher: &str, shows: &'static str) -> Feature {
    let matcher = format!(", match_typed_subject_alt_names: [ {{ {matcher} }} ]");
    Feature::new(title, pki)
        .validates(&ca(pki, &matcher))
        .talk("names", shows)
}

fn names(pki: &Pki) -> Vec<Feature> {
    let dns = |title, text: &str, shows| {
        name(
            title,
            pki,
            &format!("san_type: DNS, matcher: {{ {text} }}"),
            shows,
        )
    };
    let other = |title, oid: &str, text: &str, shows| {
        let matcher = format!("san_type: OTHER_NAME, oid: \"{oid}\", matcher: {{ {text} }}");
        name(title, pki, &matcher, shows)
    };
    let of =
        |kind: &'static str| move |text: &str| format!("san_type: {kind}, matcher: {{ {text} }}");
    let (email, ip, uri) = (of("EMAIL"), of("IP_ADDRESS"), of("URI"));
    vec![
        dns("dns_exact_ignores_case", "exact: hOST.example", GOOD),
        dns("dns_star", "exact: x.star.example", GOOD),
        dns("dns_star_of_two_labels", "exact: y.x.star.example", WRONG),
        dns("dns_star_of_no_label", "exact: star.example", WRONG),
        dns("dns_star_itself", "exact: \"*.star.example\"", GOOD),
        dns("dns_star_in_label", "exact: abc.part.example", GOOD),
        dns("dns_star_in_another_label", "exact: bca.part.example", WRONG),
        dns("dns_prefix", "prefix: Host", GOOD),
        dns("dns_prefix_of_other_case", "prefix: host", WRONG),
        dns("dns_prefix_without_case", "prefix: host, ignore_case: true", GOOD),
        dns("dns_suffix", "suffix: .star.example", GOOD),
        dns("dns_prefix_knows_no_star", "prefix: x.star", WRONG),
        dns("dns_contains", "contains: ost.Ex", GOOD),
        dns("dns_regex", "safe_regex: { regex: \"H[a-z]+[.]Example\" }", GOOD),
        dns("dns_regex_of_a_part", "safe_regex: { regex: \"H[a-z]+\" }", WRONG),
        name("email", pki, &email("exact: Some.Body@mail.example"), GOOD),
        name("email_of_other_case", pki, &email("exact: some.body@mail.example"), WRONG),
        name("email_of_domain", pki, &email("suffix: \"@mail.example\""), GOOD),
        name("email_is_no_dns", pki, &email("exact: Host.Example"), WRONG),
        name("ip_v4", pki, &ip("exact: 127.0.0.9"), GOOD),
        name("ip_v6", pki, &ip("exact: \"2001:db8::1\""), GOOD),
        name("ip_v6_in_other_words", pki, &ip("exact: \"2001:db8:0::1\""), WRONG),
        name("ip_prefix", pki, &ip("prefix: 127."), GOOD),
        name("uri", pki, &uri("exact: spiffe://td/ns/n/sa/names"), GOOD),
        name("uri_regex", pki, &uri("safe_regex: { regex: \"spiffe://td/ns/[^/]+/sa/names\" }"), GOOD),
        name("uri_of_another", pki, &uri("exact: spiffe://td/ns/n/sa/other"), WRONG),
        other("other_name", "1.3.6.1.4.1.311.20.2.3", "exact: user@realm", GOOD),
        other("other_name_of_another_kind", "1.3.6.1.4.1.311.20.2.4", "exact: user@realm", WRONG),
        Feature::new("one_of_several", pki)
            .validates(&ca(pki, ", match_typed_subject_alt_names: [ { san_type: DNS, matcher: { exact: nobody.example } }, { san_type: URI, matcher: { prefix: \"spiffe://td/\" } } ]"))
            .talk("names", GOOD)
            .talk("wrong_san", "SAN_matcher,_certificate_SANs_are_[other.example]"),
        Feature::new("names_of_any_kind", pki)
            .validates(&ca(pki, ", match_subject_alt_names: [ { exact: 127.0.0.9 } ]"))
            .talk("names", GOOD)
            .talk("client", "SAN_matcher"),
    ]
}

/// What OpenSSL and its kin say of a certificate.
fn said(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).output();
    let output = output.expect("the shell runs");
    assert!(output.status.success(), "{script}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn pins(pki: &Pki) -> Vec<Feature> {
    let certificate = pki.crt("client");
    let print = said(&format!(
        "openssl x509 -in {certificate} -noout -fingerprint -sha256"
    ));
    let colons = print.split('=').nth(1).unwrap().to_owned();
    let digits = colons.replace(':', "").to_lowercase();
    let key = said(&format!(
        "openssl x509 -in {certificate} -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64"
    ));
    let wrong = "NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A=";
    let listener = |title, how: &str| {
        Feature::new(title, pki)
            .validates(how)
            .talk("client", GOOD)
            .talk("no_san", "cert_hash_and_spki")
            .other_alert()
    };
    vec![
        listener(
            "pinned_digest",
            &ca(pki, &format!(", verify_certificate_hash: [ {digits} ]")),
        ),
        listener(
            "pinned_digest_in_colons",
            &ca(pki, &format!(", verify_certificate_hash: [ \"{colons}\" ]")),
        ),
        listener(
            "pinned_key",
            &ca(
                pki,
                &format!(", verify_certificate_spki: [ {wrong}, {key} ]"),
            ),
        ),
        listener(
            "digest_or_key",
            &ca(
                pki,
                &format!(
                    ", verify_certificate_hash: [ {digits} ], verify_certificate_spki: [ {wrong} ]"
                ),
            ),
        ),
        listener(
            "pinned_without_ca",
            &format!("verify_certificate_spki: [ {key} ]"),
        ),
    ]
}

fn forwarding(pki: &Pki) -> Vec<Feature> {
    const ALL: &str = "subject: true, uri: true, dns: true, cert: true, chain: true, issuer: true";
    let mode = |title, mode: &str, details: &str, shows| {
        let details = format!("set_current_client_cert_details: {{ {details} }}");
        Feature::new(title, pki)
            .common(&format!("validation_context: {{ {} }}", ca(pki, "")))
            .manager(&format!("forward_client_cert_details: {mode}, {details},"))
            .talk("names", shows)
            .talk("client", GOOD)
            .talk("deep", GOOD)
            .talk("", GOOD)
    };
    let set = |title, details, shows| mode(title, "SANITIZE_SET", details, shows);
    vec![
        mode("xfcc_sanitize", "SANITIZE", ALL, "xfcc=-"),
        mode("xfcc_forward_only", "FORWARD_ONLY", ALL, "xfcc=By=before"),
        mode(
            "xfcc_append_forward",
            "APPEND_FORWARD",
            ALL,
            "xfcc=By=before,By=spiffe://td/ns/a/sa/b;Hash=",
        ),
        mode(
            "xfcc_sanitize_set",
            "SANITIZE_SET",
            ALL,
            "xfcc=By=spiffe://td/ns/a/sa/b;Hash=",
        ),
        mode(
            "xfcc_always_forward_only",
            "ALWAYS_FORWARD_ONLY",
            ALL,
            "xfcc=By=before",
        ),
        set(
            "xfcc_nothing_more",
            "",
            "xfcc=By=spiffe://td/ns/a/sa/b;Hash=",
        ),
        set("xfcc_subject", "subject: true", ";Subject=\"CN=names\""),
        set("xfcc_uri", "uri: true", ";URI=spiffe://td/ns/n/sa/names"),
        set(
            "xfcc_dns",
            "dns: true",
            ";DNS=*.star.example;DNS=a*.part.example;DNS=Host.Example",
        ),
        set(
            "xfcc_cert",
            "cert: true",
            ";Cert=\"-----BEGIN%20CERTIFICATE",
        ),
        set(
            "xfcc_chain",
            "chain: true",
            ";Chain=\"-----BEGIN%20CERTIFICATE",
        ),
        set("xfcc_issuer", "issuer: true", ";Issuer=\"CN=Test CA\""),
        Feature::new("xfcc_of_two_uris", pki)
            .certificates(&[pair(pki, "two_uris", "two_uris", "")])
            .common(&format!("validation_context: {{ {} }}", ca(pki, "")))
            .manager("forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: { uri: true },")
            .talk("two_uris", "xfcc=By=spiffe://td/first;By=spiffe://td/second;Hash="),
    ]
}

/// What a client says of other certificates, instead of what it always says here; none: nothing.
fn says(value: Option<&str>) -> String {
    let mutation = match value {
        None => "remove: x-forwarded-client-cert".to_owned(),
        Some(value) => format!(
            "append: {{ header: {{ key: x-forwarded-client-cert, value: '{value}' }}, append_action: OVERWRITE_IF_EXISTS_OR_ADD }}"
        ),
    };
    format!(
        "early_header_mutation_extensions: [ {{ name: early, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation, mutations: [ {{ {mutation} }} ] }} }} ],"
    )
}

fn as_json(pki: &Pki) -> Vec<Feature> {
    const ALL: &str = "subject: true, uri: true, dns: true, cert: true, chain: true, issuer: true";
    let with = |title, server: &str, how: &str, before: &str, shows| {
        Feature::new(title, pki)
            .certificates(&[pair(pki, server, server, "")])
            .common(&format!("validation_context: {{ {} }}", ca(pki, "")))
            .manager(&format!("forward_client_cert_details: {how} }}, {before}"))
            .talk("names", shows)
            .talk("two_uris", GOOD)
            .talk("no_san", GOOD)
            .talk("deep", GOOD)
            .talk("", GOOD)
    };
    let set =
        |details: &str| format!("SANITIZE_SET, set_current_client_cert_details: {{ {details}");
    let append =
        |details: &str| format!("APPEND_FORWARD, set_current_client_cert_details: {{ {details}");
    let json = "format: JSON, subject: true";
    let object = "[{\"hash\":\"a\"}]";
    vec![
        with(
            "json_nothing_more",
            "server",
            &set("format: JSON"),
            "",
            "xfcc=[{\"by\":[\"spiffe://td/ns/a/sa/b\"],\"hash\":\"",
        ),
        with(
            "json_all",
            "two_uris",
            &set(&format!("format: JSON, {ALL}")),
            "",
            "\"chain\":[\"-----BEGIN CERTIFICATE-----\\n",
        ),
        with(
            "json_of_nameless_server",
            "no_san",
            &set("format: JSON, uri: true, dns: true"),
            "",
            "\"uri\":[\"spiffe://td/ns/n/sa/names\"],\"dns\":[\"*.star.example\",",
        ),
        with(
            "json_after_nothing",
            "server",
            &append(json),
            &says(None),
            "xfcc=[{\"by\":[",
        ),
        with(
            "json_after_json",
            "server",
            &append(json),
            &says(Some(object)),
            "xfcc=[{\"hash\":\"a\"},{\"by\":[",
        ),
        with(
            "json_after_text",
            "server",
            &append(json),
            "",
            "xfcc=By=before,By=spiffe://td/ns/a/sa/b;Hash=",
        ),
        with(
            "text_after_json",
            "server",
            &append("subject: true"),
            &says(Some(object)),
            "xfcc=[{\"hash\":\"a\"},{\"by\":[",
        ),
        with(
            "text_after_broken_json",
            "server",
            &append("subject: true"),
            &says(Some("[{\"hash\":")),
            "xfcc=[{\"hash\":,By=spiffe:",
        ),
    ]
}

fn chosen(pki: &Pki) -> Vec<Feature> {
    let action = |config: &str| {
        format!(
            "{{ action: {{ name: a, typed_config: {{ \"@type\": {HCM}.ForwardClientCertConfig, {config} }} }} }}"
        )
    };
    let set = action(
        "forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: { subject: true, format: JSON }",
    );
    let keep = action("forward_client_cert_details: FORWARD_ONLY");
    let trusted = format!(
        "matcher_list: {{ matchers: [ {{ predicate: {{ single_predicate: {{ input: {{ name: i, typed_config: {{ \"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-forwarded-client-cert }} }}, value_match: {{ prefix: \"By=be\" }} }} }}, on_match: {keep} }} ] }}, on_no_match: {set}"
    );
    let subject = format!(
        "matcher_tree: {{ input: {{ name: i, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.matching.common_inputs.ssl.v3.SubjectInput }} }}, exact_match_map: {{ map: {{ \"CN=no_san\": {keep} }} }} }}"
    );
    let with = |title, matcher: &str, before: &str| {
        Feature::new(title, pki)
            .common(&format!("validation_context: {{ {} }}", ca(pki, "")))
            .manager(&format!(
                "forward_client_cert_details: SANITIZE_SET, forward_client_cert_matcher: {{ {matcher} }}, {before}"
            ))
    };
    vec![
        with("chosen_by_header", &trusted, "")
            .talk("names", "xfcc=By=before")
            .talk("", "xfcc=-"),
        with("chosen_by_no_header", &trusted, &says(None))
            .talk("names", "\"subject\":\"CN=names\"}]")
            .talk("", "xfcc=-"),
        with("chosen_by_certificate", &subject, "")
            .talk("no_san", "xfcc=By=before")
            .talk("names", "xfcc=By=spiffe://td/ns/a/sa/b;Hash="),
    ]
}

#[tokio::test]
async fn clients_are_known_by_their_names_as_with_envoy() {
    compare("tls_names", |pki| {
        [names(pki), pins(pki)].into_iter().flatten().collect()
    })
    .await;
}

#[tokio::test]
async fn certificates_are_forwarded_as_by_envoy() {
    compare("tls_forwarding", forwarding).await;
}

#[tokio::test]
async fn certificates_are_forwarded_as_json_and_by_choice_as_by_envoy() {
    compare("tls_forwarding_json", |pki| {
        [as_json(pki), chosen(pki)].into_iter().flatten().collect()
    })
    .await;
}
