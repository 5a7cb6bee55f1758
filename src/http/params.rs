//! Query parameters, read strictly: what is not known is refused with the list of what is.

use super::error::{ApiError, allowed};
use crate::domain::Timestamp;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The windows and their lengths in milliseconds; `None` is all of history.
const WINDOWS: &[(&str, Option<i64>)] = &[("24h", Some(DAY_MS)), ("7d", Some(7 * DAY_MS)), ("all", None)];

/// Which part of history is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Its name.
    pub(super) name: &'static str,
    /// Where it begins; `None` is all of history.
    pub(super) from: Option<Timestamp>,
}

/// The parameters of one request, each at most once.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads a query string.
    pub(super) fn parse(query: &str, known: &[&str]) -> Result<Self, ApiError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            // What is not UTF-8 is decoded to this character, which no parameter has a use for.
            if name.contains(char::REPLACEMENT_CHARACTER) || value.contains(char::REPLACEMENT_CHARACTER) {
                return Err(ApiError::bad_request("invalid_encoding", "parameters are UTF-8, percent-encoded"));
            }
            if !known.contains(&name.as_ref()) {
                return Err(ApiError::bad_request("unknown_parameter", parameter_list(&name, known))
                    .with("allowed", allowed(known)));
            }
            if pairs.iter().any(|(seen, _)| *seen == name) {
                return Err(ApiError::bad_request("duplicate_parameter", format!("{name} is given more than once")));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    /// The value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// All parameters, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// One of a list of names.
    pub(super) fn choice<T: Copy>(
        &self,
        name: &'static str,
        code: &'static str,
        choices: &[(&'static str, T)],
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match choices.iter().find(|(choice, _)| *choice == value) {
            Some((_, chosen)) => Ok(Some(*chosen)),
            None => {
                let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
                Err(ApiError::bad_request(code, format!("{name} must be one of {}", names.join(", ")))
                    .with("allowed", allowed(&names)))
            }
        }
    }

    /// A whole number from `least` to `most`.
    pub(super) fn int(
        &self,
        name: &'static str,
        code: &'static str,
        (least, most): (u64, u64),
    ) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let is_digits = !value.is_empty() && value.bytes().all(|digit| digit.is_ascii_digit());
        match value.parse::<u64>() {
            Ok(number) if is_digits && (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::bad_request(code, format!("{name} must be a whole number from {least} to {most}"))),
        }
    }

    /// A moment.
    pub(super) fn ts(&self, name: &'static str, code: &'static str) -> Result<Option<Timestamp>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        Timestamp::parse(value).map(Some).ok_or_else(|| {
            ApiError::bad_request(code, format!("{name} must be a moment such as 2026-04-24T10:00:00.123Z"))
        })
    }

    /// The window, which ends at `now`.
    pub(super) fn window(&self, now: Timestamp) -> Result<Window, ApiError> {
        let named: Vec<_> = WINDOWS.iter().map(|&(name, length)| (name, (name, length))).collect();
        let (name, length) = self.choice("window", "unknown_window", &named)?.unwrap_or(("all", None));
        Ok(Window { name, from: length.map(|length| Timestamp::from_millis(now.millis() - length)) })
    }

    /// A text that fits a pattern.
    pub(super) fn fitting(
        &self,
        name: &'static str,
        code: &'static str,
        fits: fn(&str) -> bool,
    ) -> Result<Option<String>, ApiError> {
        match self.get(name) {
            Some(value) if !fits(value) => {
                Err(ApiError::bad_request(code, format!("{name} has characters that no {name} can have, or too many")))
            }
            value => Ok(value.map(str::to_owned)),
        }
    }
}

fn parameter_list(name: &str, known: &[&str]) -> String {
    let name: String = name.chars().take(64).collect();
    if known.is_empty() {
        format!("there is no parameter {name:?} here; it takes none")
    } else {
        format!("there is no parameter {name:?} here; it takes {}", known.join(", "))
    }
}
