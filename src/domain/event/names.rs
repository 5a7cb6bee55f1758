//! The names that the contract fixes: statuses, outcomes, results.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Text;

/// An enum whose JSON is one of a fixed list of strings, and nothing else.
macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$variant_doc])* $variant),+ }

        impl $type {
            /// Every name, in the contract's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name as it stands in JSON.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The value of this name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = Text::deserialize(deserializer)?;
                Self::parse(&name).ok_or_else(|| {
                    serde::de::Error::unknown_variant(&name, &[$($name),+])
                })
            }
        }
    };
}

names! {
    /// What a run is, by its first start event.
    Kind {
        /// A run of a DAG.
        Ci = "ci",
        /// A run of one agent.
        Agent = "agent",
    }
}

names! {
    /// Where a node stands.
    NodeStatus {
        /// Its dependencies are not done.
        Pending = "pending",
        /// It may start.
        Ready = "ready",
        /// It is being worked on.
        Running = "running",
        /// Its checks converged.
        Done = "done",
        /// It gave up.
        Failed = "failed",
        /// An ancestor failed.
        Blocked = "blocked",
    }
}

names! {
    /// How a CI run ended.
    Outcome {
        /// Every node done, no retry.
        Clean = "clean",
        /// Every node done, at least one after a retry.
        CleanWithFlake = "clean_with_flake",
        /// Some nodes done, some not.
        Partial = "partial",
        /// No node done.
        Stuck = "stuck",
        /// The producer itself broke; only ever declared.
        Catastrophic = "catastrophic",
    }
}

names! {
    /// Where an agent stands.
    AgentStatus {
        /// It thinks.
        Thinking = "thinking",
        /// It calls a tool.
        ToolCall = "tool_call",
        /// It reads a tool's result.
        ToolResult = "tool_result",
        /// It answers.
        Response = "response",
        /// It looks back.
        Reflect = "reflect",
        /// It waits for an answer to a question.
        BlockedOnClarification = "blocked-on-clarification",
        /// It is done.
        Converged = "converged",
        /// It gave up.
        Failed = "failed",
    }
}

names! {
    /// How an agent run ended.
    AgentOutcome {
        /// It did what it was asked.
        Converged = "converged",
        /// It did some of it.
        Partial = "partial",
        /// It left the bounds it was given, and was stopped.
        Escaped = "escaped",
        /// It was stopped or died from outside.
        Aborted = "aborted",
    }
}

names! {
    /// What an audit found.
    AuditResult {
        /// All well.
        Pass = "pass",
        /// A breach.
        Fail = "fail",
        /// Undecided.
        Warn = "warn",
    }
}
