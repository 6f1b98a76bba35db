//! `HealthCheck.name`, which the API's types lack: read from the encoded cluster beside them.

use prost::Message;

use crate::config::{ConfigPath, Rejected};

/// The names of the health checks of a cluster, in their order. Where none are known, all are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthCheckNames(Vec<String>);

/// What of `envoy.config.cluster.v3.Cluster` matters here.
#[derive(Clone, PartialEq, Message)]
struct NamedCluster {
    #[prost(message, repeated, tag = "8")]
    health_checks: Vec<NamedCheck>,
}

/// What of `envoy.config.core.v3.HealthCheck` matters here.
#[derive(Clone, PartialEq, Message)]
struct NamedCheck {
    #[prost(string, tag = "27")]
    name: String,
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

impl HealthCheckNames {
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
        Self(names.to_vec())
    }

    /// The name of a health check; empty if it has none.
    pub(in crate::upstream) fn get(&self, index: usize) -> &str {
        self.0.get(index).map_or("", |name| name)
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

impl From<NamedCluster> for HealthCheckNames {
    fn from(cluster: NamedCluster) -> Self {
        let checks = cluster.health_checks.into_iter();
        Self(checks.map(|check| check.name).collect())
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
                })
                .collect(),
        };
        let bootstrap = NamedBootstrap {
            static_resources: Some(NamedResources {
                clusters: vec![named(&[]), named(&["one", ""])],
            }),
        };
        let found = HealthCheckNames::of_bootstrap(&bootstrap.encode_to_vec());
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].get(0), found[1].get(0), found[1].get(1)),
            ("", "one", "")
        );
        let same = HealthCheckNames::of_cluster(&named(&["one", ""]).encode_to_vec());
        assert_eq!(same, found[1]);
        assert_eq!(
            HealthCheckNames::of_cluster(b"\xff"),
            HealthCheckNames::default()
        );
    }
}
