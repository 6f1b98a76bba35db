//! Outrigger's own xDS control plane: short YAML files to the resources of Envoy's API, served to Outrigger and Envoy.
//!
//! The way of a change, in the order of the modules: [`model`] reads the files, [`world`] resolves
//! what they refer to.

#![warn(missing_docs)]

pub mod model;
pub mod world;
