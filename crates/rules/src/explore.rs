//! Exhaustive exploration of a protocol, and the trace of a fault.
//!
//! A model says which moves are possible in a state; this file visits every state that they reach.
//! Safety and deadlock are stateright's breadth-first checker: with one thread its first
//! counterexample is a shortest one, and its count of unique states is exact (up to a collision of
//! 64-bit fingerprints). "Eventually" is not: stateright looks for it on paths that end, and misses
//! cycles, so [`lasso`] searches for a fair endless run itself.

mod lasso;

use std::borrow::Cow;
use std::fmt::{self, Debug, Display};
use std::hash::Hash;

use serde::Serialize;
use stateright::{Checker, Model, Path, Property};

pub(crate) use lasso::fair_endless_run;

/// One step of one thread, in a kernel developer's words, and the state after it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Move<S> {
    pub(crate) thread: &'static str,
    pub(crate) does: Cow<'static, str>,
    pub(crate) to: S,
}

/// The moves possible in one state; models append to it.
pub(crate) struct Moves<S>(pub(crate) Vec<Move<S>>);

impl<S> Moves<S> {
    pub(crate) fn add(&mut self, thread: &'static str, does: impl Into<Cow<'static, str>>, to: S) {
        self.0.push(Move {
            thread,
            does: does.into(),
            to,
        });
    }
}

/// A protocol: threads over a shared state.
pub(crate) trait Protocol: Send + Sync + Sized + 'static {
    type State: Clone + Debug + Display + Hash + Eq + Send + Sync + 'static;

    /// Initial states; several for several layouts.
    fn init(&self) -> Vec<Self::State>;

    /// Every step that some thread can take now.
    fn moves(&self, state: &Self::State, moves: &mut Moves<Self::State>);

    /// The fault of the state, if any.
    fn violated(&self, state: &Self::State) -> Option<&'static str>;

    /// Whether all threads may stop here. Anywhere else, no move means deadlock.
    fn finished(&self, state: &Self::State) -> bool;

    /// Which thread waits for what: the end of a deadlock's trace.
    fn waiting(&self, _state: &Self::State) -> Vec<String> {
        Vec::new()
    }

    /// What every run must reach in which each thread goes on: `None` if nothing.
    fn reached(&self, _state: &Self::State) -> Option<bool> {
        None
    }

    /// The same in words.
    fn goal(&self) -> &'static str {
        "all have finished"
    }

    fn moves_of(&self, state: &Self::State) -> Vec<Move<Self::State>> {
        let mut moves = Moves(Vec::new());
        self.moves(state, &mut moves);
        moves.0
    }
}

/// One line of a counterexample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The thread that takes the step.
    pub thread: String,
    /// The step.
    pub does: String,
    /// The state after it.
    pub state: String,
}

/// A counterexample: the steps that lead from the start to the fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// The state before the first line.
    pub start: String,
    /// The steps, in the order in which they happen.
    pub lines: Vec<Line>,
    /// For an endless run: the line from which it repeats.
    pub repeats_from: Option<usize>,
    /// The fault after the last line.
    pub wrong: String,
}

impl Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |part: fn(&Line) -> &str, least: usize| {
            self.lines
                .iter()
                .map(|line| part(line).chars().count())
                .max()
                .unwrap_or(0)
                .max(least)
        };
        let thread = width(|line| &line.thread, 6);
        let does = width(|line| &line.does, 4);
        writeln!(f, "  #  {:thread$}  {:does$}  state", "thread", "step")?;
        writeln!(f, "  -  {:thread$}  {:does$}  {}", "-", "start", self.start)?;
        for (number, line) in self.lines.iter().enumerate() {
            if self.repeats_from == Some(number) {
                writeln!(f, "     from here on for ever:")?;
            }
            let Line {
                thread: who,
                does: what,
                state,
            } = line;
            writeln!(f, "{:>3}  {who:thread$}  {what:does$}  {state}", number + 1)?;
        }
        write!(f, "WRONG: {}", self.wrong)
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Distinct states of the whole system (stateright).
    States,
    /// Executions: interleavings times what each load may return (loom).
    Executions,
}

/// The result of exploring one variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exploration {
    /// States or executions visited. For a failing protocol: until the first counterexample.
    pub visited: u64,
    /// What `visited` counts.
    pub unit: Unit,
    /// Longest shortest path to a state; 0 where that means nothing.
    pub depth: usize,
    /// What went wrong; `None` means that the whole space was visited and nothing did.
    pub counterexample: Option<Trace>,
}

const HOLDS: &str = "invariant holds and no thread is stuck";

struct Checked<P>(P);

impl<P: Protocol> Checked<P> {
    fn stuck(&self, state: &P::State) -> bool {
        !self.0.finished(state) && self.0.moves_of(state).is_empty()
    }

    fn wrong(&self, state: &P::State) -> Option<String> {
        if let Some(violated) = self.0.violated(state) {
            return Some(violated.to_owned());
        }
        self.stuck(state)
            .then(|| match self.0.waiting(state).join(", ") {
                waiting if waiting.is_empty() => "deadlock: no thread can take a step".to_owned(),
                waiting => format!("deadlock: {waiting}"),
            })
    }

    fn holds(&self, state: &P::State) -> bool {
        self.0.violated(state).is_none() && !self.stuck(state)
    }
}

impl<P: Protocol> Model for Checked<P> {
    type State = P::State;
    type Action = Move<P::State>;

    fn init_states(&self) -> Vec<P::State> {
        self.0.init()
    }

    fn actions(&self, state: &P::State, actions: &mut Vec<Move<P::State>>) {
        let mut moves = Moves(std::mem::take(actions));
        self.0.moves(state, &mut moves);
        *actions = moves.0;
    }

    fn next_state(&self, _last: &P::State, action: Move<P::State>) -> Option<P::State> {
        Some(action.to)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(HOLDS, Self::holds)]
    }
}

/// Visits every state of the protocol, or as many as it takes to find the first that is wrong.
pub(crate) fn explore<P: Protocol>(protocol: P) -> Exploration {
    let checker = Checked(protocol).checker().threads(1).spawn_bfs().join();
    let found = checker
        .discovery(HOLDS)
        .map(|path| trace_of(checker.model(), path));
    let unending = || fair_endless_run(&checker.model().0);
    Exploration {
        visited: checker.unique_state_count() as u64,
        unit: Unit::States,
        depth: checker.max_depth(),
        counterexample: found.or_else(unending),
    }
}

fn trace_of<P: Protocol>(model: &Checked<P>, path: Path<P::State, Move<P::State>>) -> Trace {
    let steps = path.into_vec();
    let start = steps
        .first()
        .map(|(state, _)| state.to_string())
        .unwrap_or_default();
    let wrong = steps
        .last()
        .and_then(|(state, _)| model.wrong(state))
        .unwrap_or_default();
    let lines = steps
        .into_iter()
        .filter_map(|(_, step)| step.map(line_of))
        .collect();
    Trace {
        start,
        lines,
        repeats_from: None,
        wrong: wrong.to_owned(),
    }
}

fn line_of<S: Display>(step: Move<S>) -> Line {
    Line {
        thread: step.thread.to_owned(),
        does: step.does.into_owned(),
        state: step.to.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two threads that count to three; optionally the second waits at one for an event that never
    /// comes, or steps to and fro.
    #[derive(Clone, Copy)]
    struct Toy {
        stuck: bool,
        to_and_fro: bool,
        forbidden: Option<[u8; 2]>,
    }

    #[derive(Clone, Debug, Hash, PartialEq, Eq)]
    struct Counts([u8; 2]);

    impl Display for Counts {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{:?}", self.0)
        }
    }

    impl Protocol for Toy {
        type State = Counts;

        fn init(&self) -> Vec<Counts> {
            vec![Counts([0, 0])]
        }

        fn moves(&self, state: &Counts, moves: &mut Moves<Counts>) {
            for (who, name) in ["a", "b"].into_iter().enumerate() {
                let mut to = state.clone();
                if self.to_and_fro && who == 1 {
                    to.0[1] = 1 - to.0[1];
                    moves.add(name, "to and fro", to);
                } else if to.0[who] < 3 && !(self.stuck && who == 1 && to.0[1] == 1) {
                    to.0[who] += 1;
                    moves.add(name, "counts", to);
                }
            }
        }

        fn violated(&self, state: &Counts) -> Option<&'static str> {
            (Some(state.0) == self.forbidden).then_some("forbidden")
        }

        fn finished(&self, state: &Counts) -> bool {
            state.0 == [3, 3]
        }

        fn reached(&self, state: &Counts) -> Option<bool> {
            Some(self.finished(state))
        }
    }

    const SOUND: Toy = Toy {
        stuck: false,
        to_and_fro: false,
        forbidden: None,
    };

    #[test]
    fn explore_of_sound_protocol_visits_every_state() {
        let found = explore(SOUND);
        assert_eq!((found.visited, found.counterexample), (16, None));
    }

    #[test]
    fn explore_of_violated_invariant_shows_a_shortest_path() {
        let trace = explore(Toy {
            forbidden: Some([2, 1]),
            ..SOUND
        })
        .counterexample
        .unwrap();
        assert_eq!((trace.lines.len(), trace.wrong.as_str()), (3, "forbidden"));
        assert_eq!(trace.lines[2].state, "[2, 1]");
    }

    #[test]
    fn explore_of_stuck_thread_shows_the_deadlock() {
        let trace = explore(Toy {
            stuck: true,
            ..SOUND
        })
        .counterexample
        .unwrap();
        assert_eq!(trace.lines.len(), 4);
        assert!(trace.wrong.starts_with("deadlock"), "{trace}");
    }

    #[test]
    fn explore_of_fair_cycle_shows_the_livelock_and_not_an_unfair_one() {
        let trace = explore(Toy {
            to_and_fro: true,
            ..SOUND
        })
        .counterexample
        .unwrap();
        let from = trace.repeats_from.unwrap();
        // Thread a could always count, so it must have finished before the cycle is a fair one.
        assert!(trace.lines[from].state.starts_with("[3"), "{trace}");
        assert_eq!(trace.lines.len() - from, 2);
    }
}
