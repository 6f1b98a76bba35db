//! The gRPC status of a response: `%GRPC_STATUS%`.

use super::{FormatData, append_count, append_str};
use crate::http::{Fields, Known};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::formatter) enum GrpcStatusForm {
    Camel,
    Snake,
    Number,
}

impl GrpcStatusForm {
    pub(super) fn write(self, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
        let Some(status) = grpc_status_of(data) else {
            return false;
        };
        let name = GRPC_STATUS
            .get(status as usize)
            .and_then(|(camel, snake)| match self {
                Self::Camel => Some(camel),
                Self::Snake => Some(snake),
                Self::Number => None,
            });
        match name {
            Some(name) => append_str(out, Some(name)),
            None => append_count(out, Some(status.into())),
        }
    }
}

const GRPC_STATUS: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

pub(super) fn grpc_status_of(data: &FormatData<'_>) -> Option<u32> {
    data.request.filter(|head| head.is_grpc())?;
    grpc_status(data)
}

/// The gRPC status of a response: from its trailers, its head, or derived from its HTTP status.
pub(crate) fn grpc_status(data: &FormatData<'_>) -> Option<u32> {
    let read = |fields: &Fields| {
        let text = fields.get_str(Known::GrpcStatus)?;
        // What is no number is no status that anything could be compared with.
        Some(text.parse().unwrap_or(u32::MAX))
    };
    data.response_trailers
        .and_then(read)
        .or_else(|| data.response.and_then(|head| read(&head.fields)))
        .or_else(|| {
            Some(match data.info.response_code? {
                400 => 13,
                401 => 16,
                403 => 7,
                404 => 12,
                429 | 502..=504 => 14,
                _ => 2,
            })
        })
}
