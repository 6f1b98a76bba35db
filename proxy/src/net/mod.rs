//! Addresses, connections as the proxy sees them, and socket options.

mod address;
mod cidr;
mod io;
mod proxy_protocol;
mod socket_option;

pub use address::{Address, local_address};
pub use cidr::{CidrRange, CidrTable};
pub use io::Io;
pub use proxy_protocol::{PROXY_PROTOCOL_OPTIONS, ProxyProtocolData};
pub use socket_option::set_socket_option;
