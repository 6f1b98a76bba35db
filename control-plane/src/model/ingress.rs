//! What has to hold of `Ingress` and `IngressClass` beside the types of their fields.

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressClass};

use super::check::{Report, check_hostname, check_port};

pub(super) fn check(ingress: &Ingress, report: &mut Report<'_>) {
    let Some(spec) = &ingress.spec else {
        return report("spec".to_owned(), "is missing".to_owned());
    };
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        report(
            "spec".to_owned(),
            "has neither `rules` nor `defaultBackend`".to_owned(),
        );
    }
    if let Some(backend) = &spec.default_backend {
        check_backend("spec.defaultBackend", backend, report);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        if let Some(host) = rule.host.as_deref().filter(|host| !host.is_empty()) {
            check_hostname(format!("{path}.host"), host, report);
        }
        for (at, found) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
            check_path(&format!("{path}.http.paths[{at}]"), found, report);
        }
    }
    for (index, tls) in spec.tls.iter().flatten().enumerate() {
        for (at, host) in tls.hosts.iter().flatten().enumerate() {
            check_hostname(format!("spec.tls[{index}].hosts[{at}]"), host, report);
        }
    }
}

fn check_path(path: &str, found: &HTTPIngressPath, report: &mut Report<'_>) {
    let written = found.path.as_deref().unwrap_or_default();
    match found.path_type.as_str() {
        "Exact" | "Prefix" if !written.starts_with('/') => report(
            format!("{path}.path"),
            format!("{written:?} does not begin with `/`"),
        ),
        "ImplementationSpecific" if !written.is_empty() && !written.starts_with('/') => report(
            format!("{path}.path"),
            format!("{written:?} does not begin with `/`"),
        ),
        "Exact" | "Prefix" | "ImplementationSpecific" => {}
        other => report(
            format!("{path}.pathType"),
            format!("{other:?} is not Exact, Prefix or ImplementationSpecific"),
        ),
    }
    check_backend(&format!("{path}.backend"), &found.backend, report);
}

fn check_backend(path: &str, backend: &IngressBackend, report: &mut Report<'_>) {
    match (&backend.service, &backend.resource) {
        (Some(_), Some(_)) => report(
            path.to_owned(),
            "`service` and `resource` exclude each other".to_owned(),
        ),
        (None, None) => report(
            path.to_owned(),
            "has neither `service` nor `resource`".to_owned(),
        ),
        (None, Some(_)) => {}
        (Some(service), None) => match &service.port {
            None => report(format!("{path}.service.port"), "is missing".to_owned()),
            Some(port) => match (&port.name, port.number) {
                (Some(_), None) => {}
                (None, Some(number)) => {
                    check_port(&format!("{path}.service.port.number"), number, report);
                }
                _ => report(
                    format!("{path}.service.port"),
                    "needs either `name` or `number`".to_owned(),
                ),
            },
        },
    }
}

pub(super) fn check_class(class: &IngressClass, report: &mut Report<'_>) {
    let parameters = class
        .spec
        .as_ref()
        .and_then(|spec| spec.parameters.as_ref());
    let Some(parameters) = parameters else { return };
    let scope = parameters.scope.as_deref().unwrap_or("Cluster");
    match (scope, &parameters.namespace) {
        ("Namespace", Some(_)) | ("Cluster", None) => {}
        ("Namespace", None) => report(
            "spec.parameters.namespace".to_owned(),
            "is missing".to_owned(),
        ),
        ("Cluster", Some(_)) => report(
            "spec.parameters.namespace".to_owned(),
            "needs `scope: Namespace`".to_owned(),
        ),
        (other, _) => report(
            "spec.parameters.scope".to_owned(),
            format!("{other:?} is not Cluster or Namespace"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::model::load_texts;

    fn errors(spec: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: a}}\nspec:\n{spec}"
        );
        let errors = load_texts([("a.yaml", text.as_str())]).unwrap_err();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_wrong_field_is_named_with_its_line() {
        let found = errors(
            "  rules:
  - host: '*.*.b'
    http:
      paths:
      - {path: a, pathType: Exact, backend: {service: {name: b, port: {number: 0}}}}
      - {path: /a, pathType: Regex, backend: {service: {name: b, port: {name: x, number: 1}}}}
      - {path: /b, pathType: Prefix, backend: {}}
  tls: [{hosts: [A.b]}]
",
        );
        let expected = [
            "a.yaml:6: Ingress default/a: spec.rules[0].host: \"*.*.b\" is no lower-case host name, with `*.` before it or without",
            "a.yaml:9: Ingress default/a: spec.rules[0].http.paths[0].backend.service.port.number: 0 is not in 1..=65535",
            "a.yaml:9: Ingress default/a: spec.rules[0].http.paths[0].path: \"a\" does not begin with `/`",
            "a.yaml:10: Ingress default/a: spec.rules[0].http.paths[1].backend.service.port: needs either `name` or `number`",
            "a.yaml:10: Ingress default/a: spec.rules[0].http.paths[1].pathType: \"Regex\" is not Exact, Prefix or ImplementationSpecific",
            "a.yaml:11: Ingress default/a: spec.rules[0].http.paths[2].backend: has neither `service` nor `resource`",
            "a.yaml:12: Ingress default/a: spec.tls[0].hosts[0]: \"A.b\" is no lower-case host name, with `*.` before it or without",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_ingress_without_anything_to_do_is_refused() {
        assert_eq!(
            errors("  ingressClassName: x\n"),
            ["a.yaml:4: Ingress default/a: spec: has neither `rules` nor `defaultBackend`"]
        );
    }
}
