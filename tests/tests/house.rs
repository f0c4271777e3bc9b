//! What holds of the repository itself: its layout, its lists of cases and bounds.

mod cases;
mod layout;
mod tables;
