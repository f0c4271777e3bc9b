//! What must hold across the layers.

pub mod facts;
pub mod places;
pub mod views;
