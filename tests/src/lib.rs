//! What must hold across the layers.

pub mod facts;
pub mod places;
pub mod process;
pub mod views;
