//! Objects that filters leave for each other, on a stream or on its connection.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// An object of the filter state.
pub trait FilterStateObject: Any {
    /// As `%FILTER_STATE(key:PLAIN)%` prints it; none where the object has no text.
    fn serialize_as_string(&self) -> Option<String>;

    /// As `%FILTER_STATE(key)%` prints it: JSON.
    fn serialize_as_json(&self) -> Option<serde_json::Value> {
        self.serialize_as_string().map(serde_json::Value::String)
    }

    /// The number by which `hash_policy` chooses a host; none where the object is not made for that.
    fn hash(&self) -> Option<u64> {
        None
    }

    /// The address that the object is; none for all others, whatever their text looks like.
    fn address(&self) -> Option<IpAddr> {
        None
    }

    /// The address with its port that the object is; none for all others.
    fn socket_address(&self) -> Option<SocketAddr> {
        None
    }

    /// Whether the object stays where the stream begins anew with another request, as after an internal redirect.
    fn is_of_request(&self) -> bool {
        false
    }

    /// A part of the object, as `%FILTER_STATE(key:FIELD:name)%` prints it.
    fn field(&self, _name: &str) -> Option<String> {
        None
    }
}

/// The objects of one stream, or of one connection, by name. Empty, it costs nothing.
#[derive(Default, Clone)]
pub struct FilterState {
    #[allow(
        clippy::box_collection,
        reason = "most are empty, and a word is all that an empty one takes"
    )]
    objects: Option<Box<BTreeMap<Rc<str>, Rc<dyn FilterStateObject>>>>,
}

impl FilterState {
    /// Stores an object, in place of one of the same name.
    pub fn set(&mut self, name: impl Into<Rc<str>>, object: Rc<dyn FilterStateObject>) {
        self.objects
            .get_or_insert_default()
            .insert(name.into(), object);
    }

    /// Takes over the objects of another stream whose request goes on in this one.
    pub fn inherit(&mut self, other: &Self) {
        for (name, object) in other.objects.iter().flat_map(|objects| objects.iter()) {
            if object.is_of_request() {
                self.set(name.clone(), object.clone());
            }
        }
    }

    /// The object called `name`.
    pub fn get(&self, name: &str) -> Option<&Rc<dyn FilterStateObject>> {
        self.objects.as_ref()?.get(name)
    }

    /// The object called `name`, if it is a `T`.
    pub fn get_as<T: FilterStateObject>(&self, name: &str) -> Option<&T> {
        let object: &dyn Any = &**self.get(name)?;
        object.downcast_ref()
    }
}

impl FilterStateObject for String {
    fn serialize_as_string(&self) -> Option<String> {
        Some(self.clone())
    }
}

impl fmt::Debug for FilterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.objects.iter().flat_map(|o| o.keys()))
            .finish()
    }
}
