//! Addresses, connections as the proxy sees them, and socket options.

mod address;
mod io;

pub use address::Address;
pub use io::Io;
