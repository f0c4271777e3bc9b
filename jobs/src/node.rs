//! A running daemon with all that belongs to it: its doors, its peers, its metrics and its tasks.

mod access;
mod audit;
mod base;
mod boards;
mod door;
mod intake;
mod journal;
mod metrics;
pub mod open;
mod operations;
pub mod peers;
mod python;
mod ready;
mod routes;
pub mod run;
