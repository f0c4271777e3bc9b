//! The log, the views and the catalogue in an S3 bucket, with nothing else between the processes:
//! everything works as on a folder, also while requests fail, and few requests are made.

pub(super) mod bucket;
mod everything;
mod failing;
mod gather;
mod machines;
mod requests;
mod trust;
