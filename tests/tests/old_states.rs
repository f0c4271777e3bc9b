//! Old states.
