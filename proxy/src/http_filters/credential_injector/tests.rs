//! What requests are given.
