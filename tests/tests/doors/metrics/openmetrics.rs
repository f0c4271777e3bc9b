//! Reads OpenMetrics text, and refuses what the format does not allow: names without a type, families
//! that are torn apart, rows twice, histograms whose counts do not fit.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};

/// Labels by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) value: f64,
}

/// One metric with all its rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) unit: Option<String>,
    pub(crate) help: Option<String>,
    pub(crate) samples: Vec<Sample>,
}

/// All of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Exposition {
    pub(crate) families: BTreeMap<String, Family>,
}

/// What the names of samples of a type end with.
fn endings(kind: &str) -> anyhow::Result<&'static [&'static str]> {
    Ok(match kind {
        "gauge" => &[""],
        "counter" => &["_total"],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_sum", "_count"],
        other => anyhow::bail!("the type `{other}`"),
    })
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    name.starts_with(|c: char| !c.is_ascii_digit()) && !name.is_empty() && name.chars().all(allowed)
}

/// The labels at the beginning of a text that follow `{`, and what follows `}`.
fn labels(mut rest: &str) -> anyhow::Result<(Labels, &str)> {
    let mut found = Labels::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((found, after));
        }
        if !found.is_empty() {
            rest = rest.strip_prefix(',').context("no comma between labels")?;
        }
        let (name, after) = rest.split_once("=\"").context("a label without a value")?;
        ensure!(is_name(name), "the label `{name}`");
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            let (at, c) = chars.next().context("a value that does not end")?;
            match c {
                '"' => break at + 1,
                '\\' => match chars.next().context("a value that does not end")?.1 {
                    'n' => value.push('\n'),
                    c @ ('"' | '\\') => value.push(c),
                    c => anyhow::bail!("`\\{c}` in a value"),
                },
                c => value.push(c),
            }
        };
        let twice = found.insert(name.to_owned(), value);
        ensure!(twice.is_none(), "the label `{name}` twice");
        rest = &after[end..];
    }
}

fn sample(line: &str) -> anyhow::Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, rest) = line.split_at(end);
    ensure!(is_name(name), "the name `{name}`");
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::new(), rest),
    };
    let value = rest
        .strip_prefix(' ')
        .context("no space before the value")?;
    ensure!(!value.contains(' '), "a time, or an exemplar");
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value: value
            .parse()
            .with_context(|| format!("the value `{value}`"))?,
    })
}

impl Family {
    /// Takes what a line says of the family besides its values.
    fn describe(&mut self, name: &str, what: &str, said: &str) -> anyhow::Result<()> {
        ensure!(self.samples.is_empty(), "after its values");
        match what {
            "TYPE" => {
                ensure!(self.kind.is_empty(), "a second type");
                endings(said)?;
                self.kind = said.to_owned();
            }
            "HELP" => {
                let twice = self.help.replace(said.to_owned());
                ensure!(twice.is_none(), "a second help");
            }
            "UNIT" => {
                ensure!(name.ends_with(&format!("_{said}")), "the unit `{said}`");
                let twice = self.unit.replace(said.to_owned());
                ensure!(twice.is_none(), "a second unit");
            }
            other => anyhow::bail!("`# {other}`"),
        }
        Ok(())
    }

    fn check(&self, name: &str) -> anyhow::Result<()> {
        ensure!(!self.kind.is_empty(), "no type");
        let help = self.help.as_deref().unwrap_or_default();
        ensure!(help.len() > 5 && help.ends_with('.'), "the help `{help}`");
        let mut seen = BTreeSet::new();
        for sample in &self.samples {
            let ends = endings(&self.kind)?;
            let is_its = |end: &&str| sample.name == format!("{name}{end}");
            ensure!(
                ends.iter().any(is_its),
                "`{}` is none of its names",
                sample.name
            );
            ensure!(
                seen.insert((&sample.name, &sample.labels)),
                "{sample:?} twice"
            );
            let is_count = self.kind != "gauge";
            ensure!(
                sample.value.is_finite() && (!is_count || sample.value >= 0.0),
                "{sample:?}"
            );
        }
        match self.kind.as_str() {
            "histogram" => self.check_histograms(name),
            _ => Ok(()),
        }
    }

    fn check_histograms(&self, name: &str) -> anyhow::Result<()> {
        let mut by_labels: BTreeMap<Labels, Vec<&Sample>> = BTreeMap::new();
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            labels.remove("le");
            by_labels.entry(labels).or_default().push(sample);
        }
        for (labels, samples) in by_labels {
            let one = |end: &str| -> anyhow::Result<f64> {
                let name = format!("{name}{end}");
                let found: Vec<_> = samples.iter().filter(|s| s.name == name).collect();
                ensure!(
                    found.len() == 1,
                    "{labels:?}: `{end}` {} times",
                    found.len()
                );
                Ok(found[0].value)
            };
            let (sum, count) = (one("_sum")?, one("_count")?);
            let (mut last, mut counted) = (f64::NEG_INFINITY, 0.0);
            for bucket in samples.iter().filter(|s| s.name.ends_with("_bucket")) {
                let le = bucket.labels.get("le").context("a bucket without `le`")?;
                let end: f64 = match le.as_str() {
                    "+Inf" => f64::INFINITY,
                    le => le.parse().with_context(|| format!("le=`{le}`"))?,
                };
                ensure!(end > last, "{labels:?}: le {end} after {last}");
                ensure!(
                    bucket.value >= counted,
                    "{labels:?}: {} up to {end}, {counted} up to {last}",
                    bucket.value
                );
                (last, counted) = (end, bucket.value);
            }
            ensure!(last == f64::INFINITY, "{labels:?}: no bucket `+Inf`");
            ensure!(
                counted == count,
                "{labels:?}: {counted} in buckets, {count} in all"
            );
            ensure!(count > 0.0 || sum == 0.0, "{labels:?}: none come to {sum}");
        }
        Ok(())
    }
}

impl Exposition {
    /// Reads a text.
    pub(crate) fn read(text: &str) -> anyhow::Result<Self> {
        let body = text
            .strip_suffix("# EOF\n")
            .context("no `# EOF` at the end")?;
        ensure!(
            body.is_empty() || body.ends_with('\n'),
            "a line without an end"
        );
        let mut read = Self::default();
        let mut at = String::new();
        for line in body.lines() {
            read.line(line, &mut at)
                .with_context(|| format!("in `{line}`"))?;
        }
        for (name, family) in &read.families {
            family.check(name).with_context(|| format!("`{name}`"))?;
        }
        Ok(read)
    }

    /// Takes a line; `at` is the family that the line before was of.
    fn line(&mut self, line: &str, at: &mut String) -> anyhow::Result<()> {
        if let Some(rest) = line.strip_prefix("# ") {
            let (what, rest) = rest.split_once(' ').context("half a line")?;
            let (name, said) = rest.split_once(' ').context("half a line")?;
            ensure!(is_name(name), "the name `{name}`");
            if name != at {
                let is_new = !self.families.contains_key(name);
                ensure!(is_new, "`{name}` is told of in two places");
                name.clone_into(at);
            }
            let family = self.families.entry(name.to_owned()).or_default();
            return family.describe(name, what, said);
        }
        let sample = sample(line)?;
        let family = self.families.get_mut(at).context("no type before it")?;
        ensure!(!family.kind.is_empty(), "no type before it");
        ensure!(sample.name.starts_with(at.as_str()), "it is within `{at}`");
        family.samples.push(sample);
        Ok(())
    }

    /// The value of a row, by the name and the labels that stand there.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter();
        let labels: Labels = labels
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut samples = self.families.values().flat_map(|f| &f.samples);
        let found = samples.find(|s| s.name == name && s.labels == labels)?;
        Some(found.value)
    }
}

#[test]
fn what_the_format_forbids_is_refused() {
    let good = "# HELP a_seconds A time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
        a_seconds_sum{x=\"1\"} 3.5\na_seconds_count{x=\"1\"} 2\n\
        a_seconds_bucket{le=\"1.0\",x=\"1\"} 1\na_seconds_bucket{le=\"+Inf\",x=\"1\"} 2\n\
        # HELP b An odd one.\n# TYPE b gauge\nb{y=\"a\\\"\\\\\\n,}\"} -1\n# HELP c Seen so far.\n# TYPE c counter\nc_total 7\n# EOF\n";
    let read = Exposition::read(good).unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(read.value("b", &[("y", "a\"\\\n,}")]), Some(-1.0));
    assert_eq!(read.value("a_seconds_count", &[("x", "1")]), Some(2.0));
    for (part, instead) in [
        ("# EOF\n", ""),
        ("# EOF\n", "# EOF\nb 1\n# EOF\n"),
        ("# TYPE b gauge\n", ""),
        ("# TYPE b gauge\n", "# TYPE b gauge\n# TYPE b gauge\n"),
        (
            "# HELP b An odd one.\n",
            "# HELP a_seconds Again.\n# HELP b An odd one.\n",
        ),
        ("# UNIT a_seconds seconds", "# UNIT a_seconds bytes"),
        ("c_total 7", "c 7"),
        ("c_total 7", "c_total -7"),
        ("c_total 7", "c_total 7\nc_total 8"),
        ("c_total 7", "c_total seven"),
        ("c_total 7", "c_total{x=\"1\",x=\"2\"} 7"),
        ("c_total 7", "c_total{x=\"\\t\"} 7"),
        ("c_total 7", "c_total{x=\"1} 7"),
        ("le=\"1.0\",x=\"1\"} 1", "le=\"1.0\",x=\"1\"} 3"),
        ("a_seconds_count{x=\"1\"} 2", "a_seconds_count{x=\"1\"} 3"),
        ("a_seconds_count{x=\"1\"} 2\n", ""),
        ("a_seconds_bucket{le=\"+Inf\",x=\"1\"} 2\n", ""),
        ("le=\"+Inf\"", "le=\"0.5\""),
    ] {
        let bad = good.replacen(part, instead, 1);
        assert_ne!(bad, good);
        assert!(Exposition::read(&bad).is_err(), "{part} as {instead}");
    }
}
