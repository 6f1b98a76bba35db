//! Addresses, connections as the proxy sees them, and socket options.

mod address;
mod cidr;
mod input;
mod io;
mod output;
mod proxy_protocol;
mod socket_option;
mod socket_options;
mod splice;

pub use address::{Address, IpText, local_address};
pub use cidr::{CidrRange, CidrTable};
pub(crate) use input::Input;
pub use io::{Io, IoLayer};
pub(crate) use output::Output;
pub use proxy_protocol::{PROXY_PROTOCOL_OPTIONS, ProxyProtocolData, ProxyProtocolVersion};
pub use socket_option::set_socket_option;
pub use socket_options::{Keepalive, SocketOption, SocketStage};
pub use splice::SplicePipe;
