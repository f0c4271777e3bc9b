//! From what a source says to a field's value: the one conversion by which records are admitted and
//! by which a field is read that was declared after its facts. Owns what each type takes; knows
//! nothing of records.

mod cell;
mod column;
mod json;
pub mod number;
mod reason;
pub mod time;

pub use cell::{Cell, cell, items};
pub use column::{Column, text_builder};
pub use json::{PutError, described, put_json, put_list_text};
pub use reason::{Reject, cut, mismatch, sql_type};
