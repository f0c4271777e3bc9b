//! View errors.
