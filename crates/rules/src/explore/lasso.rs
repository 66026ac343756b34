//! Search for an endless run in which every thread goes on and yet nothing is reached.
//!
//! The run is a lasso: a path, then a cycle. Fair means weakly fair: a thread that could always
//! take a step takes one, so that "the other CPU was never scheduled" is no counterexample. A
//! strongly connected component without the goal holds such a cycle exactly if each thread moves in
//! it or is blocked somewhere in it; larger components only make that easier, so maximal ones
//! suffice.

use std::collections::{HashMap, HashSet, VecDeque};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use super::{Line, Move, Protocol, Trace};

struct Graph<S> {
    /// States in which the goal is not reached yet; an edge is a step and its thread.
    net: DiGraph<S, Move<S>>,
    /// Threads that can take a step in a state, to states with the goal included.
    enabled: Vec<HashSet<&'static str>>,
    /// The step by which breadth-first search first came to a state.
    came_by: Vec<Option<(NodeIndex, Move<S>)>>,
}

/// The trace of an endless fair run that never has what [`Protocol::reached`] asks for, if any.
pub(crate) fn fair_endless_run<P: Protocol>(protocol: &P) -> Option<Trace> {
    if protocol
        .init()
        .iter()
        .any(|state| protocol.reached(state).is_none())
    {
        return None;
    }
    let graph = build(protocol);
    let threads: HashSet<_> = graph.enabled.iter().flatten().copied().collect();
    let component = kosaraju_scc(&graph.net)
        .into_iter()
        .map(|nodes| nodes.into_iter().collect::<HashSet<_>>())
        .filter(|nodes| is_fair(&graph, nodes, &threads))
        .min_by_key(|nodes| nodes.iter().map(|node| stem(&graph, *node).1.len()).min())?;
    let entry = *component
        .iter()
        .min_by_key(|node| (stem(&graph, **node).1.len(), node.index()))?;
    let (root, mut lines) = stem(&graph, entry);
    let repeats_from = Some(lines.len());
    lines.extend(cycle(&graph, &component, entry, &threads));
    let start = graph.net[root].to_string();
    let goal = protocol.goal();
    let wrong =
        format!("livelock: every thread goes on for ever, and never does it come to: {goal}");
    Some(Trace {
        start,
        lines,
        repeats_from,
        wrong,
    })
}

fn build<P: Protocol>(protocol: &P) -> Graph<P::State> {
    let mut graph = Graph {
        net: DiGraph::new(),
        enabled: Vec::new(),
        came_by: Vec::new(),
    };
    let mut known = HashMap::new();
    let mut open = VecDeque::new();
    for state in protocol.init() {
        let node = graph.net.add_node(state.clone());
        graph.came_by.push(None);
        known.insert(state, node);
        open.push_back(node);
    }
    while let Some(node) = open.pop_front() {
        let moves = protocol.moves_of(&graph.net[node]);
        graph
            .enabled
            .push(moves.iter().map(|step| step.thread).collect());
        for step in moves {
            if protocol.reached(&step.to) == Some(true) {
                continue;
            }
            let to = *known.entry(step.to.clone()).or_insert_with(|| {
                let to = graph.net.add_node(step.to.clone());
                graph.came_by.push(Some((node, step.clone())));
                open.push_back(to);
                to
            });
            graph.net.add_edge(node, to, step);
        }
    }
    graph
}

fn is_fair<S>(
    graph: &Graph<S>,
    nodes: &HashSet<NodeIndex>,
    threads: &HashSet<&'static str>,
) -> bool {
    let inner = |node: NodeIndex| {
        graph
            .net
            .edges(node)
            .filter(|e| nodes.contains(&e.target()))
    };
    nodes.iter().any(|node| inner(*node).next().is_some())
        && threads.iter().all(|thread| {
            nodes.iter().any(|node| {
                !graph.enabled[node.index()].contains(thread)
                    || inner(*node).any(|edge| edge.weight().thread == *thread)
            })
        })
}

/// The first state and the lines of a shortest path to the node.
fn stem<S: std::fmt::Display>(graph: &Graph<S>, node: NodeIndex) -> (NodeIndex, Vec<Line>) {
    let (mut at, mut lines) = (node, Vec::new());
    while let Some((from, step)) = &graph.came_by[at.index()] {
        lines.push(line(step));
        at = *from;
    }
    lines.reverse();
    (at, lines)
}

/// A cycle through `entry` in which each thread moves, or passes a state in which it cannot.
fn cycle<S: std::fmt::Display>(
    graph: &Graph<S>,
    nodes: &HashSet<NodeIndex>,
    entry: NodeIndex,
    threads: &HashSet<&'static str>,
) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut at = entry;
    let mut satisfied: HashSet<&str> = HashSet::new();
    let mut ordered: Vec<_> = threads.iter().copied().collect();
    ordered.sort_unstable();
    for thread in ordered {
        if satisfied.contains(thread) || !graph.enabled[at.index()].contains(thread) {
            continue;
        }
        let blocked = |node: NodeIndex| !graph.enabled[node.index()].contains(thread);
        let path = walk(graph, nodes, at, |step, to| {
            step.thread == thread || blocked(to)
        });
        for (step, to) in path {
            satisfied.insert(step.thread);
            lines.push(line(step));
            at = to;
        }
    }
    if at != entry || lines.is_empty() {
        let back = walk(graph, nodes, at, |_, to| to == entry);
        lines.extend(back.into_iter().map(|(step, _)| line(step)));
    }
    lines
}

/// A shortest path inside the component whose last step satisfies `last`.
fn walk<'g, S>(
    graph: &'g Graph<S>,
    nodes: &HashSet<NodeIndex>,
    from: NodeIndex,
    last: impl Fn(&Move<S>, NodeIndex) -> bool,
) -> Vec<(&'g Move<S>, NodeIndex)> {
    let mut paths = VecDeque::from([(from, Vec::new())]);
    let mut seen = HashSet::from([from]);
    while let Some((node, path)) = paths.pop_front() {
        for edge in graph
            .net
            .edges(node)
            .filter(|edge| nodes.contains(&edge.target()))
        {
            let mut longer: Vec<(&'g Move<S>, NodeIndex)> = path.clone();
            longer.push((edge.weight(), edge.target()));
            if last(edge.weight(), edge.target()) {
                return longer;
            }
            if seen.insert(edge.target()) {
                paths.push_back((edge.target(), longer));
            }
        }
    }
    Vec::new()
}

fn line<S: std::fmt::Display>(step: &Move<S>) -> Line {
    Line {
        thread: step.thread.to_owned(),
        does: step.does.clone().into_owned(),
        state: step.to.to_string(),
    }
}
