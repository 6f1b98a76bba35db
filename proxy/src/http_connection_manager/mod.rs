//! `envoy.filters.network.http_connection_manager`: from bytes to streams, and the filters around them.

pub mod codec;
