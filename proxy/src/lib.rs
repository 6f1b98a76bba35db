//! Outrigger, an Envoy-compatible data plane.
