//! What must hold across the layers.

pub mod commands;
pub mod daemon;
pub mod disk;
pub mod facts;
pub mod fates;
pub mod faults;
pub mod flight;
pub mod fuzz;
pub mod kafka;
pub mod ledger;
pub mod places;
pub mod process;
pub mod proxy;
pub mod s3;
pub mod sender;
pub mod skip;
pub mod stored;
pub mod views;
