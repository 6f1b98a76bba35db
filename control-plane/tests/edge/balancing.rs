//! Which of two endpoints gets a request, as a policy of the service says.

use std::path::Path;

use outrigger_xds_tests::binaries;

use crate::policies::{ask, input, told};
use crate::scene::Scene;
use crate::world::{eventually, ports};

#[test]
fn an_envoy_sends_a_user_to_one_endpoint() {
    tell(&binaries::envoy().unwrap(), "envoy");
}

#[test]
fn an_outrigger_sends_a_user_to_one_endpoint() {
    tell(&binaries::outrigger().unwrap(), "outrigger");
}

fn policy(balancing: &str) -> String {
    format!(
        "
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {{ name: shop }}
spec: {{ service: {{ name: shop }}, loadBalancing: {balancing} }}
"
    )
}

fn tell(program: &Path, name: &str) {
    let folder = binaries::scratch(&format!("edge-balancing-{name}")).unwrap();
    let [gateway] = ports();
    let (one, two) = (told("one"), told("two"));
    let mut scene = Scene::start(&folder, &input(gateway, one, one), &[]);
    let second = format!(
        "
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{ name: second }}
spec: {{ services: [shop], address: 127.0.0.1, sidecar: false, ports: [{{ name: main, port: {} }}] }}
",
        two.port(),
    );
    scene.write("second.yaml", &second);
    scene.write(
        "policy.yaml",
        &policy("{ hashBy: [{ header: x-user }, { cookie: session }] }"),
    );
    scene.join(program, "gateway/default/edge", |_| {});
    // Who answers, and the cookie that he gives.
    let call = |headers: &[&str]| {
        let (_, head, body) = ask(gateway, "/", headers);
        let cookie = head.split_once("set-cookie: session=").map(|(_, it)| it);
        let cookie = cookie.and_then(|it| it.split([';', '\r']).next());
        let cookie = cookie.map(|it| it.replace('"', ""));
        (body.lines().next().unwrap_or_default().to_owned(), cookie)
    };
    // Nobody, while calls of one user in a row have different answers, as they have in turn.
    let of_user = |user| {
        let header = format!("x-user: {user}");
        let names = [(); 3].map(|()| call(&[&header]).0);
        names
            .iter()
            .all(|it| *it == names[0])
            .then(|| names[0].clone())
    };
    let of_users = || (0..20).map(of_user).collect::<Option<Vec<_>>>();
    let first = eventually(|| {
        let found = of_users()?;
        let has = |name: &str| found.iter().any(|it| it == name);
        (has("one") && has("two")).then_some(found)
    });
    for _ in 0..3 {
        assert_eq!(of_users().as_ref(), Some(&first));
    }
    // A browser is given what brings it back.
    for _ in 0..10 {
        let (name, cookie) = call(&[]);
        let cookie = format!("cookie: session={}", cookie.unwrap());
        for _ in 0..3 {
            assert_eq!(call(&[&cookie]), (name.clone(), None));
        }
    }
    // In turn again, whoever it is.
    scene.write("policy.yaml", &policy("{ slowStart: 1s }"));
    eventually(|| {
        let same: Vec<_> = (0..4).map(|_| call(&["x-user: 1"]).0).collect();
        same.iter().any(|it| *it != same[0]).then_some(())
    });
}
