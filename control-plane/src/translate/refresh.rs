//! From the snapshot of one world to that of the next.
//!
//! Most changes are of the endpoints of a few services. Who calls none of them keeps the snapshot as it is, and who does
//! gets a copy that shares all but the endpoints; a change of anything else makes the snapshot anew.

use std::sync::Arc;

use super::{Role, Secrets, Translator, cluster_name, grpc};
use crate::cache::{ResourceType, Snapshot};
use crate::model::Key;
use crate::world::{Service, World};

/// How many differences to earlier worlds a translator remembers: streams are at one or two of them.
const MAX_DIFFERENCES: usize = 4;

/// What differs between two worlds.
#[derive(Debug)]
enum Difference {
    /// The endpoints of these services, and maybe workloads.
    Endpoints(Vec<Key>),
    /// More than that.
    Whole,
}

/// A difference to an earlier world.
#[derive(Debug)]
pub(super) struct Known {
    before: Arc<World>,
    difference: Arc<Difference>,
}

impl Translator {
    /// The same as [`Self::snapshot`], from the snapshot that a proxy had of an earlier world.
    #[must_use]
    pub fn refresh(
        &self,
        role: &Role,
        secrets: &dyn Secrets,
        (before, snapshot): (&Arc<World>, &Arc<Snapshot>),
    ) -> Arc<Snapshot> {
        if Arc::ptr_eq(before, &self.world) {
            return Arc::clone(snapshot);
        }
        let difference = self.difference(before);
        let is_same = match role {
            Role::Sidecar(key) | Role::Grpc(key) => {
                let (old, new) = (before.workloads.get(key), self.world.workloads.get(key));
                old.zip(new).is_some_and(|(old, new)| Arc::ptr_eq(old, new))
            }
            // Gateways are compared with the whole.
            Role::Gateway(_) => true,
        };
        match &*difference {
            Difference::Endpoints(services) if is_same => self.patch(role, snapshot, services),
            _ => Arc::new(self.snapshot(role, secrets)),
        }
    }

    fn patch(&self, role: &Role, snapshot: &Arc<Snapshot>, services: &[Key]) -> Arc<Snapshot> {
        let is_grpc = matches!(role, Role::Grpc(_));
        let mut changed = Vec::new();
        for key in services {
            let Some(made) = self.service(key) else {
                continue;
            };
            for (number, port) in &made.ports {
                let name = cluster_name(key, *number);
                // Who does not call it needs nothing made of it.
                if !snapshot
                    .of(ResourceType::Cluster)
                    .contains_key(name.as_str())
                {
                    continue;
                }
                let made = match is_grpc {
                    true => grpc::cluster_of(&made, *number, port),
                    false => Some((&port.cluster, &port.endpoints)),
                };
                let Some((cluster, endpoints)) = made else {
                    continue;
                };
                for (kind, resource) in [
                    (ResourceType::Cluster, cluster),
                    (ResourceType::Endpoints, endpoints),
                ] {
                    let had = snapshot.of(kind).get(name.as_str());
                    if had.is_some_and(|had| had.version != resource.version) {
                        changed.push((kind, Arc::clone(resource)));
                    }
                }
            }
        }
        if changed.is_empty() {
            return Arc::clone(snapshot);
        }
        let span = tracing::debug_span!("patch_snapshot", resources = changed.len());
        let _entered = span.enter();
        let mut patched = Snapshot::clone(snapshot);
        for (kind, resource) in changed {
            patched.insert(kind, resource);
        }
        Arc::new(patched)
    }

    fn difference(&self, before: &Arc<World>) -> Arc<Difference> {
        let mut known = self.differences.lock();
        let found = known.iter().find(|it| Arc::ptr_eq(&it.before, before));
        if let Some(found) = found {
            return Arc::clone(&found.difference);
        }
        let difference = Arc::new(compare(before, &self.world));
        if known.len() == MAX_DIFFERENCES {
            known.remove(0);
        }
        known.push(Known {
            before: Arc::clone(before),
            difference: Arc::clone(&difference),
        });
        difference
    }
}

fn compare(before: &World, after: &World) -> Difference {
    let is_same = before.trust_domain == after.trust_domain
        && before.defaults == after.defaults
        && before.secrets == after.secrets
        && before.gateways == after.gateways
        && before.services.len() == after.services.len();
    if !is_same {
        return Difference::Whole;
    }
    let mut changed = Vec::new();
    for ((key, old), (other, new)) in before.services.iter().zip(&after.services) {
        if key != other {
            return Difference::Whole;
        }
        if Arc::ptr_eq(old, new) {
            continue;
        }
        if !has_same_but_endpoints(old, new) {
            return Difference::Whole;
        }
        changed.push(key.clone());
    }
    Difference::Endpoints(changed)
}

fn has_same_but_endpoints(old: &Service, new: &Service) -> bool {
    let mut old = old.clone();
    if old.ports.len() != new.ports.len() {
        return false;
    }
    for (old, new) in old.ports.iter_mut().zip(&new.ports) {
        old.endpoints.clone_from(&new.endpoints);
    }
    old == *new
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MESH, NoSecrets};
    use super::*;
    use crate::model::load_texts;

    fn world(text: &str, before: Option<&World>) -> Arc<World> {
        let model = load_texts([("mesh.yaml", text)]).unwrap();
        Arc::new(World::build(&model, "mesh.test", &[], before))
    }

    /// What the changes of a text become for each of the nodes: patched, it is what would be made anew.
    fn are_as_made_anew(text: &str, nodes: &[&str], changes: &[(&str, &str)]) {
        let before = world(text, None);
        let first = Translator::new(Arc::clone(&before), None);
        let roles: Vec<_> = nodes
            .iter()
            .map(|id| Role::from_node_id(id).unwrap())
            .collect();
        for (old, new) in changes {
            assert!(text.contains(old), "{old}");
            let after = world(&text.replace(old, new), Some(&before));
            let second = Translator::new(after, Some(&first));
            for role in &roles {
                let had = Arc::new(first.snapshot(role, &NoSecrets));
                let refreshed = second.refresh(role, &NoSecrets, (&before, &had));
                let anew = second.snapshot(role, &NoSecrets);
                assert!(*refreshed == anew, "{role:?} after {new}");
            }
        }
    }

    /// Whatever changes, and for whomever: what is patched is what would be made anew.
    #[test]
    fn a_refreshed_snapshot_is_what_would_be_made_anew() {
        let nodes = [
            "sidecar/default/a",
            "sidecar/default/b",
            "gateway/default/edge",
        ];
        let changes = [
            ("port: 15002", "port: 15009"),
            (
                "{address: 127.0.0.1, sidecar: false",
                "{address: 127.0.0.2, sidecar: false",
            ),
            ("timeout: 2s", "timeout: 4s"),
            ("timeout: 3s", "timeout: 5s"),
            ("listen: \"127.0.0.1:15101\"", "listen: \"127.0.0.1:15109\""),
            ("mtls: PERMISSIVE", "mtls: DISABLE"),
            ("kubernetes.io/tls", "Opaque"),
            ("port: 8080, protocol: HTTP}", "port: 8081, protocol: HTTP}"),
            ("methods: [GET]", "methods: [PUT]"),
        ];
        are_as_made_anew(MESH, &nodes, &changes);
    }

    /// The same for gRPC without a proxy, whose clusters depend on the endpoints.
    #[test]
    fn a_refreshed_snapshot_of_grpc_is_what_would_be_made_anew() {
        const MESH: &str = include_str!("grpc/tests.yaml");
        let nodes = ["grpc/default/caller", "grpc/default/echo"];
        let changes = [
            ("port: 15003", "port: 15009"),
            ("{name: grpc, port: 15001}", "{name: grpc, port: 15008}"),
            (
                "{address: 127.0.0.1, sidecar: false",
                "{address: 127.0.0.2, serviceAccount: plain, proxyless: true",
            ),
            ("serviceAccount: echo", "serviceAccount: other"),
            ("timeout: 2s", "timeout: 4s"),
            ("mtls: STRICT", "mtls: PERMISSIVE"),
            ("methods: [POST, GET]", "methods: [GET]"),
        ];
        are_as_made_anew(MESH, &nodes, &changes);
    }

    #[test]
    fn of_grpc_only_callers_of_a_service_get_another_snapshot_and_it_shares_the_rest() {
        const CLIENTS: usize = 40;
        const CALLERS: usize = 10;
        let mesh = |port: u16| {
            let mut text = String::new();
            for (name, port) in [("x", port), ("y", 9001)] {
                text.push_str(&format!(
                    "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{ports: [{{name: grpc, port: 80, targetPort: grpc}}]}}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{name: {name}}}
spec: {{address: 127.0.0.1, sidecar: false, services: [{name}], ports: [{{name: grpc, port: {port}}}]}}
"
                ));
            }
            for number in 0..CLIENTS {
                let called = if number < CALLERS { "x" } else { "y" };
                text.push_str(&format!(
                    "---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{name: g{number}}}
spec: {{address: 127.0.0.1, serviceAccount: g{number}, proxyless: true, calls: [{{service: {called}, port: 80}}]}}
"
                ));
            }
            text
        };
        let before = world(&mesh(9002), None);
        let first = Translator::new(Arc::clone(&before), None);
        let after = world(&mesh(9003), Some(&before));
        let second = Translator::new(after, Some(&first));
        let mut changed = 0;
        for number in 0..CLIENTS {
            let role = Role::from_node_id(&format!("grpc/default/g{number}")).unwrap();
            let had = Arc::new(first.snapshot(&role, &NoSecrets));
            assert!(!had.of(ResourceType::Endpoints).is_empty());
            let refreshed = second.refresh(&role, &NoSecrets, (&before, &had));
            if Arc::ptr_eq(&had, &refreshed) {
                continue;
            }
            changed += 1;
            assert!(!had.shares(&refreshed, ResourceType::Endpoints));
            for kind in [ResourceType::Listener, ResourceType::Route] {
                assert!(had.shares(&refreshed, kind), "{}", kind.word());
            }
        }
        assert_eq!(changed, CALLERS);
    }

    #[test]
    fn registered_endpoints_make_the_same_world_for_less() {
        use crate::dns::Names;
        use crate::registry::{Registration, Registry};
        use crate::world::Found;

        let model = load_texts([("mesh.yaml", MESH)]).unwrap();
        let registry = Registry::default();
        let names = Names::default();
        let mut world = World::build(&model, "mesh.test", &[], None);
        // One that is there already as an endpoint of the service, another, and none of them any more.
        for address in [Some("127.0.0.1:15002"), Some("127.0.0.9:80"), None] {
            let service = Key::new("default", "b");
            match address {
                Some(address) => {
                    let text = format!(r#"{{"port": 80, "address": "{address}"}}"#);
                    let registration: Registration = serde_json::from_str(&text).unwrap();
                    let taken = registry.register(service.clone(), "1", &registration, None);
                    taken.unwrap();
                }
                None => registry.deregister(&service, "1", None).unwrap(),
            }
            let registered = registry.endpoints();
            let found = Found {
                registered: &registered,
                names: &names,
            };
            let anew = World::build(&model, "mesh.test", &registered, None);
            let changed = [service.clone()].into();
            let next = world.with_registered(&model, found, &changed);
            assert_eq!(next.services, anew.services, "{address:?}");
            let is_kept = |name: &str| {
                let key = Key::new("default", name);
                Arc::ptr_eq(&next.services[&key], &world.services[&key])
            };
            assert!(is_kept("a"));
            world = next;
        }
    }

    #[test]
    fn who_does_not_call_a_service_keeps_the_snapshot_as_it_is() {
        let before = world(MESH, None);
        let first = Translator::new(Arc::clone(&before), None);
        let after = world(
            &MESH.replace("port: 15001, appPort", "port: 15007, appPort"),
            Some(&before),
        );
        let second = Translator::new(after, Some(&first));
        // The service a has moved, which b does not call, and the gateway does.
        for (id, is_kept) in [("sidecar/default/b", true), ("gateway/default/edge", false)] {
            let role = Role::from_node_id(id).unwrap();
            let had = Arc::new(first.snapshot(&role, &NoSecrets));
            let refreshed = second.refresh(&role, &NoSecrets, (&before, &had));
            assert_eq!(Arc::ptr_eq(&had, &refreshed), is_kept, "{id}");
        }
    }
}
