//! `anabranch graph`: what is made from what, as the project and the catalogue have it.

use std::collections::BTreeSet;

use anabranch_shared::settings::{StepRuns, StepSettings, TopicSettings, ViewSettings};
use anabranch_shared::{Result, Role};
use serde::Serialize;

use crate::commands::printing::Printing;
use crate::output::human_duration;
use crate::project::context::Context;

/// How the graph is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Drawing {
    /// As a tree, for a terminal
    #[default]
    Tree,
    /// In the language of Mermaid, which GitHub and GitLab draw in Markdown
    Mermaid,
    /// In the language of Graphviz
    Dot,
}

/// What is drawn, and how.
#[derive(Debug, clap::Args)]
pub struct GraphArgs {
    /// How it is drawn
    #[arg(long = "as", value_enum, default_value_t, value_name = "DRAWING")]
    drawing: Drawing,
}

/// What something in the graph is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Source,
    Topic,
    Step,
    Reference,
    View,
    Generation,
    Export,
}

/// Something that is made, or that something is made from.
#[derive(Debug, Serialize)]
struct Node {
    kind: Kind,
    /// Its name: of a view or generation that which queries use.
    name: String,
    /// What is said of it, each in a few words.
    notes: Vec<String>,
    /// The place in the list of what it is made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<usize>,
    /// The references that a view joins its facts with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    joins: Vec<String>,
}

/// What is made from what; a node comes after what it is made from.
#[derive(Debug, Default, Serialize)]
struct Graph {
    nodes: Vec<Node>,
}

impl Graph {
    fn add(&mut self, kind: Kind, name: &str, notes: Vec<String>, from: Option<usize>) -> usize {
        self.nodes.push(Node {
            kind,
            name: name.to_owned(),
            notes,
            from,
            joins: Vec::new(),
        });
        self.nodes.len() - 1
    }

    /// Where the references were drawn that a view joins.
    fn joined<'a>(&'a self, view: &'a Node) -> impl Iterator<Item = usize> + 'a {
        view.joins.iter().filter_map(|name| {
            let is_it = |node: &Node| node.kind == Kind::Reference && node.name == *name;
            self.nodes.iter().position(is_it)
        })
    }

    /// A view with its generations and its export. `settings` are absent where the project lacks it.
    /// Where a view was drawn.
    fn view(&self, name: &str) -> Option<usize> {
        let is_it = |node: &Node| matches!(node.kind, Kind::View) && node.name == name;
        self.nodes.iter().position(is_it)
    }

    /// Where a topic was drawn.
    fn topic(&self, name: &str) -> Option<usize> {
        let is_it = |node: &Node| node.kind == Kind::Topic && node.name == name;
        self.nodes.iter().position(is_it)
    }

    fn add_view(
        &mut self,
        context: &Context,
        name: &str,
        settings: Option<&ViewSettings>,
        from: Option<usize>,
    ) {
        let entry = context.catalogue.current();
        let known = entry.views.get(name);
        let live = known.and_then(|v| v.live.as_ref());
        let mut notes = vec![live.map_or_else(
            || "never built".to_owned(),
            |live| format!("g{}", live.generation),
        )];
        if !context.project.views.iter().any(|v| v.name == name) {
            notes.push("not in the project".to_owned());
        }
        notes.extend(settings.into_iter().flat_map(schedule));
        let mut joins = Vec::new();
        match settings.map(|s| context.compile(s)) {
            Some(Err(e)) => notes.push(format!("can't be used: {}", first_line(&e.to_string()))),
            Some(Ok(view)) => joins = view.references().iter().map(|r| r.name.clone()).collect(),
            None => {}
        }
        if !joins.is_empty() {
            notes.push(format!("joins {}", joins.join(", ")));
        }
        let view = self.add(Kind::View, name, notes, from);
        self.nodes[view].joins = joins;
        for (role, made) in known.into_iter().flat_map(|v| v.roles()) {
            if role != Role::Live {
                let notes = vec![format!("g{}", made.generation)];
                self.add(Kind::Generation, &role.relation(name), notes, Some(view));
            }
        }
        if settings.is_some_and(|s| s.export) {
            self.add(
                Kind::Export,
                &format!("export of {name}"),
                vec![],
                Some(view),
            );
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// When a view's jobs run.
fn schedule(settings: &ViewSettings) -> Vec<String> {
    let every = |every| format!("refresh every {}", human_duration(every));
    let at = |job: &str, cron: &Option<String>| {
        let cron = cron.as_ref()?;
        Some(format!("{job} at `{cron}` {}", settings.timezone))
    };
    let jobs = [
        settings.refresh_every.map(every),
        at("rebuild", &settings.rebuild_cron),
        at("verify", &settings.verify_cron),
    ];
    jobs.into_iter().flatten().collect()
}

/// What is said of a step.
fn step_notes(step: &StepSettings) -> Vec<String> {
    match &step.runs {
        StepRuns::Sql(_) => vec!["SQL".to_owned()],
        StepRuns::Program(program) => {
            let mut notes = vec![program.command.join(" ")];
            if program.processes > 1 {
                notes.push(format!("{} processes", program.processes));
            }
            notes
        }
    }
}

/// What is said of a topic.
fn topic_notes(topic: &TopicSettings) -> Vec<String> {
    let mut notes = vec![format!("by {}", topic.event_time)];
    if let Some(dedup) = &topic.dedup {
        notes.push(format!(
            "once per {} within {}",
            dedup.key,
            human_duration(dedup.window)
        ));
    }
    if let Some(age) = topic.retention.as_ref().and_then(|r| r.age) {
        notes.push(format!("kept for {}", human_duration(age)));
    }
    notes
}

/// The graph of a project and of what runs.
fn graph(context: &Context) -> Graph {
    let mut graph = Graph::default();
    let (project, entry) = (&context.project, context.catalogue.current());
    let views: BTreeSet<&str> = project
        .views
        .iter()
        .map(|v| v.name.as_str())
        .chain(entry.views.keys().map(String::as_str))
        .collect();
    let topics: BTreeSet<&str> = project
        .topics
        .iter()
        .map(|t| t.name.as_str())
        .chain(entry.topics.keys().map(String::as_str))
        .collect();
    let run = context.views_that_run();
    let settings_of = |view: &str| run.iter().find(|v| v.name == view);
    let read_by = |view: &str| {
        let read = settings_of(view).and_then(|settings| context.topic_of(settings));
        // Of a view that names no topic now, and of one that the project lacks: what it read.
        let live = || entry.views.get(view)?.live.as_ref();
        read.or_else(|| Some(live()?.definition.topic.name.clone()))
    };
    let mut drawn: BTreeSet<&str> = BTreeSet::new();
    let mut by_depth: Vec<&str> = views.iter().copied().collect();
    by_depth.sort_by_key(|view| context.depth_of(view));
    let mut topics: Vec<&str> = topics.into_iter().collect();
    // What a step makes facts of comes before what these are of.
    topics.sort_by_key(|topic| project.steps_up_to(topic).len());
    for name in topics {
        let settings = project.topics.iter().find(|t| t.name == name);
        let kafka = settings.and_then(|t| t.kafka.as_ref());
        let source = kafka.map(|kafka| {
            let named = format!("Kafka {}", kafka.topic);
            graph.add(Kind::Source, &named, vec![kafka.brokers.clone()], None)
        });
        let step = project.step_to(name);
        let source = source.or_else(|| {
            let step = step?;
            let from = graph.topic(&step.from);
            Some(graph.add(Kind::Step, &step.name, step_notes(step), from))
        });
        let absent = || vec!["not in the project".to_owned()];
        let notes = settings.map_or_else(absent, topic_notes);
        let topic = graph.add(Kind::Topic, name, notes, source);
        for reference in project.references.iter().filter(|r| r.topic == name) {
            let key = reference.key.join(", ");
            let notes = vec![format!("the latest {} of each {key}", reference.latest_by)];
            graph.add(Kind::Reference, &reference.name, notes, Some(topic));
        }
        for view in &by_depth {
            if read_by(view).as_deref() == Some(name) {
                drawn.insert(view);
                let parent = context
                    .parent_of(view)
                    .and_then(|parent| graph.view(parent));
                let from = parent.unwrap_or(topic);
                graph.add_view(context, view, settings_of(view), Some(from));
            }
        }
    }
    for view in views.iter().filter(|view| !drawn.contains(*view)) {
        graph.add_view(context, view, settings_of(view), None);
    }
    graph
}

/// The graph as a tree.
fn tree(graph: &Graph) -> String {
    fn draw(graph: &Graph, at: usize, first: &str, rest: &str, text: &mut String) {
        let node = &graph.nodes[at];
        let kind = match node.kind {
            Kind::Topic => "topic ",
            Kind::Step => "step ",
            Kind::Reference => "reference ",
            Kind::View => "view ",
            Kind::Source | Kind::Generation | Kind::Export => "",
        };
        let mut line = format!("{first}{kind}{}", node.name);
        if !node.notes.is_empty() {
            line += &format!("  ({})", node.notes.join(", "));
        }
        *text += &format!("{line}\n");
        let places = 0..graph.nodes.len();
        let below: Vec<usize> = places
            .filter(|&n| graph.nodes[n].from == Some(at))
            .collect();
        for (index, &of) in below.iter().enumerate() {
            let (branch, space) = match index + 1 == below.len() {
                true => ("└─ ", "   "),
                false => ("├─ ", "│  "),
            };
            let (first, rest) = (format!("{rest}{branch}"), format!("{rest}{space}"));
            draw(graph, of, &first, &rest, text);
        }
    }
    let mut text = String::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        if node.from.is_none() {
            draw(graph, at, "", "", &mut text);
        }
    }
    if text.is_empty() {
        text += "nothing: the project has no topic\n";
    }
    text
}

/// A text in quotes, as Mermaid takes it.
fn mermaid_label(node: &Node) -> String {
    let text = [vec![node.name.clone()], node.notes.clone()].concat();
    let escaped = text.join("\n");
    let escaped = escaped
        .replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('`', "#96;");
    escaped.replace('\n', "<br>")
}

fn mermaid(graph: &Graph) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for (at, node) in graph.nodes.iter().enumerate() {
        let (open, close) = match node.kind {
            Kind::Source => ("([", "])"),
            Kind::Topic => ("[(", ")]"),
            Kind::Step => ("[[", "]]"),
            Kind::Reference => ("{{", "}}"),
            Kind::View | Kind::Generation => ("[", "]"),
            Kind::Export => ("[/", "/]"),
        };
        text += &format!("  n{at}{open}\"{}\"{close}\n", mermaid_label(node));
    }
    for (at, node) in graph.nodes.iter().enumerate() {
        if let Some(from) = node.from {
            let arrow = if node.kind == Kind::Generation {
                "-.-"
            } else {
                "-->"
            };
            text += &format!("  n{from} {arrow} n{at}\n");
        }
        for reference in graph.joined(node) {
            text += &format!("  n{reference} --> n{at}\n");
        }
    }
    text
}

fn dot(graph: &Graph) -> String {
    let mut text = "digraph anabranch {\n  rankdir=LR;\n".to_owned();
    for (at, node) in graph.nodes.iter().enumerate() {
        let shape = match node.kind {
            Kind::Source => "oval",
            Kind::Topic => "cylinder",
            Kind::Step => "component",
            Kind::Reference => "hexagon",
            Kind::View | Kind::Generation => "box",
            Kind::Export => "folder",
        };
        let label = [vec![node.name.clone()], node.notes.clone()].concat();
        let label = label.join("\n").replace('\\', "\\\\").replace('"', "\\\"");
        let label = label.replace('\n', "\\n");
        text += &format!("  n{at} [shape={shape}, label=\"{label}\"];\n");
    }
    for (at, node) in graph.nodes.iter().enumerate() {
        if let Some(from) = node.from {
            let style = match node.kind {
                Kind::Generation => " [style=dashed, dir=none]",
                _ => "",
            };
            text += &format!("  n{from} -> n{at}{style};\n");
        }
        for reference in graph.joined(node) {
            text += &format!("  n{reference} -> n{at};\n");
        }
    }
    text + "}\n"
}

/// Draws what is made from what.
pub(crate) fn run(args: &GraphArgs, context: &Context, printing: Printing) -> Result<u8> {
    let graph = graph(context);
    match args.drawing {
        Drawing::Tree => printing.either(|| tree(&graph), &graph)?,
        Drawing::Mermaid => printing.text(&mermaid(&graph))?,
        Drawing::Dot => printing.text(&dot(&graph))?,
    }
    Ok(0)
}
