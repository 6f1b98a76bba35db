//! The bootstrap: what the process is made of.
//!
//! `envoy.config.bootstrap.v3.Bootstrap`.
//! Deviations: `tracing`, `stats_sinks`, `hds_config`, runtime layers from disk,
//! and custom DNS resolvers of the whole process are refused until they work.
//! Deviations: a `header_prefix` other than `x-envoy` and `fatal_actions` are refused.
//! Deviations: watchdogs, `memory_allocator_manager` and `enable_dispatcher_stats` have no
//! effect: there is no watchdog, and the allocator is another one.

use std::collections::HashMap;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrigger_proto::pb::envoy::config::core::v3::{Node, TypedExtensionConfig};
use outrigger_proto::pb::envoy::config::metrics::v3::{
    StatsConfig as StatsConfigProto, TagSpecifier, tag_specifier,
};
use outrigger_proto::pb::google::protobuf::{Any, Struct};
use pb::bootstrap::application_log_config::{LogFormat, log_format};
use pb::bootstrap::{ApplicationLogConfig, StatsEviction, StatsFlush};
use pb::runtime_layer::LayerSpecifier;
use serde_json::Value;

use super::LocalInfo;
use super::cli::Cli;
use super::extensions::extensions;
use crate::config::{ConfigPath, Rejected, json_object};
use crate::stats::StatsConfig;

/// A bootstrap, converted as far as the process itself is concerned. Resources and the rooms of others come as they are.
#[derive(Debug)]
pub struct Bootstrap {
    /// Who this proxy is.
    pub local_info: LocalInfo,
    /// The node with what the command line put in.
    pub node: Node,
    /// How stats are named and kept.
    pub stats: Option<StatsConfig>,
    /// How often stats are flushed. Default 5 s; none: when the admin interface is asked.
    pub stats_flush_interval: Option<Duration>,
    /// Runtime values, lowest layer first; none: the layer that the admin interface changes.
    pub runtime_layers: Vec<(String, Option<HashMap<String, String>>)>,
    /// The pattern of the application log, in place of that of the command line.
    pub log_pattern: Option<String>,
    /// The number that `server.version` shows, in place of one made of the commit.
    pub stats_server_version: Option<u64>,
}

impl Bootstrap {
    /// Converts a bootstrap.
    #[allow(
        clippy::too_many_lines,
        deprecated,
        reason = "a line for each of 40 fields, some of them old"
    )]
    pub fn from_proto(
        proto: pb::Bootstrap,
        cli: &Cli,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Bootstrap {
            node,
            // Says which parts of the node xDS requests carry.
            node_context_params: _,
            static_resources,
            // Converted with the resources.
            dynamic_resources: _,
            // Converted with the resources.
            cluster_manager: _,
            hds_config,
            // Envoy ignores it as well.
            flags_path: _,
            stats_sinks,
            // Stats are always made when first used.
            deferred_stat_options: _,
            stats_config,
            stats_flush_interval,
            // Harmless: there is no watchdog that could fire.
            watchdog: _,
            watchdogs: _,
            tracing,
            layered_runtime,
            // Converted with the resources.
            admin: _,
            // Converted with the resources.
            overload_manager: _,
            // Harmless: only makes more stats.
            enable_dispatcher_stats: _,
            header_prefix,
            stats_server_version_override,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            bootstrap_extensions,
            fatal_actions,
            config_sources,
            default_config_source,
            default_socket_interface,
            certificate_provider_instances,
            // Harmless: speeds up look-ups of custom headers in Envoy.
            inline_headers: _,
            perf_tracing_file_path,
            default_regex_engine,
            xds_delegate_extension,
            xds_config_tracker_extension,
            listener_manager,
            application_log_config,
            // Harmless: caches of gRPC clients.
            grpc_async_client_manager_config: _,
            // Harmless: tells another allocator when to give memory back.
            memory_allocator_manager: _,
            // Harmless: threads stay where the scheduler puts them.
            enable_worker_cpu_affinity: _,
            stats_flush,
            stats_eviction,
        } = proto;
        let refused = [
            path.unsupported_if_set("hds_config", hds_config),
            path.unsupported_if_set("stats_sinks", stats_sinks),
            path.unsupported_if_set("tracing", tracing),
            path.unsupported_if_set("use_tcp_for_dns_lookups", use_tcp_for_dns_lookups),
            path.unsupported_if_set("dns_resolution_config", dns_resolution_config),
            path.unsupported_if_set("fatal_actions", fatal_actions),
            path.unsupported_if_set("config_sources", config_sources),
            path.unsupported_if_set("default_config_source", default_config_source),
            path.unsupported_if_set("default_socket_interface", default_socket_interface),
            path.unsupported_if_set(
                "certificate_provider_instances",
                certificate_provider_instances,
            ),
            path.unsupported_if_set("perf_tracing_file_path", perf_tracing_file_path),
            path.unsupported_if_set("xds_delegate_extension", xds_delegate_extension),
            path.unsupported_if_set("xds_config_tracker_extension", xds_config_tracker_extension),
            check_extension(
                "typed_dns_resolver_config",
                typed_dns_resolver_config,
                DNS_RESOLVERS,
                path,
            ),
            check_extension(
                "default_regex_engine",
                default_regex_engine,
                REGEX_ENGINES,
                path,
            ),
            check_extension(
                "listener_manager",
                listener_manager,
                LISTENER_MANAGERS,
                path,
            ),
            path.each(
                "bootstrap_extensions",
                bootstrap_extensions,
                |extension, path| check_typed(extension, BOOTSTRAP_EXTENSIONS, path),
            )
            .map(drop),
        ];
        // Converted by those who manage them.
        drop(static_resources);
        let prefix = match header_prefix.as_str() {
            "" | "x-envoy" => Ok(()),
            other => Err(path.field("header_prefix").reject(format!(
                "\"{other}\" is not supported; legal is \"x-envoy\""
            ))),
        };
        let stats_config = with_flag_tags(stats_config, cli, path);
        let stats = stats_config
            .and_then(|config| path.optional("stats_config", config, StatsConfig::from_proto));
        let flush = path.positive_duration("stats_flush_interval", stats_flush_interval);
        let flush_on_admin = match stats_flush {
            Some(StatsFlush::StatsFlushOnAdmin(true)) => Ok(true),
            Some(StatsFlush::StatsFlushOnAdmin(false)) => Err(path
                .field("stats_flush_on_admin")
                .reject("must be true when it is set")),
            None => Ok(false),
        };
        // Harmless: stats that nobody writes cost next to nothing.
        if let Some(StatsEviction::StatsEvictionInterval(_)) = stats_eviction {}
        let layers = path.optional("layered_runtime", layered_runtime, runtime_layers);
        let log_pattern = path.optional(
            "application_log_config",
            application_log_config,
            |config, path| log_pattern(config, cli, path),
        );
        refused.into_iter().collect::<Result<Vec<()>, _>>()?;
        prefix?;
        let node = complete_node(node.unwrap_or_default(), cli);
        Ok(Self {
            local_info: local_info(&node),
            node,
            stats: stats?,
            stats_flush_interval: match (flush_on_admin?, flush?) {
                (true, _) => None,
                (false, interval) => Some(interval.unwrap_or(Duration::from_secs(5))),
            },
            runtime_layers: layers?.unwrap_or_default(),
            log_pattern: log_pattern?.flatten(),
            stats_server_version: stats_server_version_override.map(|version| version.value),
        })
    }
}

/// Adds the tags of `--stats-tag` to those of the configuration.
fn with_flag_tags(
    config: Option<StatsConfigProto>,
    cli: &Cli,
    path: &ConfigPath<'_>,
) -> Result<Option<StatsConfigProto>, Rejected> {
    if cli.stats_tag.is_empty() {
        return Ok(config);
    }
    let mut config = config.unwrap_or_default();
    for tag in &cli.stats_tag {
        let split = tag.split_once(':').filter(|(name, value)| {
            let alphanumeric = name.chars().all(|c| c.is_ascii_alphanumeric());
            !name.is_empty() && alphanumeric && !value.is_empty() && !value.contains('.')
        });
        let Some((name, value)) = split else {
            return Err(path.field("--stats-tag").reject(format!(
                "\"{tag}\" is not of the form tag:value, with an alphanumeric tag and a value without dots"
            )));
        };
        if config.stats_tags.iter().any(|known| known.tag_name == name) {
            return Err(path
                .field("--stats-tag")
                .reject(format!("\"{name}\" has several values")));
        }
        config.stats_tags.push(TagSpecifier {
            tag_name: name.to_owned(),
            tag_value: Some(tag_specifier::TagValue::FixedValue(value.to_owned())),
        });
    }
    Ok(Some(config))
}

fn complete_node(mut node: Node, cli: &Cli) -> Node {
    if let Some(id) = &cli.service_node {
        node.id.clone_from(id);
    }
    if let Some(cluster) = &cli.service_cluster {
        node.cluster.clone_from(cluster);
    }
    if let Some(zone) = &cli.service_zone {
        node.locality.get_or_insert_default().zone.clone_from(zone);
    }
    // Control planes look for this name and version.
    "envoy".clone_into(&mut node.user_agent_name);
    if node.extensions.is_empty() {
        node.extensions = extensions();
    }
    node.user_agent_version_type.get_or_insert_with(|| {
        outrigger_proto::pb::envoy::config::core::v3::node::UserAgentVersionType::UserAgentVersion(
            super::cli::ENVOY_VERSION.to_owned(),
        )
    });
    node
}

fn local_info(node: &Node) -> LocalInfo {
    let locality = node.locality.clone().unwrap_or_default();
    LocalInfo {
        node_id: node.id.clone(),
        cluster: node.cluster.clone(),
        zone: locality.zone,
        region: locality.region,
        sub_zone: locality.sub_zone,
        metadata: node.metadata.clone().map(json_object).unwrap_or_default(),
        node: node.clone(),
    }
}

fn check_extension(
    name: &str,
    extension: Option<TypedExtensionConfig>,
    supported: &[&str],
    path: &ConfigPath<'_>,
) -> Result<(), Rejected> {
    path.optional(name, extension, |extension, path| {
        check_typed(extension, supported, path)
    })
    .map(drop)
}

/// Takes an extension whose configuration changes nothing here.
fn check_typed(
    extension: TypedExtensionConfig,
    supported: &[&str],
    path: &ConfigPath<'_>,
) -> Result<(), Rejected> {
    let TypedExtensionConfig {
        name: _,
        typed_config,
    } = extension;
    let any = path.required("typed_config", typed_config)?;
    let path = path.field("typed_config");
    let type_name = type_name_of(&any);
    if supported.contains(&type_name.as_str()) {
        Ok(())
    } else {
        Err(path.reject(format!(
            "{type_name} is not supported here; supported are {}",
            supported.join(", ")
        )))
    }
}

/// The type of what stands in an `Any`, also where a `TypedStruct` describes it whose fields nobody here knows.
fn type_name_of(any: &Any) -> String {
    use outrigger_proto::any::{type_name, unpack};
    unpack(any).map_or_else(
        |error| match error {
            outrigger_proto::any::AnyError::UnknownType(name) => name,
            _ => type_name(&any.type_url).to_owned(),
        },
        |(name, _)| name,
    )
}

type Layers = Vec<(String, Option<HashMap<String, String>>)>;

fn runtime_layers(proto: pb::LayeredRuntime, path: &ConfigPath<'_>) -> Result<Layers, Rejected> {
    let pb::LayeredRuntime { layers } = proto;
    let mut names = Vec::new();
    let mut has_admin = false;
    path.each("layers", layers, |layer, path| {
        let pb::RuntimeLayer {
            name,
            layer_specifier,
        } = layer;
        let name = path.non_empty("name", name)?;
        if names.contains(&name) {
            return Err(path
                .field("name")
                .reject(format!("\"{name}\" is the name of two layers")));
        }
        names.push(name.clone());
        let values = match path.required("layer_specifier", layer_specifier)? {
            LayerSpecifier::StaticLayer(values) => Some(flatten(values)),
            LayerSpecifier::AdminLayer(pb::runtime_layer::AdminLayer {}) => {
                if std::mem::replace(&mut has_admin, true) {
                    return Err(path
                        .field("admin_layer")
                        .reject("there is one already; a runtime has one admin layer at most"));
                }
                None
            }
            LayerSpecifier::DiskLayer(_) => {
                return Err(path.field("disk_layer").reject("is not supported"));
            }
            // Its values come later; where from is converted with the resources.
            LayerSpecifier::RtdsLayer(_) => Some(HashMap::new()),
        };
        Ok((name, values))
    })
}

/// Nested structs are one key with dots; a fraction (`numerator`, `denominator`) is one value.
pub(super) fn flatten(values: Struct) -> HashMap<String, String> {
    fn add(prefix: &str, value: Value, out: &mut HashMap<String, String>) {
        match value {
            Value::Object(fields)
                if !fields.contains_key("numerator") && !fields.contains_key("denominator") =>
            {
                for (key, value) in fields {
                    let key = if prefix.is_empty() {
                        key
                    } else {
                        format!("{prefix}.{key}")
                    };
                    add(&key, value, out);
                }
            }
            Value::String(text) => drop(out.insert(prefix.to_owned(), text)),
            Value::Number(number) => {
                // Whole numbers come as floating-point ones.
                let text = number.to_string();
                let text = text.strip_suffix(".0").unwrap_or(&text).to_owned();
                out.insert(prefix.to_owned(), text);
            }
            other => drop(out.insert(prefix.to_owned(), other.to_string())),
        }
    }
    let mut out = HashMap::new();
    add("", Value::Object(json_object(values)), &mut out);
    out
}

fn log_pattern(
    proto: ApplicationLogConfig,
    cli: &Cli,
    path: &ConfigPath<'_>,
) -> Result<Option<String>, Rejected> {
    let ApplicationLogConfig { log_format } = proto;
    let Some(LogFormat { log_format }) = log_format else {
        return Ok(None);
    };
    let path = path.field("log_format");
    if cli.log_format.is_some() {
        return Err(path.reject("stands beside --log-format; only one of them may be given"));
    }
    match path.required("log_format", log_format)? {
        log_format::LogFormat::TextFormat(pattern) => Ok(Some(pattern)),
        log_format::LogFormat::JsonFormat(format) => {
            let pattern = Value::Object(json_object(format)).to_string();
            if pattern.contains("%v") || pattern.contains("%_") {
                return Err(path
                    .field("json_format")
                    .reject("has %v or %_, which may break the JSON; legal is %j"));
            }
            Ok(Some(pattern))
        }
    }
}

const DNS_RESOLVERS: &[&str] = &[
    "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
    "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig",
];
const REGEX_ENGINES: &[&str] = &["envoy.extensions.regex_engines.v3.GoogleRE2"];
const LISTENER_MANAGERS: &[&str] = &["envoy.config.listener.v3.ListenerManager"];
const BOOTSTRAP_EXTENSIONS: &[&str] = &[
    "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
    "istio.workload.BootstrapExtension",
];

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use outrigger_proto::yaml::{Format, Source, UnknownFields, load_bootstrap};

    use super::*;
    use crate::config::ConfigReport;

    fn convert(yaml: &str, args: &[&str]) -> Result<Bootstrap, Vec<String>> {
        let source = Source {
            name: "test",
            format: Format::Yaml,
            bytes: yaml.as_bytes(),
        };
        let proto = load_bootstrap(&[source], UnknownFields::Refuse).unwrap();
        let args = std::iter::once("outrigger").chain(args.iter().copied());
        let cli = Cli::parse_args(args.map(OsString::from)).unwrap();
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "bootstrap");
        Bootstrap::from_proto(proto, &cli, &path)
            .map_err(|_| report.take().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_command_line_replaces_what_the_node_says() {
        let bootstrap = convert(
            "node: {id: a, cluster: b, locality: {zone: c, region: d}, metadata: {x: 1}}",
            &["--service-node", "A", "--service-zone", "C"],
        )
        .unwrap();
        let info = bootstrap.local_info;
        assert_eq!((&*info.node_id, &*info.cluster), ("A", "b"));
        assert_eq!((&*info.zone, &*info.region), ("C", "d"));
        assert_eq!(info.metadata["x"], 1.0);
    }

    #[test]
    fn what_does_not_work_yet_is_refused_by_name_all_at_once() {
        let errors = convert(
            "hds_config: {api_type: GRPC}\nlayered_runtime: {layers: [{name: a, disk_layer: {}}, {name: a, admin_layer: {}}]}",
            &[],
        )
        .unwrap_err();
        assert_eq!(
            errors,
            [
                "bootstrap / hds_config: is not supported",
                "bootstrap / layered_runtime / layers[0] / disk_layer: is not supported",
                "bootstrap / layered_runtime / layers[1] / name: \"a\" is the name of two layers",
            ]
        );
    }

    #[test]
    fn runtime_layers_are_flattened() {
        let bootstrap = convert(
            "layered_runtime: {layers: [{name: s, static_layer: {a: {b: 7, c: true}, d.e: x}}, {name: adm, admin_layer: {}}]}",
            &[],
        )
        .unwrap();
        let layers = bootstrap.runtime_layers;
        let values = layers[0].1.as_ref().unwrap();
        assert_eq!(values["a.b"], "7");
        assert_eq!(values["a.c"], "true");
        assert_eq!(values["d.e"], "x");
        assert_eq!(layers[1], ("adm".to_owned(), None));
    }

    #[test]
    fn a_json_log_format_becomes_a_pattern_unless_flags_give_one() {
        let yaml = "application_log_config: {log_format: {json_format: {m: '%j', l: '%l'}}}";
        assert_eq!(
            convert(yaml, &[]).unwrap().log_pattern.as_deref(),
            Some(r#"{"l":"%l","m":"%j"}"#)
        );
        assert!(convert(yaml, &["--log-format", "%v"]).is_err());
    }

    #[test]
    fn tags_of_flags_join_those_of_the_configuration() {
        assert!(
            convert(
                "stats_config: {}",
                &["--stats-tag", "a:b", "--stats-tag", "c:d"]
            )
            .is_ok()
        );
        for wrong in [
            &["--stats-tag", "a:b.c"][..],
            &["--stats-tag", "a:1", "--stats-tag", "a:2"],
        ] {
            assert_eq!(convert("{}", wrong).unwrap_err().len(), 1);
        }
    }

    #[test]
    fn istios_bootstrap_extensions_are_taken() {
        let yaml = r#"
bootstrap_extensions:
- name: envoy.bootstrap.internal_listener
  typed_config:
    "@type": type.googleapis.com/udpa.type.v1.TypedStruct
    type_url: type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener
    value: {buffer_size_kb: 64}
"#;
        assert!(convert(yaml, &[]).is_ok());
    }
}
