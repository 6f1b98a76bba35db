//! What the example is made of.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use outrigger_xds_tests::example::{CONTROL_PLANE, Example};
use outrigger_xds_tests::{Error, binaries};

use crate::issuer::Issuer;
use crate::orders;

/// The ports in the example.
pub(crate) const HTTP: u16 = 10080;
pub(crate) const ISSUER: u16 = 18090;
const ORDERS: u16 = 18081;
const ORDERS_NEXT: u16 = 18082;
const PORTS: [u16; 5] = [CONTROL_PLANE, HTTP, ISSUER, ORDERS, ORDERS_NEXT];
const FILE: &str = "gateway.yaml";

/// Copies the input, onto free ports if that is wished.
pub(crate) fn new(any_port: bool, name: &str) -> Result<Example, Error> {
    let gateway = Example::new(name, "input", &PORTS, any_port)?;
    let example = binaries::workspace().join("examples/api-gateway");
    gateway.write(FILE, &fs::read_to_string(example.join(FILE))?)?;
    Ok(gateway)
}

/// Starts what serves, and waits for the control plane. `proxy` is Outrigger or Envoy.
pub(crate) fn start(
    gateway: &mut Example,
    issuer: &Arc<Issuer>,
    proxy: &Path,
) -> Result<(), Error> {
    orders::start("orders", gateway.address(ORDERS))?;
    orders::start("orders-next", gateway.address(ORDERS_NEXT))?;
    issuer.start(gateway.address(ISSUER))?;
    gateway.start_control_plane()?;
    gateway.start_proxy("gateway/default/api", "gateway", proxy)
}
