//! Who listens, and what is made once for all of them.
//!
//! The room carries finished bytes; it makes no JSON. Nothing here waits for a client: a wake-up only rings its bell, and
//! the client comes for what it has not seen when it has room. Its queue is its position in a log, so what it has not
//! taken stays in the store; the pages that clients at one position take are read and written out once.
//!
//! - `seats`: how many may listen, and a client's place among them.
//! - `house`: the wake-ups of one tenant, heard once for all its clients.
//! - `pages`: shared pages of logs, within one bound of memory for the whole server.
//! - `rows`: the rows of the list as they change.
//! - `rights`: whether those who listen still may.

mod house;
mod pages;
mod rights;
mod rows;
mod seats;

pub use house::Followed;
pub use pages::{Frames, Page, RenderPage, Wanted};
pub use rows::{ListNews, Listed, RenderRows, RowNews};
pub use seats::{JoinError, Live, Seat};
