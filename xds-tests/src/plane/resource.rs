//! Kinds of resources, and resources from their YAML.

use std::time::Duration;

use outrigger_proto::pb::envoy::service::discovery::v3 as discovery;
use outrigger_proto::pb::google::protobuf::{Any, Duration as PbDuration};
use outrigger_proto::yaml::{self, Format, Source, UnknownFields};

/// The kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Clusters.
    Cds,
    /// Endpoints.
    Eds,
    /// Listeners.
    Lds,
    /// Route configurations.
    Rds,
    /// Scopes of routes.
    Srds,
    /// Virtual hosts.
    Vhds,
    /// Secrets.
    Sds,
    /// Runtime layers.
    Rtds,
    /// Extensions.
    Ecds,
}

const ALL: [Kind; 9] = [
    Kind::Cds,
    Kind::Eds,
    Kind::Lds,
    Kind::Rds,
    Kind::Srds,
    Kind::Vhds,
    Kind::Sds,
    Kind::Rtds,
    Kind::Ecds,
];

impl Kind {
    /// The name of the message.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Cds => "envoy.config.cluster.v3.Cluster",
            Self::Eds => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Lds => "envoy.config.listener.v3.Listener",
            Self::Rds => "envoy.config.route.v3.RouteConfiguration",
            Self::Srds => "envoy.config.route.v3.ScopedRouteConfiguration",
            Self::Vhds => "envoy.config.route.v3.VirtualHost",
            Self::Sds => "envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Rtds => "envoy.service.runtime.v3.Runtime",
            Self::Ecds => "envoy.config.core.v3.TypedExtensionConfig",
        }
    }

    /// The type URL.
    pub fn type_url(self) -> String {
        format!("type.googleapis.com/{}", self.message())
    }

    /// The kind with this type URL.
    pub fn of_type_url(url: &str) -> Option<Self> {
        let name = url.rsplit('/').next()?;
        ALL.into_iter().find(|kind| kind.message() == name)
    }

    /// The kind that a gRPC service of its own, or a path of REST polling, is about.
    pub fn of_path(path: &str) -> Option<Self> {
        let words = [
            ("ClusterDiscovery", Self::Cds),
            ("EndpointDiscovery", Self::Eds),
            ("ListenerDiscovery", Self::Lds),
            ("ScopedRoutesDiscovery", Self::Srds),
            ("RouteDiscovery", Self::Rds),
            ("VirtualHostDiscovery", Self::Vhds),
            ("SecretDiscovery", Self::Sds),
            ("RuntimeDiscovery", Self::Rtds),
            ("ExtensionConfigDiscovery", Self::Ecds),
            (":clusters", Self::Cds),
            (":endpoints", Self::Eds),
            (":listeners", Self::Lds),
            (":scoped-routes", Self::Srds),
            (":routes", Self::Rds),
            (":secrets", Self::Sds),
            (":runtime", Self::Rtds),
            (":extension_configs", Self::Ecds),
        ];
        let found = words.iter().find(|(word, _)| path.contains(word));
        found.map(|(_, kind)| *kind)
    }

    /// The field of the message that names a resource.
    const fn name_field(self) -> &'static str {
        match self {
            Self::Eds => "cluster_name",
            _ => "name",
        }
    }

    /// Whether state-of-the-world requests without names ask for everything.
    pub(super) const fn by_wildcard(self) -> bool {
        matches!(self, Self::Cds | Self::Lds | Self::Srds)
    }
}

/// A resource that a control plane gives out.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// What it is; `None` is a heartbeat, or a virtual host that does not exist.
    pub body: Option<Any>,
    /// Its own version in delta; empty until a shelf gives it one.
    pub version: String,
    /// Time to live.
    pub ttl: Option<Duration>,
    /// Other names for it.
    pub aliases: Vec<String>,
}

impl Resource {
    /// A resource from the YAML of its message.
    pub fn yaml(kind: Kind, text: &str) -> Self {
        let source = Source {
            name: kind.message(),
            format: Format::Yaml,
            bytes: text.as_bytes(),
        };
        let value = yaml::encode(kind.message(), &[source], UnknownFields::Refuse)
            .unwrap_or_else(|errors| panic!("{errors:#?} in {text}"));
        Self::raw(kind, &name_in(kind, text), value)
    }

    /// A resource with these bytes, whatever they are.
    pub fn raw(kind: Kind, name: &str, value: Vec<u8>) -> Self {
        let body = Any {
            type_url: kind.type_url(),
            value,
        };
        Self {
            name: name.into(),
            body: Some(body),
            version: String::new(),
            ttl: None,
            aliases: vec![],
        }
    }

    /// A resource without a body.
    pub fn heartbeat(name: &str, ttl: Duration) -> Self {
        Self {
            name: name.into(),
            body: None,
            version: String::new(),
            ttl: Some(ttl),
            aliases: vec![],
        }
    }

    /// The same with a time to live.
    #[must_use]
    pub fn for_time(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// As delta sends it.
    pub(super) fn wrapped(&self) -> discovery::Resource {
        discovery::Resource {
            name: self.name.clone(),
            aliases: self.aliases.clone(),
            version: self.version.clone(),
            resource: self.body.clone(),
            ttl: self.ttl.map(|ttl| PbDuration {
                seconds: i64::try_from(ttl.as_secs()).expect("a story is short"),
                nanos: i32::try_from(ttl.subsec_nanos()).expect("below a milliard"),
            }),
            ..discovery::Resource::default()
        }
    }

    /// As state-of-the-world sends it: wrapped only where there is a time to live.
    pub(super) fn plain(&self) -> Any {
        match (&self.body, self.ttl) {
            (Some(body), None) => body.clone(),
            _ => outrigger_proto::any::pack(&self.wrapped()),
        }
    }
}

/// The name that a resource's YAML gives it at its top level.
fn name_in(kind: Kind, text: &str) -> String {
    let field = format!("{}:", kind.name_field());
    let line = text
        .trim_start()
        .lines()
        .find_map(|line| line.strip_prefix(&field));
    let name = line.unwrap_or_else(|| panic!("no line `{field} NAME` at the top of {text}"));
    name.trim().trim_matches('"').to_owned()
}
