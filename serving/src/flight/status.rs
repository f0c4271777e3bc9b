//! What goes wrong at the door, as clients of gRPC are told it.

use anabranch_shared::{Error, ErrorKind};
use tonic::{Code, Status};

/// Bytes of a message that are sent: it travels in a header, and clients bound those.
const MOST: usize = 4_000;

/// An error as its status.
pub(super) fn status(e: &Error) -> Status {
    if matches!(e.kind(), ErrorKind::Internal | ErrorKind::Corrupt) {
        tracing::error!(error = %e, "a call failed");
    }
    said(e.grpc_code(), &e.to_string())
}

/// A refusal before a call is looked at, with one of gRPC's codes.
pub(super) fn said(code: i32, text: &str) -> Status {
    let end = text.floor_char_boundary(MOST);
    let text = match end < text.len() {
        true => format!("{}…", &text[..end]),
        false => text.to_owned(),
    };
    Status::new(Code::from_i32(code), text)
}
