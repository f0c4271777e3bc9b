//! The islands of many keys at once, so that what is made of them is a few large arrays: an array of a
//! single key's sessions takes kilobytes, however few they are.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray};
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::{Islands, Shape, facts, stored};

/// Islands by the number of their key.
///
/// Invariant: `bytes` is the sum of what the keys hold.
#[derive(Debug)]
pub(super) struct Keys {
    shape: Arc<Shape>,
    keys: Vec<Islands>,
    bytes: usize,
}

impl Keys {
    pub(super) fn of(shape: Arc<Shape>) -> Self {
        Self {
            shape,
            keys: Vec::new(),
            bytes: 0,
        }
    }

    fn reach(&mut self, total: usize) {
        let shape = &self.shape;
        while self.keys.len() < total {
            let key = Islands::of(shape);
            self.bytes += key.bytes();
            self.keys.push(key);
        }
    }

    /// Changes a key, and counts by how much.
    fn change(
        &mut self,
        key: usize,
        change: impl FnOnce(&mut Islands) -> Result<()>,
    ) -> Result<()> {
        let key = &mut self.keys[key];
        self.bytes -= key.bytes();
        let changed = change(key);
        self.bytes += key.bytes();
        changed
    }

    fn take(&mut self, emit: EmitTo) -> Vec<Islands> {
        let taken = emit.take_needed(&mut self.keys);
        self.bytes -= taken.iter().map(Islands::bytes).sum::<usize>();
        taken
    }
}

impl GroupsAccumulator for Keys {
    fn update_batch(
        &mut self,
        columns: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        self.reach(total_groups);
        let (times, values) = facts(columns)?;
        let counts = |row: usize| filter.is_none_or(|f| f.is_valid(row) && f.value(row));
        for (row, (at, group)) in times.into_iter().zip(groups).enumerate() {
            if let Some(at) = at.filter(|_| counts(row)) {
                self.change(*group, |key| key.fact(at, &values, row))?;
            }
        }
        Ok(())
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        groups: &[usize],
        total_groups: usize,
    ) -> Result<()> {
        self.reach(total_groups);
        let (islands, too_many) = stored(states)?;
        for (row, group) in groups.iter().enumerate() {
            self.change(*group, |key| key.stored(islands, too_many, row))?;
        }
        Ok(())
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let (islands, too_many) = self.shape.clone().states(&self.take(emit))?;
        Ok(vec![Arc::new(islands), Arc::new(too_many)])
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        self.shape.clone().answers(&self.take(emit))
    }

    /// The states of facts, each as if it had a key of its own.
    fn convert_to_state(
        &self,
        columns: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let mut each = Self::of(self.shape.clone());
        let rows: Vec<usize> = (0..columns[0].len()).collect();
        each.update_batch(columns, &rows, filter, rows.len())?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.bytes
    }
}
