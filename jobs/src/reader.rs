//! What answers questions about a project: a daemon that runs, or this process from the storage.

pub mod answers;
pub mod client;
pub mod daemon_status;
mod folding;
pub mod local_service;
pub mod past;
pub mod presence;
pub mod secured;
pub mod session;
pub mod storage_pinner;
pub(crate) mod with_references;
