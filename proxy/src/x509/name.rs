//! Distinguished names as RFC 2253 writes them, which is how Envoy shows subjects and issuers.

use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::hex;

/// The last part first, parts separated by commas, those of one set by plus signs.
pub(super) fn rfc2253(name: &X509Name<'_>) -> String {
    let mut sets: Vec<String> = name
        .iter()
        .map(|set| {
            let parts: Vec<String> = set.iter().map(part).collect();
            parts.join("+")
        })
        .collect();
    sets.reverse();
    sets.join(",")
}

fn part(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    match (short_name(&oid), attribute.as_str()) {
        (Some(name), Ok(value)) => format!("{name}={}", escape(value)),
        (Some(name), Err(_)) => format!("{name}=#{}", hex(attribute.as_slice())),
        // What has no name of its own is shown with the encoding of its value.
        (None, _) => {
            let value = attribute.attr_value();
            let mut encoded = vec![u8::try_from(value.tag().0).unwrap_or_default()];
            encoded.extend(length(value.data.len()));
            encoded.extend_from_slice(value.data);
            format!("{oid}=#{}", hex(&encoded).to_ascii_uppercase())
        }
    }
}

/// A length as DER writes it.
fn length(value: usize) -> Vec<u8> {
    match u8::try_from(value) {
        Ok(short @ 0..=127) => vec![short],
        _ => {
            let bytes = value.to_be_bytes();
            let significant: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            let count = u8::try_from(significant.len()).unwrap_or_default();
            std::iter::once(0x80 | count).chain(significant).collect()
        }
    }
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || at == 0 && matches!(c, '#' | ' ')
            || at == last && c == ' ';
        if special {
            out.push('\\');
        }
        if c.is_control() || !c.is_ascii() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("\\{byte:02X}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.17" => "postalCode",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "2.5.4.46" => "dnQualifier",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}
