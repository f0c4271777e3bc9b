//! Where records come from that a daemon reads itself: Kafka topics, and steps. What comes over HTTP is
//! the room `http`, above the daemon, as it is asked there; files are read in `intake`.

pub(crate) mod kafka;
pub(crate) mod steps;
