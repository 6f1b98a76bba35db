//! The mesh of the benchmark: its files, and what each client is to have.

use std::fmt::Write;
use std::path::Path;

/// How large it is.
pub(crate) struct Mesh {
    /// Clients with some services.
    pub(crate) clients: usize,
    /// Services, `s0` for everybody.
    pub(crate) services: usize,
    /// Services of each client.
    pub(crate) each: usize,
    /// More clients, with all services.
    pub(crate) all: usize,
}

/// What a client is to have.
pub(crate) struct Expected {
    /// Clusters with endpoints.
    pub(crate) services: usize,
    /// Listeners and routes.
    pub(crate) listeners: usize,
}

impl Mesh {
    /// How many clients there are.
    pub(crate) fn total(&self) -> usize {
        self.clients + self.all
    }

    /// What a client is to have: the last ones have all services. Each serves a port itself.
    pub(crate) fn expected(&self, client: usize) -> Expected {
        let services = if client < self.clients {
            self.each
        } else {
            self.services
        };
        Expected {
            services,
            listeners: services + 1,
        }
    }

    /// Writes the files: services in hundreds, with two endpoints each, a file for each client, and one for the endpoints
    /// of everybody's service.
    pub(crate) fn write(&self, folder: &Path) {
        for start in (0..self.services).step_by(100) {
            let mut text = String::new();
            for service in start..self.services.min(start + 100) {
                let (high, low) = (service / 250, service % 250 + 1);
                writeln!(
                    text,
                    "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{service}}}\n\
                     spec: {{clusterIP: 127.100.{high}.{low}, ports: [{{name: http, port: 80}}]}}"
                )
                .unwrap();
                if service > 0 {
                    slice(&mut text, service, 8080);
                }
            }
            std::fs::write(folder.join(format!("services-{start}.yaml")), text).unwrap();
        }
        self.change(folder, 0);
        for client in 0..self.total() {
            let calls = if client < self.clients {
                let calls: Vec<_> = self
                    .calls(client)
                    .map(|service| format!("{{service: s{service}, port: 80}}"))
                    .collect();
                format!("  calls: [{}]\n", calls.join(", "))
            } else {
                String::new()
            };
            // It is an endpoint of a service that few call.
            let text = format!(
                "apiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {{name: c{client}}}\nspec:\n  \
                 address: 127.0.0.1\n  serviceAccount: c{client}\n  services: [s{}]\n  \
                 ports: [{{port: {}, appPort: 80}}]\n{calls}",
                1 + client % (self.services - 1),
                10_000 + client,
            );
            std::fs::write(folder.join(format!("client-{client}.yaml")), text).unwrap();
        }
    }

    /// Everybody's service, and others that differ from client to client.
    fn calls(&self, client: usize) -> impl Iterator<Item = usize> + '_ {
        let others = self.services - 1;
        let start = client * (self.each - 1);
        std::iter::once(0).chain((start..start + self.each - 1).map(move |at| 1 + at % others))
    }

    /// Moves an endpoint of everybody's service.
    pub(crate) fn change(&self, folder: &Path, round: u32) {
        let mut text = String::new();
        slice(&mut text, 0, 8080 + round);
        let new = folder.join(".slice.yaml");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, folder.join("slice.yaml")).unwrap();
    }
}

fn slice(text: &mut String, service: usize, port: u32) {
    writeln!(
        text,
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: s{service}, labels: {{kubernetes.io/service-name: s{service}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {port}}}]\n\
         endpoints: [{{addresses: [127.200.{}.{}]}}, {{addresses: [127.201.{}.{}]}}]",
        service / 250,
        service % 250 + 1,
        service / 250,
        service % 250 + 1,
    )
    .unwrap();
}
