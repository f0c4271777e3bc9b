//! Where records come from: Kafka topics and files. What comes over HTTP is the room `http`,
//! above the daemon, as it is asked there.

pub mod files;
pub(crate) mod kafka;
