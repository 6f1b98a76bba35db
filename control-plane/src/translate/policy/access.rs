//! Who may call, by address and by what a token says: the filter `rbac`, once before and once behind the filter of tokens.

use serde_json::{Value as Json, json};

use super::{CLAIMS, EXTENSIONS, JWT};
use crate::model::{AddressesSpec, Claims, Scalar, range};
use crate::translate::typed;
use crate::world::regex_escape;

pub(super) const ADDRESSES: &str = "outrigger.filters.http.rbac.addresses";
pub(super) const CLAIMED: &str = "outrigger.filters.http.rbac.claims";

/// Where no route says who may.
pub(super) fn anyone() -> (String, Json) {
    (format!("{EXTENSIONS}.rbac.v3.RBAC"), json!({}))
}

pub(super) fn addresses(spec: &AddressesSpec) -> Json {
    let any = |list: &[String]| {
        let ranges = list.iter().filter_map(|text| range(text).ok());
        let ids: Vec<_> = ranges
            .map(|(address, bits)| {
                json!({"remote_ip": {"address_prefix": address.to_string(), "prefix_len": bits}})
            })
            .collect();
        json!({"or_ids": {"ids": ids}})
    };
    let mut all = Vec::new();
    if !spec.allow.is_empty() {
        all.push(any(&spec.allow));
    }
    if !spec.deny.is_empty() {
        all.push(json!({"not_id": any(&spec.deny)}));
    }
    allow("addresses", &all)
}

pub(super) fn claims(claims: &Claims) -> Json {
    let all: Vec<_> = claims
        .iter()
        .map(|(claim, values)| {
            let ids: Vec<_> = values
                .iter()
                .flat_map(|value| claimed(claim, value))
                .collect();
            json!({"or_ids": {"ids": ids}})
        })
        .collect();
    allow("claims", &all)
}

/// A claim that is a value, has it among its words, or in its list.
fn claimed(claim: &str, value: &Scalar) -> Vec<Json> {
    let path = std::iter::once(CLAIMS).chain(claim.split('.'));
    let path: Vec<_> = path.map(|key| json!({"key": key})).collect();
    let (alone, entry) = match value {
        Scalar::Bool(value) => (json!({"bool_match": value}), json!({"bool_match": value})),
        Scalar::Number(value) => {
            let number = json!({"double_match": {"exact": value}});
            (number.clone(), number)
        }
        Scalar::Text(text) => {
            let word = format!("(.* )?{}( .*)?", regex_escape(text));
            (
                json!({"string_match": {"safe_regex": {"regex": word}}}),
                json!({"string_match": {"exact": text}}),
            )
        }
    };
    [alone, json!({"list_match": {"one_of": entry}})]
        .map(|value| {
            json!({"sourced_metadata": {"metadata_matcher": {
                "filter": JWT,
                "path": path,
                "value": value,
            }}})
        })
        .to_vec()
}

/// Lets pass for whom all of these hold.
fn allow(name: &str, all: &[Json]) -> Json {
    let policy = json!({
        "permissions": [{"any": true}],
        "principals": [{"and_ids": {"ids": all}}],
    });
    let rules = json!({"action": "ALLOW", "policies": {name: policy}});
    typed(
        &format!("{EXTENSIONS}.rbac.v3.RBACPerRoute"),
        json!({"rbac": {"rules": rules}}),
    )
}
