//! A running daemon with all that belongs to it: its doors, its peers, its metrics and its tasks.

mod door;
pub mod peers;
mod ready;
pub mod run;
