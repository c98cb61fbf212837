//! `mesh-agent doctor`: what of this host would keep an agent from its work, each with what to do.
//!
//! [`gather()`] looks and changes nothing; [`judge()`] says what that means and looks at nothing. `docs/doctor.md` lists the
//! checks.

mod facts;
mod finding;
mod gather;
mod judge;
mod proc;
#[cfg(test)]
mod tests;

pub use facts::{Bpf, Clock, Facts, Held, Listening, Need, Probed, Wanted};
pub use finding::{Finding, Level};
pub use gather::gather;
pub use judge::judge;
