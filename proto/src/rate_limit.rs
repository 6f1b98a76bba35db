//! What a rate limit service is asked and answers: `envoy.service.ratelimit.v3`, with `unit_multiplier`, which the types of
//! `envoy-types` lack.

use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3 as pb;
use envoy_types::pb::envoy::r#type::v3::RateLimitUnit;
use envoy_types::pb::google::protobuf as wkt;
use pb::rate_limit_response::Code;
use pb::rate_limit_response::rate_limit::Unit;

/// `RateLimitRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RateLimitRequest {
    /// What the limits are of.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// What the request is counted under.
    #[prost(message, repeated, tag = "2")]
    pub descriptors: Vec<RateLimitDescriptor>,
    /// How many hits it counts for; 0: one.
    #[prost(uint32, tag = "3")]
    pub hits_addend: u32,
}

/// `RateLimitDescriptor`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RateLimitDescriptor {
    /// Keys and values.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
    /// A limit in place of the configured one.
    #[prost(message, optional, tag = "2")]
    pub limit: Option<RateLimitOverride>,
    /// How many hits the descriptor counts for; none: as the request says.
    #[prost(message, optional, tag = "3")]
    pub hits_addend: Option<wkt::UInt64Value>,
    /// Whether the hits are given back.
    #[prost(bool, tag = "4")]
    pub is_negative_hits: bool,
}

/// `RateLimitDescriptor.RateLimitOverride`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RateLimitOverride {
    /// How many requests may pass.
    #[prost(uint32, tag = "1")]
    pub requests_per_unit: u32,
    /// In which time.
    #[prost(enumeration = "RateLimitUnit", tag = "2")]
    pub unit: i32,
    /// In how many units; none: one.
    #[prost(message, optional, tag = "3")]
    pub unit_multiplier: Option<wkt::UInt32Value>,
}

/// `RateLimitResponse`, but for quotas.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RateLimitResponse {
    /// Whether the request may pass.
    #[prost(enumeration = "Code", tag = "1")]
    pub overall_code: i32,
    /// The same of each descriptor.
    #[prost(message, repeated, tag = "2")]
    pub statuses: Vec<DescriptorStatus>,
    /// Fields for the response.
    #[prost(message, repeated, tag = "3")]
    pub response_headers_to_add: Vec<HeaderValue>,
    /// Fields for the request.
    #[prost(message, repeated, tag = "4")]
    pub request_headers_to_add: Vec<HeaderValue>,
    /// The body of a refusal.
    #[prost(bytes = "vec", tag = "5")]
    pub raw_body: Vec<u8>,
    /// Metadata for the filters behind.
    #[prost(message, optional, tag = "6")]
    pub dynamic_metadata: Option<wkt::Struct>,
}

/// `RateLimitResponse.DescriptorStatus`, but for quotas.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DescriptorStatus {
    /// Whether the request may pass.
    #[prost(enumeration = "Code", tag = "1")]
    pub code: i32,
    /// The limit; none: there is none.
    #[prost(message, optional, tag = "2")]
    pub current_limit: Option<RateLimit>,
    /// How many requests may still pass.
    #[prost(uint32, tag = "3")]
    pub limit_remaining: u32,
    /// When the limit begins anew.
    #[prost(message, optional, tag = "4")]
    pub duration_until_reset: Option<wkt::Duration>,
}

/// `RateLimitResponse.RateLimit`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RateLimit {
    /// How many requests may pass.
    #[prost(uint32, tag = "1")]
    pub requests_per_unit: u32,
    /// In which time.
    #[prost(enumeration = "Unit", tag = "2")]
    pub unit: i32,
    /// What the limit is called; may be empty.
    #[prost(string, tag = "3")]
    pub name: String,
    /// In how many units; none: one.
    #[prost(message, optional, tag = "4")]
    pub unit_multiplier: Option<wkt::UInt32Value>,
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn messages_are_those_of_the_api_and_more() {
        let theirs = pb::RateLimitResponse {
            overall_code: Code::OverLimit.into(),
            statuses: vec![pb::rate_limit_response::DescriptorStatus {
                code: Code::OverLimit.into(),
                current_limit: Some(pb::rate_limit_response::RateLimit {
                    name: "n".into(),
                    requests_per_unit: 7,
                    unit: Unit::Week.into(),
                }),
                limit_remaining: 3,
                duration_until_reset: Some(wkt::Duration {
                    seconds: 5,
                    nanos: 6,
                }),
                quota: None,
            }],
            response_headers_to_add: vec![HeaderValue {
                key: "a".into(),
                ..Default::default()
            }],
            request_headers_to_add: vec![HeaderValue::default()],
            raw_body: b"x".to_vec(),
            dynamic_metadata: Some(wkt::Struct::default()),
            quota: None,
        };
        let bytes = theirs.encode_to_vec();
        let ours = RateLimitResponse::decode(&*bytes).expect("the same fields");
        assert_eq!(ours.encode_to_vec(), bytes);
        assert_eq!(ours.statuses[0].code(), Code::OverLimit);
    }
}
