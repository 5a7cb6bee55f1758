//! How a field is read: strictly, so that nothing of another type slips in. An optional field may be absent, not null.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::{MAX_INT, id};

/// A string that borrows from its line where it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text<'a>(Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for TextVisitor<'a> {
            type Value = Text<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor(PhantomData))
    }
}

/// A struct that is read from an object only (serde would take an array too).
#[derive(Debug, Clone, Copy)]
pub struct Obj<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Obj<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjVisitor<T> {
            type Value = Obj<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Obj)
            }
        }
        deserializer.deserialize_map(ObjVisitor(PhantomData))
    }
}

/// An optional field that is there: null is ill-typed.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// A JSON integer from 0 to 2^53 - 1.
pub(super) fn int<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    let value = u64::deserialize(d)?;
    if value > MAX_INT {
        return Err(D::Error::custom("an integer over 2^53 - 1"));
    }
    Ok(value)
}

/// An optional integer.
pub(super) fn opt_int<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    int(d).map(Some)
}

/// An integer from 1.
pub(super) fn positive<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    match int(d)? {
        0 => Err(D::Error::custom("must be at least 1")),
        value => Ok(value),
    }
}

/// A finite number.
pub(super) fn opt_number<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    f64::deserialize(d).map(Some)
}

/// Seconds, at least 0.
pub(super) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(d)?;
    if value < 0.0 {
        return Err(D::Error::custom("a duration below 0"));
    }
    // -0.0 is a duration of nothing.
    Ok(value.abs())
}

pub(super) fn opt_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    duration(d).map(Some)
}

/// A score from 0 to 1.
pub(super) fn opt_score<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    let value = f64::deserialize(d)?;
    if !(0.0..=1.0).contains(&value) {
        return Err(D::Error::custom("a score outside 0 to 1"));
    }
    Ok(Some(value.abs()))
}

/// A JSON object, as it was written.
pub(super) fn opt_object<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Option<&'a RawValue>, D::Error> {
    let raw = <&RawValue>::deserialize(d)?;
    if raw.get().starts_with('{') { Ok(Some(raw)) } else { Err(D::Error::custom("evidence must be an object")) }
}

fn fitting<'de: 'a, 'a, D: Deserializer<'de>>(d: D, fits: fn(&str) -> bool, what: &str) -> Result<Text<'a>, D::Error> {
    let text = Text::deserialize(d)?;
    if fits(&text) { Ok(text) } else { Err(D::Error::custom(format_args!("not a valid {what}"))) }
}

pub(super) fn run_id<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Text<'a>, D::Error> {
    fitting(d, id::is_run_id, "run_id")
}

pub(super) fn node_id<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Text<'a>, D::Error> {
    fitting(d, id::is_node_id, "node_id")
}

pub(super) fn opt_node_id<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Option<Text<'a>>, D::Error> {
    node_id(d).map(Some)
}

pub(super) fn agent_id<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Text<'a>, D::Error> {
    fitting(d, id::is_agent_id, "agent_id")
}

pub(super) fn checkpoint_id<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Text<'a>, D::Error> {
    fitting(d, id::is_checkpoint_id, "checkpoint_id")
}

/// The one field that may be null.
pub(super) fn nullable_agent_id<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Option<Text<'a>>, D::Error> {
    match Option::<Text<'a>>::deserialize(d)? {
        Some(text) if !id::is_agent_id(&text) => Err(D::Error::custom("not a valid agent_id")),
        text => Ok(text),
    }
}
