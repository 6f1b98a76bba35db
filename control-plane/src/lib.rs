//! The place of Outrigger's own xDS control plane.
//!
//! There is none yet: the crate exports nothing, no program uses it, and Outrigger reads its configuration from a file.
//! What comes here will turn the objects of a cluster into the resources of Envoy's API and serve them over xDS, to
//! Outrigger and to Envoy alike; it will share the API types of `outrigger-proto` with the proxy and nothing else.

#![warn(missing_docs)]
