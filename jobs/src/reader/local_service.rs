//! Answers that this process makes by itself, from the storage and this machine's WAL.

use std::sync::Arc;

use anabranch_serving::SqlService;
use anabranch_shared::Result;

use crate::project::context::Context;
use crate::reader::presence::Address;
use crate::reader::storage_pinner::LocalPinner;
use crate::reader::with_references::WithReferences;

/// A service that answers in this process.
pub fn local_service(context: &Context) -> Result<SqlService> {
    local_service_without(context, Vec::new())
}

/// As [`local_service`]; answers name the daemons that could not be asked.
pub(crate) fn local_service_without(context: &Context, silent: Vec<Address>) -> Result<SqlService> {
    let pinner = Arc::new(LocalPinner::new(context.clone()).missing(silent));
    let pinner = WithReferences::over(pinner, context.references());
    SqlService::new(pinner, &context.storage, context.serving_options())
}
