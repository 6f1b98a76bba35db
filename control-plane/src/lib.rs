//! Outrigger's own xDS control plane: short YAML files to the resources of Envoy's API, served to Outrigger and Envoy.
//!
//! The way of a change, in the order of the modules: [`model`] reads the files, [`world`] resolves
//! what they refer to, [`translate`] makes the resources of each proxy from it, which [`cache`] holds.

#![warn(missing_docs)]

pub mod ca;
pub mod cache;
pub mod model;
pub mod translate;
pub mod world;
