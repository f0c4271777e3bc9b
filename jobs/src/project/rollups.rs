//! Views over views as a project has them: each with the view that it reads, and the SQL over a topic that
//! it equals.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anabranch_shared::settings::{Project, ViewSettings};
use anabranch_shared::view::{relations_read, rolled_up};
use anabranch_shared::{Error, Result};

use crate::project::context::Context;

/// A view over a view.
#[derive(Clone, Debug)]
struct RollUp {
    parent: String,
    /// Over the topic, or why it can't be one.
    sql: std::result::Result<String, String>,
}

/// The views of a project that read a view.
#[derive(Debug, Default)]
pub(super) struct RollUps(BTreeMap<String, RollUp>);

impl RollUps {
    pub(super) fn of(project: &Project) -> Self {
        let names: HashSet<&str> = project.views.iter().map(|v| v.name.as_str()).collect();
        let mut all = Self::default();
        for view in &project.views {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let mut words = view.sql_text.split(|c| !is_word(c));
            // Most read a topic, which is told without planning them.
            if words.any(|word| word != view.name && names.contains(word.to_lowercase().as_str())) {
                // Why one can't be used is kept, and told by who asks for it.
                drop(all.add(project, view, &mut vec![view.name.as_str()]));
            }
        }
        all
    }

    /// The SQL of a view over its topic.
    fn add<'p>(
        &mut self,
        project: &'p Project,
        view: &'p ViewSettings,
        path: &mut Vec<&'p str>,
    ) -> std::result::Result<String, String> {
        if let Some(known) = self.0.get(&view.name) {
            return known.sql.clone();
        }
        let text = || Ok(view.sql_text.clone());
        // What can't be read is told when it is planned.
        let Ok(relations) = relations_read(&view.sql_text) else {
            return text();
        };
        let of_name = |name: &String| project.views.iter().find(|v| v.name == *name);
        let Some(parent) = relations.iter().find_map(of_name) else {
            return text();
        };
        let is_reference = |name: &String| project.references.iter().any(|r| r.name == *name);
        let read = relations.iter().filter(|name| !is_reference(name)).count();
        let cycle = path.iter().position(|name| *name == parent.name);
        let sql = if let Some(at) = cycle {
            let names = [&path[at..], &[parent.name.as_str()]].concat();
            Err(format!("views read each other: {}", names.join(" → ")))
        } else if read > 1 {
            Err(format!(
                "reads {}: a view over a view reads that one alone; join them in a query",
                relations.join(" and ")
            ))
        } else {
            path.push(&parent.name);
            let below = self.add(project, parent, path);
            path.pop();
            match below {
                Err(why) => Err(format!(
                    "reads `{}`, which can't be used: {why}",
                    parent.name
                )),
                Ok(below) => {
                    let parent = (parent.name.as_str(), below.as_str());
                    rolled_up(&view.name, &view.sql_text, parent).map_err(|e| match e {
                        Error::View { reason, .. } => reason,
                        e => e.to_string(),
                    })
                }
            }
        };
        let roll_up = RollUp {
            parent: parent.name.clone(),
            sql: sql.clone(),
        };
        self.0.insert(view.name.clone(), roll_up);
        sql
    }
}

impl Context {
    /// The same storage with a project that was read anew.
    pub(crate) fn with_project(&self, project: Project) -> Self {
        Self {
            rollups: Arc::new(RollUps::of(&project)),
            project: Arc::new(project),
            ..self.clone()
        }
    }

    /// The view that a view of the project reads; none where it reads a topic.
    pub fn parent_of(&self, view: &str) -> Option<&str> {
        self.rollups.0.get(view).map(|r| r.parent.as_str())
    }

    /// The views between a view and its topic, the nearest first.
    pub(crate) fn parents_of(&self, view: &str) -> Vec<&str> {
        let views = std::iter::successors(self.parent_of(view), |name| self.parent_of(name));
        // Views that read each other have no end.
        views.take(self.rollups.0.len()).collect()
    }

    /// How many views stand between a view and its topic.
    pub(crate) fn depth_of(&self, view: &str) -> usize {
        self.parents_of(view).len()
    }

    /// The SQL of a view over the topic that it reads, be it through other views.
    ///
    /// # Errors
    /// `View` for one over a view that can't be rolled up.
    pub fn sql_of<'a>(&'a self, settings: &'a ViewSettings) -> Result<Cow<'a, str>> {
        match self.rollups.0.get(&settings.name).map(|r| &r.sql) {
            None => Ok(Cow::Borrowed(&settings.sql_text)),
            Some(Ok(sql)) => Ok(Cow::Borrowed(sql)),
            Some(Err(why)) => {
                let e = Error::view(&settings.name, why.clone());
                Err(self.in_file(settings, e))
            }
        }
    }
}
