//! The views that a process has planned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anabranch_shared::settings::ViewSettings;
use anabranch_shared::view::{Definition, View};
use anabranch_shared::{Reference, Topic};
use parking_lot::Mutex;

/// The views that this process has planned: to plan hundreds takes long, and every command and every
/// look at the project asks for them. Of each name one is kept.
#[derive(Debug, Default)]
pub struct PlannedViews {
    by_text: Mutex<BTreeMap<String, PlannedText>>,
    by_definition: Mutex<BTreeMap<String, (Definition, Arc<View>)>>,
    /// The formats of states that this version makes, and the settings that it plans under, as far
    /// as views were planned.
    made: Mutex<BTreeSet<Made>>,
}

/// The settings that a view was planned under, and the format of its states.
type Made = (Vec<(String, String)>, String);

/// A view of the project, and what it was planned of.
#[derive(Debug)]
struct PlannedText {
    text: String,
    read: Read,
    view: Arc<View>,
}

/// What a view may read: its topic, and references.
pub(super) type Read = (Topic, Vec<Reference>);

impl PlannedViews {
    /// How many views of the project were planned.
    pub fn count(&self) -> usize {
        self.by_text.lock().len()
    }

    pub(super) fn of_text(&self, settings: &ViewSettings, read: &Read) -> Option<Arc<View>> {
        let known = self.by_text.lock();
        let planned = known.get(&settings.name)?;
        let same = planned.text == settings.sql_text && planned.read == *read;
        same.then(|| planned.view.clone())
    }

    pub(super) fn note_text(&self, settings: &ViewSettings, read: Read, view: &Arc<View>) {
        let own = view.definition();
        let made = (own.settings.clone(), view.makes_format().to_owned());
        self.made.lock().insert(made);
        let (text, view) = (settings.sql_text.clone(), view.clone());
        let planned = PlannedText { text, read, view };
        self.by_text.lock().insert(settings.name.clone(), planned);
    }

    /// Whether this version surely plans a definition as it was planned: another of the same functions
    /// was.
    pub(super) fn makes(&self, definition: &Definition) -> bool {
        let made = (definition.settings.clone(), definition.state_format.clone());
        self.made.lock().contains(&made)
    }

    pub(super) fn of_definition(&self, name: &str, definition: &Definition) -> Option<Arc<View>> {
        let known = self.by_definition.lock();
        let (of, view) = known.get(name)?;
        (of == definition).then(|| view.clone())
    }

    pub(super) fn note_definition(&self, name: &str, definition: &Definition, view: &Arc<View>) {
        let planned = (definition.clone(), view.clone());
        self.by_definition.lock().insert(name.to_owned(), planned);
    }
}
