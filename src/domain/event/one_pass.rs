//! The usual line in one pass: `event` stands before whatever is the event's own, and nothing is wrong with the line.
//!
//! It takes nothing that two passes would refuse, and reads it as they do; of everything else it says nothing, so that each
//! refusal has one wording.

use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, MapAccessDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::{Event, EventBody, moved};
use crate::domain::{Timestamp, id};

/// The event, or `None`: read it in two passes.
pub(super) fn read(text: &str) -> Option<Event<'_>> {
    serde_json::from_str(text).ok().map(|Usual(event)| event)
}

struct Usual<'a>(Event<'a>);

impl<'de> Deserialize<'de> for Usual<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UsualVisitor)
    }
}

struct UsualVisitor;

impl<'de> Visitor<'de> for UsualVisitor {
    type Value = Usual<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a usual event")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members { map, ts: None, run_id: None };
        let event = match members.next_name()? {
            Some("event") => members.map.next_value::<&str>()?,
            _ => return Err(unusual()),
        };
        let body = match event {
            "run_start" => EventBody::RunStart(members.rest()?),
            "node_transition" => EventBody::NodeTransition(moved(members.rest()?).map_err(A::Error::custom)?),
            "node_attempt" => EventBody::NodeAttempt(members.rest()?),
            "run_end" => EventBody::RunEnd(members.rest()?),
            "agent_run_start" => EventBody::AgentRunStart(members.rest()?),
            "agent_transition" => EventBody::AgentTransition(members.rest()?),
            "tool_invocation" => EventBody::ToolInvocation(members.rest()?),
            "audit_checkpoint" => EventBody::AuditCheckpoint(members.rest()?),
            "agent_run_end" => EventBody::AgentRunEnd(members.rest()?),
            "" => return Err(unusual()),
            _ => {
                members.rest::<IgnoredAny>()?;
                if event == "heartbeat" { EventBody::Heartbeat } else { EventBody::Unknown(event.into()) }
            }
        };
        let ts = members.ts.and_then(Timestamp::parse).ok_or_else(unusual)?;
        let run_id = members.run_id.filter(|text| id::is_run_id(text)).ok_or_else(unusual)?;
        Ok(Usual(Event { ts, run_id: run_id.into(), body }))
    }
}

fn unusual<E: Error>() -> E {
    E::custom("unusual")
}

/// The members of a line but `ts` and `run_id`, which are kept aside wherever they stand.
struct Members<'de, A> {
    map: A,
    ts: Option<&'de str>,
    run_id: Option<&'de str>,
}

impl<'de, A: MapAccess<'de>> Members<'de, A> {
    fn next_name(&mut self) -> Result<Option<&'de str>, A::Error> {
        loop {
            let slot = match self.map.next_key::<&str>()? {
                Some("ts") => &mut self.ts,
                Some("run_id") => &mut self.run_id,
                other => return Ok(other),
            };
            if slot.replace(self.map.next_value::<&str>()?).is_some() {
                return Err(unusual());
            }
        }
    }

    /// All that stands behind `event`.
    fn rest<T: Deserialize<'de>>(&mut self) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(self))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for &mut Members<'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.next_name()? {
            None => Ok(None),
            Some("event") => Err(unusual()),
            Some(name) => seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}
