//! What holds of the repository itself: its layout, its lists of cases and bounds, its dependencies.

mod cases;
mod dependencies;
mod layout;
mod tables;
