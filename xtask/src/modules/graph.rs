//! The files of a crate and the imports between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;

use super::circle::{Circle, Import};
use super::file::{ModuleFile, PathSegments};
use crate::command::Failure;

/// A chain of re-exports longer than this is a circle of its own, which the compiler rejects.
const MAX_REEXPORTS: usize = 16;

/// A module's path from the root of the crate: `["memory", "pool"]`; empty for the root.
type ModulePath = Vec<String>;

/// The modules of a crate that have a file of their own, and which imports from which.
pub struct Graph {
    modules: BTreeMap<ModulePath, ModuleFile>,
    /// The file of each module, relative to the folder of the root.
    files: BTreeMap<ModulePath, String>,
    /// For each pair of files, the first path that imports.
    imports: BTreeMap<(ModulePath, ModulePath), PathSegments>,
}

/// What a path leads to.
enum Target {
    /// A module that has a file.
    Module(ModulePath),
    /// An item that is defined in a module's file.
    Item(ModulePath),
}

impl Graph {
    /// Reads the crate whose root file is `root`.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or parsed, or a module has no file.
    pub fn read(root: &Path) -> Result<Self, Failure> {
        let mut graph = Graph { modules: BTreeMap::new(), files: BTreeMap::new(), imports: BTreeMap::new() };
        let folder = root.parent().unwrap_or(Path::new("")).to_owned();
        graph.read_module(&folder, Vec::new(), root)?;
        graph.connect();
        Ok(graph)
    }

    /// The number of files.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The number of pairs of files of which the first imports from the second.
    pub fn import_count(&self) -> usize {
        self.imports.len()
    }

    fn read_module(&mut self, folder: &Path, path: ModulePath, file: &Path) -> Result<(), Failure> {
        let text = fs::read_to_string(file).map_err(Failure::io(format!("reading {}", file.display())))?;
        let parsed = syn::parse_file(&text)
            .map_err(|source| Failure::Syntax { file: file.to_owned(), problem: source.to_string() })?;
        let module = ModuleFile::read(&parsed);
        for child in &module.children {
            let mut child_path = path.clone();
            child_path.push(child.clone());
            let stem = folder.join(child_path.iter().collect::<PathBuf>());
            let (flat, nested) = (stem.with_extension("rs"), stem.join("mod.rs"));
            let child_file = if flat.is_file() { flat } else { nested };
            // A module with `#[path]` or made by a build script is not read.
            if child_file.is_file() {
                self.read_module(folder, child_path, &child_file)?;
            }
        }
        let shown = file.strip_prefix(folder).unwrap_or(file).to_string_lossy().replace('\\', "/");
        self.files.insert(path.clone(), shown);
        self.modules.insert(path, module);
        Ok(())
    }

    /// Follows every path of every file to the file that defines what it names.
    fn connect(&mut self) {
        let mut imports = BTreeMap::new();
        for (from, module) in &self.modules {
            let declared =
                module.aliases.iter().filter(|(name, path)| !self.is_pure_reexport(from, name, path));
            let declared = declared.map(|(_, path)| path);
            let globs = module.globs.iter();
            for path in declared.chain(globs).chain(&module.paths) {
                if let Some(Target::Item(to)) = self.resolve(from, path, 0)
                    && to != *from
                {
                    imports.entry((from.clone(), to)).or_insert_with(|| path.clone());
                }
            }
        }
        self.imports = imports;
    }

    /// Whether a `pub use` hands on an item of a module below and does nothing else.
    fn is_pure_reexport(&self, from: &ModulePath, name: &str, path: &PathSegments) -> bool {
        self.modules[from].reexports.contains(name)
            && matches!(self.resolve(from, path, 0), Some(Target::Item(to)) if to.starts_with(from))
    }

    /// What `path` names when it stands in the module `from`; `None` for other crates, primitives and local names.
    fn resolve(&self, from: &ModulePath, path: &[String], depth: usize) -> Option<Target> {
        if depth > MAX_REEXPORTS {
            return None;
        }
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.descend(Vec::new(), rest, depth),
            "self" => self.descend(from.clone(), rest, depth),
            "super" => {
                let mut parent = from.clone();
                parent.pop()?;
                // `super::super::x`: the rest is resolved from the parent.
                if rest.first().is_some_and(|next| next == "super") {
                    return self.resolve(&parent, rest, depth + 1);
                }
                self.descend(parent, rest, depth)
            }
            _ => {
                let module = self.modules.get(from)?;
                let is_named = module.children.contains(first) || module.aliases.contains_key(first);
                // `use rtrb::X` in a file is an alias of X that begins with another crate's name.
                let is_self = module.aliases.get(first).is_some_and(|aliased| aliased.first() == Some(first));
                if is_named && !is_self { self.descend(from.clone(), path, depth) } else { None }
            }
        }
    }

    /// Follows the rest of a path downwards from the module `at`.
    fn descend(&self, at: ModulePath, rest: &[String], depth: usize) -> Option<Target> {
        let Some((name, rest)) = rest.split_first() else { return Some(Target::Module(at)) };
        let module = self.modules.get(&at)?;
        if module.children.contains(name) {
            let mut child = at;
            child.push(name.clone());
            return self.descend(child, rest, depth);
        }
        if module.items.contains(name) {
            return Some(Target::Item(at));
        }
        if let Some(aliased) = module.aliases.get(name) {
            return match self.resolve(&at, aliased, depth + 1)? {
                Target::Module(module) if !rest.is_empty() => self.descend(module, rest, depth + 1),
                target => Some(target),
            };
        }
        let through_globs =
            module.globs.iter().filter_map(|glob| match self.resolve(&at, glob, depth + 1)? {
                Target::Module(module) if module != at => {
                    self.descend(module, std::slice::from_ref(name), depth + 1)
                }
                _ => None,
            });
        through_globs.into_iter().next()
    }

    /// The circles, each with a shortest way round.
    pub fn circles(&self) -> Vec<Circle> {
        let index: Vec<&ModulePath> = self.files.keys().collect();
        let number: BTreeMap<&ModulePath, usize> =
            index.iter().enumerate().map(|(at, path)| (*path, at)).collect();
        let edges = self.imports.keys().map(|(from, to)| (number[from], number[to]));
        let graph = DiGraphMap::<usize, ()>::from_edges(edges);
        let mut circles = Vec::new();
        for component in tarjan_scc(&graph).into_iter().filter(|component| component.len() > 1) {
            let members: BTreeSet<usize> = component.into_iter().collect();
            let mut files: Vec<_> = members.iter().map(|&member| self.files[index[member]].clone()).collect();
            files.sort();
            let steps = shortest_circle(&graph, &members).into_iter().map(|(from, to)| Import {
                from: self.files[index[from]].clone(),
                to: self.files[index[to]].clone(),
                path: self.imports[&(index[from].clone(), index[to].clone())].join("::"),
            });
            circles.push(Circle { files, steps: steps.collect() });
        }
        circles.sort_by(|a, b| a.files.cmp(&b.files));
        circles
    }
}

/// The edges of a shortest circle among `members`, which are strongly connected: a breadth-first search from each.
fn shortest_circle(graph: &DiGraphMap<usize, ()>, members: &BTreeSet<usize>) -> Vec<(usize, usize)> {
    let mut shortest: Vec<(usize, usize)> = Vec::new();
    for &start in members {
        let mut previous = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        'search: while let Some(at) = queue.pop_front() {
            for next in graph.neighbors(at).filter(|next| members.contains(next)) {
                if next == start {
                    let mut circle = vec![(at, start)];
                    let mut back = at;
                    while let Some(&before) = previous.get(&back) {
                        circle.push((before, back));
                        back = before;
                    }
                    circle.reverse();
                    if shortest.is_empty() || circle.len() < shortest.len() {
                        shortest = circle;
                    }
                    break 'search;
                }
                if next != start && !previous.contains_key(&next) {
                    previous.insert(next, at);
                    queue.push_back(next);
                }
            }
        }
    }
    shortest
}
