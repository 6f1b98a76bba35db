//! Outrigger's own xDS control plane.
