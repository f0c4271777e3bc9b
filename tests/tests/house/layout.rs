//! The layout of the code, read from its imports: rooms import in one direction, no circle.
//!
//! A room is a folder below a crate's `src` (or a file there). Within a room a module and the private
//! ones below it are one unit: what is private to a module is its own affair, and a module and those
//! below it may use each other. Units and rooms that import each other in a circle otherwise fail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The crates, in the order that data takes, with what of the project each may import.
const CRATES: [(&str, &[&str]); 5] = [
    ("shared", &[]),
    ("batch", &["shared"]),
    ("speed", &["shared"]),
    ("serving", &["shared"]),
    ("jobs", &["shared", "batch", "speed", "serving"]),
];

/// A module by its path in the crate: empty for `lib.rs`.
type Module = Vec<String>;

/// What imports what.
type Arrows = BTreeMap<Module, BTreeSet<Module>>;

/// One crate's code.
#[derive(Default)]
struct Code {
    modules: BTreeMap<Module, Source>,
}

/// What of a file counts here.
#[derive(Default)]
struct Source {
    /// Whether it begins by saying what it is.
    is_introduced: bool,
    /// Its modules, and whether each is private.
    private: BTreeMap<String, bool>,
    /// Those of its modules that are for tests alone.
    for_tests: BTreeSet<String>,
    /// Paths that it names.
    paths: Vec<Vec<String>>,
    /// Names that it gives to what others define.
    given: BTreeMap<String, Vec<String>>,
}

/// Names, `::` and punctuation of code, without comments, texts and what is for tests alone.
fn tokens(code: &str) -> Vec<String> {
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
    let mut tokens = Vec::new();
    let mut rest = code.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|c| *c != '\n').is_some() {},
            '"' => {
                while let Some(c) = rest.next() {
                    match c {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            ':' if rest.peek() == Some(&':') => {
                rest.next();
                tokens.push("::".to_owned());
            }
            c if c.is_alphanumeric() || c == '_' => {
                let mut name = c.to_string();
                while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                tokens.push(name);
            }
            c if c.is_whitespace() => {}
            c => tokens.push(c.to_string()),
        }
    }
    tokens
}

/// Whether a token is a name.
fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// The paths of a `use`, from its first token on, each with the name that it gives.
fn used(tokens: &[String], before: &[String], found: &mut Vec<(Vec<String>, String)>) -> usize {
    let (mut at, mut path) = (0, before.to_vec());
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|t| t != "}") {
                    at += used(&tokens[at..], &path, found);
                    if tokens.get(at).is_none_or(|t| t != ",") {
                        break;
                    }
                    at += 1;
                }
                return at + 1;
            }
            "as" => {
                let name = tokens.get(at + 1).cloned().unwrap_or_default();
                found.push((path, name));
                return at + 2;
            }
            "self" if !path.is_empty() => {}
            "::" => {}
            "," | ";" | "}" => break,
            name => path.push(name.to_owned()),
        }
        at += 1;
    }
    let name = path.last().cloned().unwrap_or_default();
    found.push((path, name));
    at
}

impl Source {
    fn read(code: &str) -> Self {
        let tokens = tokens(code);
        let mut source = Self {
            is_introduced: code.starts_with("//!"),
            ..Self::default()
        };
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let before = at.checked_sub(1).map_or("", |i| tokens[i].as_str());
            match token.as_str() {
                "mod" if tokens.get(at + 2).is_some_and(|t| t == ";") => {
                    let private = before != "pub" && before != ")";
                    source.private.insert(tokens[at + 1].clone(), private);
                    let attribute: Vec<&str> = tokens[..at].iter().map(String::as_str).collect();
                    if attribute.ends_with(&["#", "[", "cfg", "(", "test", ")", "]"]) {
                        source.for_tests.insert(tokens[at + 1].clone());
                    }
                    at += 3;
                }
                // At the beginning of an item, not where it names what a type captures.
                "use" if matches!(before, "" | ";" | "}" | "{" | "pub" | ")" | "]") => {
                    let mut found = Vec::new();
                    at += 1 + used(&tokens[at + 1..], &[], &mut found);
                    for (path, name) in found {
                        if before == "pub" || before == ")" {
                            source.given.insert(name, path.clone());
                        }
                        source.paths.push(path);
                    }
                }
                name if is_name(name) && before != "::" => {
                    let mut path = vec![name.to_owned()];
                    while tokens.get(at + 1).is_some_and(|t| t == "::")
                        && tokens.get(at + 2).is_some_and(|t| is_name(t))
                    {
                        path.push(tokens[at + 2].clone());
                        at += 2;
                    }
                    if path.len() > 1 {
                        source.paths.push(path);
                    }
                    at += 1;
                }
                _ => at += 1,
            }
        }
        source
    }
}

impl Code {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut code = Self::default();
        code.add(folder, &[])?;
        Ok(code)
    }

    fn add(&mut self, folder: &Path, module: &[String]) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|n| n.to_str());
            let name = name.unwrap_or_default().to_owned();
            let module = match name.as_str() {
                "lib" => Vec::new(),
                _ => [module, &[name]].concat(),
            };
            if path.is_dir() {
                self.add(&path, &module)?;
            } else if path.extension().is_some_and(|e| e == "rs") {
                let source = Source::read(&std::fs::read_to_string(&path)?);
                self.modules.insert(module, source);
            }
        }
        Ok(())
    }

    /// Whether a module is for tests alone.
    fn is_for_tests(&self, module: &[String]) -> bool {
        // What tests of other crates use too.
        let names = ["testing", "every_function"];
        (0..module.len()).any(|depth| {
            let above = self.modules.get(&module[..depth]);
            above.is_some_and(|s| s.for_tests.contains(&module[depth]))
                || names.contains(&module[depth].as_str())
        })
    }

    /// The module that defines what a path names, as seen from a module.
    fn defining(&self, from: &[String], path: &[String], steps: usize) -> Option<Module> {
        let mut rest = path;
        let mut at = match path.first()?.as_str() {
            "crate" => {
                rest = &rest[1..];
                Vec::new()
            }
            "self" => {
                rest = &rest[1..];
                from.to_vec()
            }
            "super" => {
                let mut at = from;
                while rest.first().is_some_and(|p| p == "super") {
                    (at, rest) = (&at[..at.len().saturating_sub(1)], &rest[1..]);
                }
                at.to_vec()
            }
            child => {
                let below = [from, &[child.to_owned()]].concat();
                self.modules.get(&below)?;
                from.to_vec()
            }
        };
        while let Some(next) = rest.first() {
            let below = [at.as_slice(), std::slice::from_ref(next)].concat();
            if !self.modules.contains_key(&below) {
                break;
            }
            (at, rest) = (below, &rest[1..]);
        }
        let source = self.modules.get(&at)?;
        if let Some((name, path)) = rest.first().and_then(|n| source.given.get_key_value(n))
            && steps > 0
        {
            let path = [path.as_slice(), &rest[1..]].concat();
            let own = path.last().is_some_and(|last| last == name) && path.len() == 1;
            if !own && let Some(defining) = self.defining(&at, &path, steps - 1) {
                return Some(defining);
            }
        }
        Some(at)
    }

    /// The unit of a module: the first on its path that is private to the one above, or itself. What
    /// lies below a room's own file is the room's where it is private.
    fn unit(&self, module: &[String]) -> Module {
        for depth in 1..module.len() {
            let above = self.modules.get(&module[..depth]);
            if above.is_some_and(|s| s.private.get(&module[depth]) == Some(&true)) {
                return module[..depth].to_vec();
            }
        }
        module.to_vec()
    }

    /// Which units import which.
    fn arrows(&self) -> Arrows {
        let mut arrows = Arrows::new();
        for (module, source) in &self.modules {
            if self.is_for_tests(module) || module.is_empty() {
                continue;
            }
            let from = self.unit(module);
            for path in &source.paths {
                let Some(to) = self.defining(module, path, 16) else {
                    continue;
                };
                let to = self.unit(&to);
                let below = to.starts_with(&from) || from.starts_with(&to);
                if !below && !to.is_empty() && !self.is_for_tests(&to) {
                    arrows.entry(from.clone()).or_default().insert(to);
                }
            }
        }
        arrows
    }
}

/// A circle of arrows, where there is one.
fn circle(arrows: &Arrows) -> Option<Vec<String>> {
    fn walk<'a>(
        at: &'a Module,
        arrows: &'a Arrows,
        path: &mut Vec<&'a Module>,
        done: &mut BTreeSet<&'a Module>,
    ) -> bool {
        if let Some(begin) = path.iter().position(|m| *m == at) {
            path.drain(..begin);
            return true;
        }
        if done.contains(at) {
            return false;
        }
        path.push(at);
        for to in arrows.get(at).into_iter().flatten() {
            if walk(to, arrows, path, done) {
                return true;
            }
        }
        path.pop();
        done.insert(at);
        false
    }
    let (mut path, mut done) = (Vec::new(), BTreeSet::new());
    let found = arrows.keys().any(|m| walk(m, arrows, &mut path, &mut done));
    found.then(|| path.iter().map(|m| m.join("/")).collect())
}

/// The arrows between rooms.
fn rooms(arrows: &Arrows) -> Arrows {
    let mut rooms = Arrows::new();
    for (from, tos) in arrows {
        for to in tos.iter().filter(|to| to[0] != from[0]) {
            let room = rooms.entry(from[..1].to_vec()).or_default();
            room.insert(to[..1].to_vec());
        }
    }
    rooms
}

#[test]
fn rooms_import_in_one_direction() -> anyhow::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (name, known) in CRATES {
        let code = Code::read(&here.join(name).join("src"))?;
        let arrows = code.arrows();
        anyhow::ensure!(!arrows.is_empty(), "`{name}`: no import was read");
        for (kind, arrows) in [("rooms", rooms(&arrows)), ("files", arrows)] {
            if let Some(circle) = circle(&arrows) {
                anyhow::bail!("`{name}`: {kind} import each other: {}", circle.join(" → "));
            }
        }
        for (module, source) in &code.modules {
            let file = module.join("/");
            anyhow::ensure!(source.is_introduced, "`{name}`: `{file}` has no `//!`");
            for path in &source.paths {
                let other = path[0].strip_prefix("anabranch_");
                let other = other.filter(|o| CRATES.iter().any(|(name, _)| name == o));
                let may = other.is_none_or(|o| known.contains(&o) || module == &["main"]);
                anyhow::ensure!(may, "`{name}`: `{file}` imports {}", path.join("::"));
                let commands = path[0] == "crate" && path.get(1).is_some_and(|p| p == "commands");
                let inside = module
                    .first()
                    .is_some_and(|m| m == "commands" || m == "main");
                anyhow::ensure!(
                    !commands || inside || code.is_for_tests(module),
                    "`{name}`: `{file}` imports {}: commands are for `main.rs` alone",
                    path.join("::")
                );
            }
        }
    }
    Ok(())
}

#[test]
fn circles_are_found() {
    let read = |files: &[(&str, &str)]| {
        let module = |path: &str| -> Module {
            let parts = path.split('/').filter(|p| !p.is_empty());
            parts.map(str::to_owned).collect()
        };
        let files = files.iter();
        Code {
            modules: files.map(|(m, c)| (module(m), Source::read(c))).collect(),
        }
    };
    let straight = [
        ("", "pub use b::B; mod a; mod b;"),
        ("a", "use crate::{B, b::Other}; // use crate::a::A;"),
        ("b", "pub struct B; const TEXT: &str = \"crate::a::A\";"),
    ];
    assert_eq!(circle(&read(&straight).arrows()), None);
    // One through a name that the crate gives, one that a path in the code makes.
    let mut round = straight;
    round[2].1 = "pub struct B; fn f() { crate::a::g() }";
    let found = circle(&read(&round).arrows());
    assert_eq!(found, Some(vec!["a".to_owned(), "b".to_owned()]));
    // What is private to a module is one with it, what is not is a file of its own beside others.
    let below = |declared| {
        [
            ("", "mod a;"),
            ("a", declared),
            ("a/x", "use super::A; pub struct X;"),
        ]
    };
    assert_eq!(
        circle(&read(&below("mod x; use x::X; pub struct A;")).arrows()),
        None
    );
    let mut beside = Vec::from(below("pub mod x; pub mod y;"));
    beside[2].1 = "use super::y::Y; pub struct X;";
    beside.push(("a/y", "pub struct Y; fn f(x: super::x::X) {}"));
    assert!(circle(&read(&beside).arrows()).is_some());
}
