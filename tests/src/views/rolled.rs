//! Random queries that combine the columns of a random view, and the views over the facts that they
//! must equal.

use rand::Rng;
use rand::rngs::SmallRng;

use super::{group_by, select};

/// What of a random view's SQL is needed to say what its columns combined are.
#[derive(Clone, Debug)]
pub struct RolledUp {
    /// Its first key.
    pub key: String,
    /// Its aggregates, each with whether it counts only facts of which `b` is true.
    pub aggregates: Vec<(&'static str, bool)>,
    /// Its WHERE clause.
    pub filter: String,
}

/// A query with `combine`.
#[derive(Clone, Debug)]
pub struct Combined {
    /// The query over the view.
    pub over_view: String,
    /// A view over the facts with the same answer.
    pub over_facts: String,
    /// What it covers.
    pub covers: String,
}

impl RolledUp {
    /// A random query over the view of a name.
    pub fn combined(&self, rng: &mut SmallRng, view: &str) -> Combined {
        let condition = ["k0 IS NULL", "k0 IS NOT NULL", "false"][rng.random_range(0..3)];
        let (mut where_, mut inside) = (None, None);
        let (filter, grouped) = (rng.random_range(0..4), rng.random_bool(0.6));
        let covers = match filter {
            0 => {
                where_ = Some(condition);
                "with a filter on a key"
            }
            1 | 2 => {
                inside = Some(condition);
                "with FILTER on a key"
            }
            _ => "without a filter",
        };
        // A count of the view's rows beside it asks for one row a key.
        let beside = rng.random_bool(0.3);
        let covers = format!(
            "{covers}{}{}",
            if grouped { "" } else { ", global" },
            if beside { ", beside count(*)" } else { "" }
        );
        Combined {
            over_view: self.over_view(view, where_, inside, grouped, beside),
            over_facts: self.over_facts(where_, inside, grouped),
            covers,
        }
    }

    fn over_view(
        &self,
        view: &str,
        where_: Option<&str>,
        inside: Option<&str>,
        grouped: bool,
        beside: bool,
    ) -> String {
        let inside = inside.map_or(String::new(), |c| format!(" FILTER (WHERE {c})"));
        let combined = |i| format!("combine(a{i}){inside} AS a{i}");
        let mut columns: Vec<String> = (0..self.aggregates.len()).map(combined).collect();
        let group = match grouped {
            true => {
                columns.insert(0, "k0".into());
                " GROUP BY k0"
            }
            false => "",
        };
        if beside {
            columns.push("count(*) AS of_view".into());
        }
        let where_ = where_.map_or(String::new(), |c| format!(" WHERE {c}"));
        let query = format!("SELECT {} FROM {view}{where_}{group}", columns.join(", "));
        let named = |column: &String| column.rsplit(' ').next().unwrap_or_default().to_owned();
        let names: Vec<String> = columns.iter().map(named).collect();
        match beside {
            // Always true, and the engine doesn't know it.
            true => format!(
                "SELECT {} FROM ({query}) WHERE of_view >= 0",
                names[..names.len() - 1].join(", ")
            ),
            false => query,
        }
    }

    fn over_facts(&self, where_: Option<&str>, inside: Option<&str>, grouped: bool) -> String {
        let of_key = |condition: &str| condition.replace("k0", &format!("({})", self.key));
        let aggregate = |(i, (sql, filtered)): (usize, &(&str, bool))| {
            let own = filtered.then(|| "b".to_owned());
            let filters: Vec<String> = own.into_iter().chain(inside.map(of_key)).collect();
            match filters.is_empty() {
                true => format!("{sql} AS a{i}"),
                false => format!("{sql} FILTER (WHERE {}) AS a{i}", filters.join(" AND ")),
            }
        };
        let aggregates: Vec<String> = self.aggregates.iter().enumerate().map(aggregate).collect();
        let filter = match (self.filter.strip_prefix(" WHERE "), where_.map(of_key)) {
            (Some(own), Some(more)) => format!(" WHERE ({own}) AND {more}"),
            (Some(own), None) => format!(" WHERE {own}"),
            (None, Some(more)) => format!(" WHERE {more}"),
            (None, None) => String::new(),
        };
        let keys = [self.key.as_str()];
        let keys = if grouped { &keys[..] } else { &[] };
        select(keys, &aggregates, &filter) + &group_by(keys)
    }
}
