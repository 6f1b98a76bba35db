use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use super::*;
use crate::pb::envoy::config::bootstrap::v3::Bootstrap;
use crate::pb::envoy::config::core::v3::{HealthCheck, Metadata, Node};
use crate::pb::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;
use crate::pb::google::protobuf::{Any, Value};
use crate::yaml::{self, Format, Source};

const BOOTSTRAP: &str = r#"
node:
  id: "a \"quoted\" id\n\u0001é"
  cluster: c
  metadata: {whole: 5, text: "1.5", list: [true, ~, {}, []], nested: {a: {b: c}}}
  user_agent_build_version: {version: {major_number: 1}, metadata: {}}
  locality: {region: r}
static_resources:
  clusters:
  - name: one
    connect_timeout: 0.25s
    type: STRICT_DNS
    lb_policy: 2
    per_connection_buffer_limit_bytes: 32768
    max_requests_per_connection: 0
    metadata:
      filter_metadata: {b: {x: 1}, a: {}}
      typed_filter_metadata:
        z: {"@type": type.googleapis.com/google.protobuf.StringValue, value: wrapped}
        y: {"@type": type.googleapis.com/google.protobuf.Duration, value: 3s}
        x: {"@type": type.googleapis.com/google.protobuf.Struct, value: {k: v}}
        w: {"@type": type.googleapis.com/google.protobuf.Any, value: {"@type": type.googleapis.com/envoy.config.core.v3.Node, id: inner}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 100}}
    load_assignment:
      cluster_name: one
      policy: {drop_overloads: [{category: x, drop_percentage: {numerator: 5, denominator: MILLION}}]}
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 80}}}
          load_balancing_weight: 3
    common_lb_config: {healthy_panic_threshold: {value: 12.5}}
    outlier_detection: {success_rate_stdev_factor: 1900, interval: 0.000001s}
layered_runtime:
  layers: [{name: s, static_layer: {a.b: 1, "c": "yes"}}]
stats_flush_interval: 5s
"#;

fn sources(text: &str) -> [Source<'_>; 1] {
    [Source {
        name: "test.yaml",
        format: Format::Yaml,
        bytes: text.as_bytes(),
    }]
}

fn from_yaml<M: Name + Default>(text: &str) -> M {
    yaml::load(&sources(text), UnknownFields::Refuse).expect("a valid text")
}

fn descriptors() -> DescriptorPool {
    let bytes = std::fs::read(env!("ENVOY_TYPES_BIN")).expect("the build read it too");
    DescriptorPool::decode(bytes.as_slice()).expect("descriptors")
}

#[test]
fn json_is_what_another_implementation_prints() {
    let bootstrap: Bootstrap = from_yaml(BOOTSTRAP);
    let descriptor = descriptors()
        .get_message_by_name("envoy.config.bootstrap.v3.Bootstrap")
        .expect("known");
    let dynamic = DynamicMessage::decode(descriptor, bootstrap.encode_to_vec().as_slice())
        .expect("well formed");
    let options = SerializeOptions::new().use_proto_field_name(true);
    let theirs = dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("serializable");
    let ours: serde_json::Value =
        serde_json::from_str(&to_json(&bootstrap, Style::default()).expect("known")).expect("JSON");
    assert_eq!(without_float_form(ours), without_float_form(theirs));
}

/// `5` and `5.0` are the same number in JSON.
fn without_float_form(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Number(number) => number
            .as_f64()
            .map_or(serde_json::Value::Null, |number| format!("{number}").into()),
        serde_json::Value::Array(items) => items.into_iter().map(without_float_form).collect(),
        serde_json::Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (key, without_float_form(value)))
            .collect(),
        other => other,
    }
}

#[test]
fn what_is_printed_is_read_back() {
    let bootstrap: Bootstrap = from_yaml(BOOTSTRAP);
    for pretty in [false, true] {
        let json = to_json(
            &bootstrap,
            Style {
                pretty,
                redact: false,
            },
        )
        .expect("known");
        let source = Source {
            name: "test.json",
            format: Format::Json,
            bytes: json.as_bytes(),
        };
        assert_eq!(
            yaml::load_bootstrap(&[source], UnknownFields::Refuse).as_ref(),
            Ok(&bootstrap)
        );
    }
    let text = to_yaml(&bootstrap, Style::default()).expect("known");
    assert_eq!(from_yaml::<Bootstrap>(&text), bootstrap, "{text}");
}

#[test]
fn pretty_json_is_indented_by_one_space() {
    let node: Node = from_yaml("{id: a, metadata: {x: {}, y: [], z: [1, 2]}}");
    let json = to_json(
        &node,
        Style {
            pretty: true,
            redact: false,
        },
    )
    .expect("known");
    let expected = "{\n \"id\": \"a\",\n \"metadata\": {\n  \"x\": {},\n  \"y\": [],\n  \"z\": [\n   1,\n   2\n  ]\n }\n}\n";
    assert_eq!(json, expected);
}

#[test]
fn yaml_quotes_strings_and_puts_the_first_key_beside_the_dash() {
    let node: Node = from_yaml(
        "{id: a, listening_addresses: [{pipe: {path: x, mode: 1}}], metadata: {m: [[1, 2], {}], e: []}}",
    );
    let expected = r#"
"id": "a"
metadata:
  "e": []
  "m":
    - - 1
      - 2
    - {}
listening_addresses:
  - pipe:
      path: "x"
      mode: 1
"#;
    assert_eq!(
        to_yaml(&node, Style::default()).expect("known"),
        expected.trim_start()
    );
}

#[test]
fn an_any_of_an_unknown_or_broken_type_keeps_its_bytes() {
    for (type_url, value) in [
        ("x/unknown.Type", vec![1, 2, 3]),
        ("x/envoy.config.core.v3.Node", vec![0x0a, 9]),
    ] {
        let any = Any {
            type_url: type_url.to_owned(),
            value,
        };
        let encoded = base64::encode(&any.value);
        assert_eq!(
            to_json(&any, Style::default()),
            Ok(format!(
                "{{\"@type\":\"{type_url}\",\"value\":\"{encoded}\"}}"
            ))
        );
    }
    assert_eq!(
        to_json(&Any::default(), Style::default()),
        Ok("{}".to_owned())
    );
}

#[test]
fn secrets_are_redacted_wherever_they_are() {
    let certificate = r#"
certificate_chain: {inline_string: public}
private_key: {inline_string: secret, inline_bytes: ~}
password: {inline_bytes: c2VjcmV0}
"#;
    let certificate: TlsCertificate = from_yaml(certificate);
    let style = Style {
        pretty: false,
        redact: true,
    };
    let expected = r#"{"certificate_chain":{"inline_string":"public"},"private_key":{"inline_string":"[redacted]"},"password":{"inline_bytes":"W3JlZGFjdGVkXQ=="}}"#;
    assert_eq!(to_json(&certificate, style).as_deref(), Ok(expected));
    let any = any::pack(&certificate);
    assert!(!to_json(&any, style).expect("known").contains("c2VjcmV0"));

    let metadata: Metadata = from_yaml(
        r#"
typed_filter_metadata:
  a:
    "@type": type.googleapis.com/xds.type.v3.TypedStruct
    type_url: type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.TlsCertificate
    value: {private_key: {inline_string: secret}}
"#,
    );
    let json = to_json(&metadata, style).expect("known");
    assert!(
        json.contains(r#""value":{"private_key":{"inline_string":"[redacted]"}}"#),
        "{json}"
    );
    assert!(
        to_json(&metadata, Style::default())
            .expect("known")
            .contains("secret")
    );
}

#[test]
fn fields_that_the_rust_types_lack_are_printed_from_bytes() {
    let text = "{timeout: 1s, interval: 1s, name: probe, http_health_check: {path: /, use_alpn_protocol: true}}";
    let bytes = yaml::encode(
        &HealthCheck::full_name(),
        &sources(text),
        UnknownFields::Refuse,
    )
    .expect("known to Envoy 1.40");
    let json = encoded_to_json(&HealthCheck::full_name(), &bytes, Style::default()).expect("known");
    let expected = r#"{"timeout":"1s","interval":"1s","http_health_check":{"path":"/","use_alpn_protocol":true},"name":"probe"}"#;
    assert_eq!(json, expected);
    let extra = crate::ours::outrigger::patch::envoy::config::core::v3::HealthCheck::decode(
        bytes.as_slice(),
    )
    .expect("the same bytes");
    assert_eq!(extra.name, "probe");
}

#[test]
fn numbers_that_json_lacks_are_strings() {
    for (number, text) in [
        (f64::NAN, "\"NaN\""),
        (f64::NEG_INFINITY, "\"-Infinity\""),
        (1.5, "1.5"),
        (100.0, "100"),
        (1e300, "1e300"),
        (-0.0, "-0"),
    ] {
        let value = Value {
            kind: Some(crate::pb::google::protobuf::value::Kind::NumberValue(
                number,
            )),
        };
        assert_eq!(to_json(&value, Style::default()).as_deref(), Ok(text));
    }
}

#[test]
fn broken_bytes_are_an_error() {
    let node = "envoy.config.core.v3.Node";
    for bytes in [&[0x0a_u8, 5][..], &[0x08, 1], &[0x0a, 1, 0xff]] {
        assert_eq!(
            encoded_to_json(node, bytes, Style::default()),
            Err(JsonError::Malformed(node.to_owned()))
        );
    }
    assert_eq!(
        encoded_to_json("no.Such", &[], Style::default()),
        Err(JsonError::UnknownType("no.Such".to_owned()))
    );
}
