//! graph.json as it stands in the file. Texts are borrowed from it, and what no graph has is read and let go of: as a tree of
//! JSON values a file of 8 MiB would take hundreds.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::domain::MAX_GRAPH_NODES;

/// The members that a graph or a node may have; others are left out.
const NAMES: [&str; 10] = [
    "version",
    "nodes",
    "id",
    "deliverable",
    "depends_on",
    "touches",
    "parallel_safe",
    "done_when",
    "max_ralph_iters",
    "estimated_loc",
];

/// A JSON value, as far as a graph has use for it.
pub(super) enum Part<'a> {
    Text(Cow<'a, str>),
    Bool(bool),
    Int(u64),
    List(List<'a>),
    Object(Fields<'a>),
    Other,
}

/// What is in a list, by sort.
#[derive(Default)]
pub(super) struct List<'a> {
    /// How long it is.
    pub(super) len: usize,
    /// Its texts, in their order.
    pub(super) texts: Vec<Cow<'a, str>>,
    /// Its objects, with their places: as many as there may be nodes.
    pub(super) objects: Vec<(usize, Fields<'a>)>,
}

/// The members of an object that a graph or a node may have. Of two with one name the last one counts.
#[derive(Default)]
pub(super) struct Fields<'a>(Vec<(&'static str, Part<'a>)>);

impl<'a> Part<'a> {
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn bool(self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(value) } else { None }
    }
}

impl<'a> Fields<'a> {
    /// The member of this name; there is none afterwards.
    pub(super) fn take(&mut self, name: &str) -> Option<Part<'a>> {
        let at = self.0.iter().position(|(has, _)| *has == name)?;
        Some(self.0.swap_remove(at).1)
    }

    fn put(&mut self, name: &'static str, part: Part<'a>) {
        self.take(name);
        self.0.push((name, part));
    }

    /// What a node may have: no object is of use below it.
    fn of_node(mut self) -> Self {
        for (_, part) in &mut self.0 {
            if let Part::List(list) = part {
                list.objects = Vec::new();
            }
        }
        self
    }
}

impl<'de> Deserialize<'de> for Part<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By no narrower method: whatever is let go of has to be JSON in every detail all the same.
        deserializer.deserialize_any(AnyPart)
    }
}

struct AnyPart;

impl<'de> Visitor<'de> for AnyPart {
    type Value = Part<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Part<'de>, E> {
        Ok(Part::Other)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Part<'de>, E> {
        Ok(Part::Bool(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Part<'de>, E> {
        Ok(Part::Other)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Part<'de>, E> {
        Ok(Part::Int(value))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Part<'de>, E> {
        Ok(Part::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Part<'de>, E> {
        Ok(Part::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Part<'de>, E> {
        Ok(Part::Text(Cow::Borrowed(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Part<'de>, A::Error> {
        let mut list = List::default();
        while let Some(part) = items.next_element()? {
            match part {
                Part::Text(text) => list.texts.push(text),
                Part::Object(fields) if list.len < MAX_GRAPH_NODES => list.objects.push((list.len, fields.of_node())),
                _ => {}
            }
            list.len += 1;
        }
        Ok(Part::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Part<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some((name, part)) = members.next_entry::<Part<'de>, Part<'de>>()? {
            let known = name.text().and_then(|name| NAMES.into_iter().find(|known| *known == name));
            match (known, part) {
                // No member of a graph or a node is an object.
                (Some(name), Part::Object(_)) => fields.put(name, Part::Other),
                (Some(name), part) => fields.put(name, part),
                (None, _) => {}
            }
        }
        Ok(Part::Object(fields))
    }
}
