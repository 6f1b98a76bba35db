//! `HealthCheck.name` and `HttpHealthCheck.use_alpn_protocol`, which the API's types lack: read from the encoded cluster beside
//! them.

use prost::Message;

use crate::config::{ConfigPath, Rejected};

/// What else the health checks of a cluster say, in their order. Where nothing is known, they say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatchedHealthChecks(Vec<NamedCheck>);

/// What of `envoy.config.cluster.v3.Cluster` matters here.
#[derive(Clone, PartialEq, Message)]
struct NamedCluster {
    #[prost(message, repeated, tag = "8")]
    health_checks: Vec<NamedCheck>,
}

/// What of `envoy.config.core.v3.HealthCheck` matters here.
#[derive(Clone, PartialEq, Eq, Message)]
struct NamedCheck {
    #[prost(message, optional, tag = "8")]
    http: Option<NamedHttpCheck>,
    #[prost(string, tag = "27")]
    name: String,
}

/// What of `envoy.config.core.v3.HealthCheck.HttpHealthCheck` matters here.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct NamedHttpCheck {
    #[prost(bool, tag = "15")]
    use_alpn_protocol: bool,
}

/// What of `envoy.config.bootstrap.v3.Bootstrap` matters here.
#[derive(Clone, PartialEq, Message)]
struct NamedBootstrap {
    #[prost(message, optional, tag = "2")]
    static_resources: Option<NamedResources>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedResources {
    #[prost(message, repeated, tag = "2")]
    clusters: Vec<NamedCluster>,
}

impl PatchedHealthChecks {
    /// Those of an encoded cluster.
    pub fn of_cluster(body: &[u8]) -> Self {
        // What cannot be decoded is refused by whoever decodes all of it.
        NamedCluster::decode(body).unwrap_or_default().into()
    }

    /// Those of each cluster of an encoded bootstrap.
    pub fn of_bootstrap(bytes: &[u8]) -> Vec<Self> {
        let bootstrap = NamedBootstrap::decode(bytes).unwrap_or_default();
        let clusters = bootstrap.static_resources.unwrap_or_default().clusters;
        clusters.into_iter().map(Self::from).collect()
    }

    #[cfg(test)]
    pub(super) fn from_names(names: &[String]) -> Self {
        let check = |name: &String| NamedCheck {
            name: name.clone(),
            http: None,
        };
        Self(names.iter().map(check).collect())
    }

    /// The name of a health check; empty if it has none.
    pub(in crate::upstream) fn get(&self, index: usize) -> &str {
        self.0.get(index).map_or("", |check| &check.name)
    }

    /// Whether ALPN decides which protocol a health check speaks.
    pub(in crate::upstream) fn uses_alpn(&self, index: usize) -> bool {
        let http = self.0.get(index).and_then(|check| check.http);
        http.is_some_and(|http| http.use_alpn_protocol)
    }

    /// Of several health checks each has a name of its own.
    pub(in crate::upstream) fn check(
        &self,
        count: usize,
        path: &ConfigPath<'_>,
    ) -> Result<(), Rejected> {
        if count < 2 {
            return Ok(());
        }
        for index in 0..count {
            let name = self.get(index);
            let path = path.index("health_checks", index);
            if name.is_empty() {
                return Err(path.reject(format!(
                    "health check at index {index} is missing a name; all health checks must have a name when multiple health checks are configured"
                )));
            }
            if (0..index).any(|earlier| self.get(earlier) == name) {
                return Err(path.reject(format!(
                    "duplicate health check name '{name}' at index {index}; all health check names must be unique within a cluster"
                )));
            }
        }
        Ok(())
    }
}

impl From<NamedCluster> for PatchedHealthChecks {
    fn from(cluster: NamedCluster) -> Self {
        Self(cluster.health_checks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_the_bytes_of_clusters() {
        let named = |names: &[&str]| NamedCluster {
            health_checks: names
                .iter()
                .map(|name| NamedCheck {
                    name: (*name).to_owned(),
                    http: Some(NamedHttpCheck {
                        use_alpn_protocol: !name.is_empty(),
                    }),
                })
                .collect(),
        };
        let bootstrap = NamedBootstrap {
            static_resources: Some(NamedResources {
                clusters: vec![named(&[]), named(&["one", ""])],
            }),
        };
        let found = PatchedHealthChecks::of_bootstrap(&bootstrap.encode_to_vec());
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].get(0), found[1].get(0), found[1].get(1)),
            ("", "one", "")
        );
        assert!(found[1].uses_alpn(0) && !found[1].uses_alpn(1) && !found[0].uses_alpn(0));
        let same = PatchedHealthChecks::of_cluster(&named(&["one", ""]).encode_to_vec());
        assert_eq!(same, found[1]);
        assert_eq!(
            PatchedHealthChecks::of_cluster(b"\xff"),
            PatchedHealthChecks::default()
        );
    }
}
