//! The store below everything: a folder and a bucket keep one contract.

mod contract;
mod s3;
