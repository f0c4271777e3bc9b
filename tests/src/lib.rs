//! What must hold across the layers.

pub mod commands;
pub mod daemon;
pub mod facts;
pub mod faults;
pub mod ledger;
pub mod places;
pub mod process;
pub mod views;
