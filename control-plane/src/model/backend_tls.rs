//! What has to hold of a `BackendTLSPolicy` beside the types of its fields.

use gateway_api::apis::standard::backendtlspolicies::{
    BackendTlsPolicySpec, BackendTlsPolicyTargetRefs,
    BackendTlsPolicyValidationSubjectAltNamesType as SanType,
};

use super::check::{Report, check_hostname};

pub(super) fn check(spec: &BackendTlsPolicySpec, report: &mut Report<'_>) {
    if spec.target_refs.is_empty() {
        report("spec.targetRefs".to_owned(), "is empty".to_owned());
    }
    for (index, target) in spec.target_refs.iter().enumerate() {
        let is_same = |other: &BackendTlsPolicyTargetRefs| {
            (&other.group, &other.kind, &other.name) == (&target.group, &target.kind, &target.name)
                && (other.section_name == target.section_name
                    || other.section_name.is_none()
                    || target.section_name.is_none())
        };
        if spec.target_refs.iter().take(index).any(is_same) {
            report(
                format!("spec.targetRefs[{index}]"),
                "another entry is for the same target".to_owned(),
            );
        }
    }
    let validation = &spec.validation;
    let has_refs = validation
        .ca_certificate_refs
        .as_ref()
        .is_some_and(|refs| !refs.is_empty());
    let has_known = validation
        .well_known_ca_certificates
        .as_ref()
        .is_some_and(|known| !known.is_empty());
    if has_refs == has_known {
        report(
            "spec.validation".to_owned(),
            "needs either `caCertificateRefs` or `wellKnownCACertificates`".to_owned(),
        );
    }
    let exact = |path: String, hostname: &str, report: &mut Report<'_>| {
        if hostname.starts_with("*.") {
            report(path, format!("{hostname:?} has a wildcard"));
        } else {
            check_hostname(path, hostname, report);
        }
    };
    exact(
        "spec.validation.hostname".to_owned(),
        &validation.hostname,
        report,
    );
    for (index, name) in validation.subject_alt_names.iter().flatten().enumerate() {
        let path = format!("spec.validation.subjectAltNames[{index}]");
        match (&name.r#type, &name.hostname, &name.uri) {
            // A certificate may have the wildcard itself as its name.
            (SanType::Hostname, Some(hostname), None) => {
                check_hostname(format!("{path}.hostname"), hostname, report);
            }
            (SanType::Uri, None, Some(uri)) if uri.contains(':') => {}
            (SanType::Uri, None, Some(uri)) => {
                report(format!("{path}.uri"), format!("{uri:?} has no scheme"));
            }
            (SanType::Hostname, ..) => report(path, "needs `hostname` and no `uri`".to_owned()),
            (SanType::Uri, ..) => report(path, "needs `uri` and no `hostname`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::load_texts;

    #[test]
    fn each_wrong_field_is_named_with_its_line() {
        let text = "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: a}
spec:
  targetRefs:
  - {group: '', kind: Service, name: b}
  - {group: '', kind: Service, name: b, sectionName: x}
  validation:
    hostname: '*.b'
    subjectAltNames:
    - {type: URI, uri: nothing}
    - {type: Hostname, uri: 'spiffe://x'}
";
        let errors = load_texts([("a.yaml", text)]).unwrap_err();
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let expected = [
            "a.yaml:7: BackendTLSPolicy default/a: spec.targetRefs[1]: another entry is for the same target",
            "a.yaml:8: BackendTLSPolicy default/a: spec.validation: needs either `caCertificateRefs` or `wellKnownCACertificates`",
            "a.yaml:9: BackendTLSPolicy default/a: spec.validation.hostname: \"*.b\" has a wildcard",
            "a.yaml:11: BackendTLSPolicy default/a: spec.validation.subjectAltNames[0].uri: \"nothing\" has no scheme",
            "a.yaml:12: BackendTLSPolicy default/a: spec.validation.subjectAltNames[1]: needs `hostname` and no `uri`",
        ];
        assert_eq!(errors, expected);
    }
}
