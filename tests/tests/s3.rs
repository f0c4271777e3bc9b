//! The log, the views and the catalogue in an S3 bucket, with nothing else between the processes:
//! everything works as on a folder, also while requests fail, and few requests are made.

#[path = "s3/bucket.rs"]
mod bucket;
#[path = "s3/everything.rs"]
mod everything;
#[path = "s3/failing.rs"]
mod failing;
#[path = "s3/gather.rs"]
mod gather;
#[path = "s3/machines.rs"]
mod machines;
#[path = "s3/requests.rs"]
mod requests;
#[path = "s3/trust.rs"]
mod trust;
