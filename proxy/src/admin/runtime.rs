//! `/runtime` and `/runtime_modify`.

use serde_json::{Map, Value, json};

use super::{Admin, Request, Response, json::page};

pub(super) fn show(admin: &Admin, _: &Request<'_>) -> Response {
    let layers = admin.source.server().runtime.layers();
    let mut entries = Map::new();
    let keys = layers.iter().flat_map(|(_, values)| values.keys());
    for key in keys {
        let values: Vec<&str> = layers
            .iter()
            .map(|(_, values)| values.get(key).map_or("", String::as_str))
            .collect();
        let last = values.iter().rev().find(|value| !value.is_empty());
        let entry = json!({"final_value": last.unwrap_or(&""), "layer_values": values});
        entries.insert(key.clone(), entry);
    }
    let names: Vec<&String> = layers.iter().map(|(name, _)| name).collect();
    page(&json!({"layers": names, "entries": Value::Object(entries)}))
}

pub(super) fn modify(admin: &Admin, request: &Request<'_>) -> Response {
    let changes = request.query.iter();
    if changes.len() == 0 {
        return Response::error(
            400,
            "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       \
             or send the parameters as form values\n\
             use an empty value to remove a previously added override",
        );
    }
    let Some(layer) = admin.source.admin_layer() else {
        return Response::error(503, "No admin layer specified\n");
    };
    let changes = changes.map(|(key, value)| (key.to_owned(), value.to_owned()));
    admin.source.server().runtime.modify_layer(&layer, changes);
    Response::ok()
}
